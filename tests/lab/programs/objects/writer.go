package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// patience is how long one call is tried again while the cluster is disturbed.
const patience = 2 * time.Minute

// writer creates every object, then updates each tenth and deletes each twentieth.
type writer struct {
	client                             *kubernetes.Clientset
	book                               *ledger
	options                            options
	created, updated, deleted, retries atomic.Int64
}

func (w *writer) namespaceOf(i int) string {
	return fmt.Sprintf("objects-%02d", i%w.options.namespaces)
}
func (w *writer) nameOf(i int) string   { return fmt.Sprintf("object-%06d", i) }
func (w *writer) fullName(i int) string { return w.namespaceOf(i) + "/" + w.nameOf(i) }

// insist repeats a call that the disturbance cut off; what the server refuses for a reason of its own is not repeated.
func (w *writer) insist(ctx context.Context, call func(context.Context) error) error {
	deadline := time.Now().Add(patience)
	for {
		attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := call(attempt)
		cancel()
		final := errors.IsAlreadyExists(err) || errors.IsConflict(err) || errors.IsNotFound(err) || errors.IsInvalid(err) || errors.IsForbidden(err)
		if err == nil || final || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		w.retries.Add(1)
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *writer) createNamespaces(ctx context.Context) error {
	for i := range w.options.namespaces {
		space := &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: w.namespaceOf(i)}}
		err := w.insist(ctx, func(ctx context.Context) error {
			_, err := w.client.CoreV1().Namespaces().Create(ctx, space, meta.CreateOptions{})
			return err
		})
		if err != nil && !errors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (w *writer) object(i int) *core.ConfigMap {
	label, value, _ := strings.Cut(runLabel, "=")
	letters := make([]byte, w.options.size)
	for at := range letters {
		letters[at] = byte('a' + rand.IntN(26))
	}
	return &core.ConfigMap{
		ObjectMeta: meta.ObjectMeta{Name: w.nameOf(i), Labels: map[string]string{label: value}},
		Data:       map[string]string{"letters": string(letters)},
	}
}

func (w *writer) create(ctx context.Context, i int) error {
	maps := w.client.CoreV1().ConfigMaps(w.namespaceOf(i))
	object, cutOff := w.object(i), false
	var stored *core.ConfigMap
	err := w.insist(ctx, func(ctx context.Context) (err error) {
		stored, err = maps.Create(ctx, object, meta.CreateOptions{})
		if errors.IsAlreadyExists(err) && cutOff {
			// an earlier attempt got through and only its answer was lost
			stored, err = maps.Get(ctx, object.Name, meta.GetOptions{})
		}
		cutOff = err != nil
		return err
	})
	if err != nil {
		return fmt.Errorf("create %s: %w", w.fullName(i), err)
	}
	if stored.Data["letters"] != object.Data["letters"] {
		w.book.fault("%s holds other bytes than were written", w.fullName(i))
	}
	w.book.wrote("ADDED", w.fullName(i), revisionOf(stored.ResourceVersion))
	w.created.Add(1)
	return nil
}

// update reads and writes back; a conflict means that an earlier attempt got through, and the next read shows it.
func (w *writer) update(ctx context.Context, i int) error {
	maps := w.client.CoreV1().ConfigMaps(w.namespaceOf(i))
	var stored *core.ConfigMap
	err := w.insist(ctx, func(ctx context.Context) (err error) {
		if stored, err = maps.Get(ctx, w.nameOf(i), meta.GetOptions{}); err != nil || stored.Data["changed"] == "yes" {
			return err
		}
		stored.Data["changed"] = "yes"
		stored, err = maps.Update(ctx, stored, meta.UpdateOptions{})
		if errors.IsConflict(err) {
			return fmt.Errorf("written meanwhile: %v", err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("update %s: %w", w.fullName(i), err)
	}
	w.book.wrote("MODIFIED", w.fullName(i), revisionOf(stored.ResourceVersion))
	w.updated.Add(1)
	return nil
}

func (w *writer) delete(ctx context.Context, i int) error {
	w.book.dies(w.fullName(i))
	cutOff := false
	err := w.insist(ctx, func(ctx context.Context) error {
		err := w.client.CoreV1().ConfigMaps(w.namespaceOf(i)).Delete(ctx, w.nameOf(i), meta.DeleteOptions{})
		if errors.IsNotFound(err) && cutOff {
			return nil
		}
		cutOff = err != nil
		return err
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", w.fullName(i), err)
	}
	w.book.wrote("DELETED", w.fullName(i), 0)
	w.deleted.Add(1)
	return nil
}

// run writes everything; disturbance number `step` is set off when its share of the objects exists, while the writers go on.
func (w *writer) run(ctx context.Context, disturb func(step int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int)
	var writers, disturber sync.WaitGroup
	for range w.options.writers {
		writers.Go(func() {
			for i := range numbers {
				if err := w.writeOne(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	steps := len(w.options.disturbances)
	due := make(chan int, steps)
	disturber.Go(func() {
		for step := range due {
			if err := disturb(step); err != nil {
				cancel(fmt.Errorf("disturbance %d: %w", step+1, err))
			}
		}
	})
	next := 0
	for i := range w.options.objects {
		if next < steps && i >= (next+1)*w.options.objects/(steps+1) {
			due <- next
			next++
		}
		select {
		case numbers <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(numbers)
	close(due)
	writers.Wait()
	disturber.Wait()
	return context.Cause(ctx)
}

func (w *writer) writeOne(ctx context.Context, i int) error {
	if err := w.create(ctx, i); err != nil {
		return err
	}
	if i%10 == 3 {
		if err := w.update(ctx, i); err != nil {
			return err
		}
	}
	if i%20 == 7 {
		return w.delete(ctx, i)
	}
	return nil
}
