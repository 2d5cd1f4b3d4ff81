package main

import (
	"context"
	"fmt"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// watcher follows all objects from one revision on. When a connection ends it takes the next one up where the last event left
// it; a server that says that this revision is no longer there has left a gap, which is a fault.
type watcher struct {
	client              *kubernetes.Clientset
	book                *ledger
	revision            string
	events, connections int
}

func (w *watcher) begin(ctx context.Context) error {
	list, err := w.client.CoreV1().ConfigMaps("").List(ctx, meta.ListOptions{LabelSelector: runLabel, Limit: 1})
	if err != nil {
		return err
	}
	if len(list.Items) > 0 {
		return fmt.Errorf("the cluster holds objects of an earlier run")
	}
	w.revision = list.ResourceVersion
	return nil
}

func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := w.client.CoreV1().ConfigMaps("").Watch(ctx, meta.ListOptions{
			LabelSelector: runLabel, ResourceVersion: w.revision, AllowWatchBookmarks: true})
		if err == nil {
			w.connections++
			err = w.follow(stream)
		}
		if errors.IsGone(err) || errors.IsResourceExpired(err) {
			w.book.fault("watch gap: revision %s is gone: %v", w.revision, err)
			return
		}
		if ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// follow reads one connection to its end; an error event becomes the error.
func (w *watcher) follow(stream watch.Interface) error {
	defer stream.Stop()
	for e := range stream.ResultChan() {
		if e.Type == watch.Error {
			return errors.FromObject(e.Object)
		}
		object, ok := e.Object.(*core.ConfigMap)
		if !ok {
			return fmt.Errorf("watch sent a %T", e.Object)
		}
		if e.Type != watch.Bookmark {
			w.events++
			w.book.saw(string(e.Type), object.Namespace+"/"+object.Name, revisionOf(object.ResourceVersion))
		}
		w.revision = object.ResourceVersion
	}
	return nil
}

// lister lists everything in pages, again and again. Each list must hold, once each, all objects acknowledged before it began.
type lister struct {
	client         *kubernetes.Clientset
	book           *ledger
	page           int
	lists, retries int
}

func (l *lister) run(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := l.once(ctx); err != nil && ctx.Err() == nil {
			l.book.fault("list: %v", err)
			return
		}
	}
}

// once makes one whole list and returns how many objects it held.
func (l *lister) once(ctx context.Context) (int, error) {
	expected := l.book.mustBeListed()
	listed := map[string]bool{}
	token, revision := "", ""
	for {
		page, err := l.onePage(ctx, token)
		if err != nil {
			return 0, err
		}
		if revision != "" && page.ResourceVersion != revision {
			l.book.fault("a list began at revision %s and went on at %s", revision, page.ResourceVersion)
		}
		revision = page.ResourceVersion
		for i := range page.Items {
			name := page.Items[i].Namespace + "/" + page.Items[i].Name
			if listed[name] {
				l.book.fault("list at revision %s holds %s twice", revision, name)
			}
			listed[name] = true
		}
		if token = page.Continue; token == "" {
			break
		}
	}
	for name := range expected {
		if !listed[name] && l.book.lives(name) {
			l.book.fault("list at revision %s lacks %s, acknowledged before", revision, name)
		}
	}
	l.lists++
	return len(listed), nil
}

// onePage insists on its page through a disturbance; only a token that the store no longer honours is an error.
func (l *lister) onePage(ctx context.Context, token string) (*core.ConfigMapList, error) {
	deadline := time.Now().Add(patience)
	for {
		attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
		page, err := l.client.CoreV1().ConfigMaps("").List(attempt, meta.ListOptions{LabelSelector: runLabel, Limit: int64(l.page), Continue: token})
		cancel()
		if err == nil {
			return page, nil
		}
		if errors.IsGone(err) || errors.IsResourceExpired(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return nil, err
		}
		l.retries++
		time.Sleep(100 * time.Millisecond)
	}
}
