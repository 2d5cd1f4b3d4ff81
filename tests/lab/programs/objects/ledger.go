package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// event is what a watch must tell about one write: what happened to whom. The revision is the write's own, or 0 for a deletion,
// whose revision the answer to the call does not say.
type event struct {
	kind, name string
	revision   int64
}

// ledger holds what was acknowledged and what was seen, and names every difference as a fault.
//
// Invariants: a write is entered only after the API server acknowledged it; an entry is never removed. An event may be seen
// before its write is entered, since the watch may outrun the answer.
type ledger struct {
	mu      sync.Mutex
	written map[event]bool
	seen    map[event]int
	// living maps an object's name to the step of bookkeeping at which it was acknowledged; the dead are deleted from it.
	living map[string]bool
	found  []string
	last   int64
}

func newLedger() *ledger {
	return &ledger{written: map[event]bool{}, seen: map[event]int{}, living: map[string]bool{}}
}

func (l *ledger) fault(format string, values ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found = append(l.found, fmt.Sprintf(format, values...))
}

func (l *ledger) faults() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.found...)
}

func (l *ledger) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.written)
}

func (l *ledger) wrote(kind, name string, revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[event{kind, name, revision}] = true
	if kind == "ADDED" {
		l.living[name] = true
	}
}

// dies takes the object out of what lists must show, before its deletion is asked for.
func (l *ledger) dies(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.living, name)
}

// mustBeListed is what every list that begins from here on has to contain, unless it dies meanwhile.
func (l *ledger) mustBeListed() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make(map[string]bool, len(l.living))
	for name := range l.living {
		names[name] = true
	}
	return names
}

func (l *ledger) lives(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.living[name]
}

// saw enters an event; its revision must be above all before it, and it must be the first of its kind.
func (l *ledger) saw(kind, name string, revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if revision <= l.last {
		l.found = append(l.found, fmt.Sprintf("watch went back from revision %d to %d (%s %s)", l.last, revision, kind, name))
	}
	l.last = max(l.last, revision)
	if kind == "DELETED" {
		revision = 0
	}
	e := event{kind, name, revision}
	if l.seen[e]++; l.seen[e] == 2 {
		l.found = append(l.found, fmt.Sprintf("watch told twice of %s %s at revision %d", kind, name, revision))
	}
}

func (l *ledger) unseen() []event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []event
	for e := range l.written {
		if l.seen[e] == 0 {
			missing = append(missing, e)
		}
	}
	return missing
}

// awaitSeen gives the watch its last minute, then enters what it never told of as faults. Only ctx's end is an error.
func (l *ledger) awaitSeen(ctx context.Context, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for len(l.unseen()) > 0 && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, e := range l.unseen() {
		l.fault("watch never told of %s %s at revision %d", e.kind, e.name, e.revision)
	}
	return nil
}

func revisionOf(text string) int64 {
	revision, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic("a resource version that is no number: " + text)
	}
	return revision
}
