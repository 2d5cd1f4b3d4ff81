// Command objects writes many objects through an API server, watches and lists them all the while, disturbs the cluster in the
// middle, and fails if a single acknowledged write is missing from a list or from the watch.
//
// It expects that watches and lists are answered from the store itself (the API server's watch cache switched off for
// configmaps): the cache forgets history when the API server restarts, the store may not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// runLabel marks the objects of this program, so that nothing else in the cluster is counted.
const runLabel = "objects-trial=yes"

type options struct {
	objects, namespaces, size, page, writers int
	kubeconfig                               string
	limit                                    time.Duration
	disturbances                             []string
}

func parseOptions() options {
	var o options
	flag.IntVar(&o.objects, "objects", 10000, "objects to create")
	flag.IntVar(&o.namespaces, "namespaces", 20, "namespaces they are spread over")
	flag.IntVar(&o.size, "size", 2048, "bytes of data in each")
	flag.IntVar(&o.page, "page", 500, "objects a page of a list")
	flag.IntVar(&o.writers, "writers", 16, "writers at a time")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "time for the whole run")
	flag.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "how to reach the API server")
	flag.Func("disturb", "shell command to run in the middle; given more than once they are spread over the writes", func(command string) error {
		o.disturbances = append(o.disturbances, command)
		return nil
	})
	flag.Parse()
	return o
}

func connect(kubeconfig string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// The client's own rate limit would hide what the cluster can bear.
	config.QPS = -1
	config.Timeout = 0
	return kubernetes.NewForConfig(config)
}

// disturb runs one command and lets its output through; a command that fails is a failed trial, not a loss.
func disturb(command string) error {
	fmt.Printf("%s disturbing: %s\n", time.Now().Format(time.TimeOnly), command)
	run := exec.Command("bash", "-c", command)
	run.Stdout, run.Stderr = os.Stdout, os.Stderr
	return run.Run()
}

func trial(ctx context.Context, o options) error {
	client, err := connect(o.kubeconfig)
	if err != nil {
		return err
	}
	book := newLedger()
	w := &writer{client: client, book: book, options: o}
	if err := w.createNamespaces(ctx); err != nil {
		return err
	}
	observer := &watcher{client: client, book: book}
	if err := observer.begin(ctx); err != nil {
		return err
	}
	reader := &lister{client: client, book: book, page: o.page}

	// The observers outlive the writers: they are stopped when everything written has had its time to be seen.
	observing, stop := context.WithCancel(ctx)
	defer stop()
	var observers sync.WaitGroup
	observers.Go(func() { observer.run(observing) })
	observers.Go(func() { reader.run(observing) })

	began := time.Now()
	var disturbed atomic.Int64
	failure := w.run(ctx, func(step int) error {
		disturbed.Add(1)
		return disturb(o.disturbances[step])
	})
	wrote := time.Since(began)
	if failure == nil {
		failure = book.awaitSeen(ctx, time.Minute)
	}
	stop()
	observers.Wait()
	last, err := reader.once(ctx)
	if failure == nil {
		failure = err
	}
	fmt.Printf("%d created, %d updated, %d deleted in %.1f s, %d disturbances, %d calls tried again\n",
		w.created.Load(), w.updated.Load(), w.deleted.Load(), wrote.Seconds(), disturbed.Load(), w.retries.Load())
	fmt.Printf("%d whole lists in pages of %d, the last with %d objects, %d pages tried again\n", reader.lists, o.page, last, reader.retries)
	fmt.Printf("%d watch events over %d connections\n", observer.events, observer.connections)
	faults := book.faults()
	for i, fault := range faults {
		if i == 20 {
			fmt.Printf("... and %d more\n", len(faults)-i)
			break
		}
		fmt.Println("FAULT:", fault)
	}
	fmt.Printf("%d writes acknowledged, %d faults\n", book.acknowledged(), len(faults))
	if failure == nil && len(faults) > 0 {
		failure = fmt.Errorf("%d faults", len(faults))
	}
	return failure
}

func main() {
	o := parseOptions()
	if o.objects < 1 || o.namespaces < 1 || o.writers < 1 || o.page < 1 || strings.TrimSpace(o.kubeconfig) == "" {
		fmt.Fprintln(os.Stderr, "objects: -objects, -namespaces, -writers and -page must be positive and -kubeconfig must be given")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.limit)
	defer cancel()
	if err := trial(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "objects: failed:", err)
		os.Exit(1)
	}
}
