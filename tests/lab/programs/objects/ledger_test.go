package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

// check plays one story into a fresh ledger and wants each named fault, and no others.
func check(t *testing.T, story func(*ledger), wanted ...string) {
	t.Helper()
	book := newLedger()
	story(book)
	if err := book.awaitSeen(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	faults := book.faults()
	if len(faults) != len(wanted) {
		t.Fatalf("wanted %d faults, got %q", len(wanted), faults)
	}
	for i, text := range wanted {
		if !strings.Contains(faults[i], text) {
			t.Errorf("fault %q does not say %q", faults[i], text)
		}
	}
}

func TestWholeStoryHasNoFault(t *testing.T) {
	check(t, func(l *ledger) {
		l.saw("ADDED", "a/b", 5) // the watch may outrun the answer
		l.wrote("ADDED", "a/b", 5)
		l.wrote("MODIFIED", "a/b", 6)
		l.saw("MODIFIED", "a/b", 6)
		l.wrote("DELETED", "a/b", 0)
		l.saw("DELETED", "a/b", 9)
	})
}

func TestLostEventIsAFault(t *testing.T) {
	check(t, func(l *ledger) {
		l.wrote("ADDED", "a/b", 5)
		l.wrote("MODIFIED", "a/b", 6)
		l.saw("ADDED", "a/b", 5)
	}, "never told of MODIFIED a/b at revision 6")
}

func TestEventOfAnotherRevisionDoesNotStandIn(t *testing.T) {
	check(t, func(l *ledger) {
		l.wrote("ADDED", "a/b", 5)
		l.saw("ADDED", "a/b", 7)
	}, "never told of ADDED a/b at revision 5")
}

func TestRepeatedEventIsAFault(t *testing.T) {
	check(t, func(l *ledger) {
		l.saw("ADDED", "a/b", 5)
		l.saw("ADDED", "a/b", 5)
	}, "went back from revision 5 to 5", "told twice of ADDED a/b")
}

func TestBackwardEventIsAFault(t *testing.T) {
	check(t, func(l *ledger) {
		l.saw("ADDED", "a/b", 5)
		l.saw("ADDED", "a/c", 4)
	}, "went back from revision 5 to 4")
}

func TestTheDyingNeedNotBeListed(t *testing.T) {
	book := newLedger()
	book.wrote("ADDED", "a/b", 5)
	book.wrote("ADDED", "a/c", 6)
	before := book.mustBeListed()
	book.dies("a/b")
	if !before["a/b"] || book.lives("a/b") || !book.lives("a/c") {
		t.Fatal("a list begun before a deletion may show the object, one begun after it may lack it")
	}
}

func TestAwaitSeenEndsWithItsContext(t *testing.T) {
	book := newLedger()
	book.wrote("ADDED", "a/b", 5)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := book.awaitSeen(ctx, time.Hour); err == nil {
		t.Fatal("a cancelled wait must say so")
	}
}
