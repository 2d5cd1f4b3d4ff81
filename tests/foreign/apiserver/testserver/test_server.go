// Package testserver takes the place of the package of that name in k8s.io/apiserver's storage layer: the one door through which
// its tests get a store. The original embeds etcd; this one runs the binary that ETCD_BIN names, with the flags that say what a
// test put into its configuration.
//
// Each call starts one fresh single-member server on ports that are free, and ends it with the test. A server that writes no
// readiness is given readyWithin; one that ends by itself fails the test with its last lines.
package testserver

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

const (
	readyWithin = 60 * time.Second
	endedWithin = 10 * time.Second
	// keptOutput is how much of a server's output is shown when a test fails for want of it.
	keptOutput = 4 << 10
)

// portsInUse keeps two parallel tests from being given one port between its choice and the server's bind.
var portsInUse sync.Map

func freeURL(t testing.TB) url.URL {
	t.Helper()
	for range 100 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("no free port: %v", err)
		}
		port := listener.Addr().(*net.TCPAddr).Port
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
		if _, taken := portsInUse.LoadOrStore(port, true); !taken {
			return url.URL{Scheme: "http", Host: fmt.Sprintf("localhost:%d", port)}
		}
	}
	t.Fatal("no port that no other test was given")
	return url.URL{}
}

// NewTestConfig is the configuration tests start from: quick rather than durable, on free ports, data gone with the test.
func NewTestConfig(t testing.TB) *embed.Config {
	t.Helper()
	config := embed.NewConfig()
	config.UnsafeNoFsync = true
	config.Dir = t.TempDir()
	if err := os.Chmod(config.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	client, peer := freeURL(t), freeURL(t)
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	return config
}

func joined(urls []url.URL) string {
	texts := make([]string, len(urls))
	for i, u := range urls {
		texts[i] = u.String()
	}
	return strings.Join(texts, ",")
}

// flagsOf says as command line flags what the configuration holds, as far as the storage tests change it.
func flagsOf(config *embed.Config) []string {
	flags := []string{
		"--name=" + config.Name,
		"--data-dir=" + config.Dir,
		"--listen-client-urls=" + joined(config.ListenClientUrls),
		"--advertise-client-urls=" + joined(config.AdvertiseClientUrls),
		"--listen-peer-urls=" + joined(config.ListenPeerUrls),
		"--initial-advertise-peer-urls=" + joined(config.AdvertisePeerUrls),
		"--initial-cluster=" + config.InitialCluster,
		"--log-level=error",
	}
	if config.UnsafeNoFsync {
		flags = append(flags, "--unsafe-no-fsync")
	}
	if config.QuotaBackendBytes != 0 {
		flags = append(flags, fmt.Sprintf("--quota-backend-bytes=%d", config.QuotaBackendBytes))
	}
	if config.WatchProgressNotifyInterval != 0 {
		flags = append(flags, "--watch-progress-notify-interval="+config.WatchProgressNotifyInterval.String())
	}
	for flag, file := range map[string]string{
		"cert-file":       config.ClientTLSInfo.CertFile,
		"key-file":        config.ClientTLSInfo.KeyFile,
		"trusted-ca-file": config.ClientTLSInfo.TrustedCAFile,
	} {
		if file != "" {
			flags = append(flags, "--"+flag+"="+file)
		}
	}
	if config.ClientTLSInfo.ClientCertAuth {
		flags = append(flags, "--client-cert-auth")
	}
	return flags
}

// server is one running process; ended is closed once it has been waited for.
type server struct {
	command *exec.Cmd
	output  bytes.Buffer
	ended   chan struct{}
}

func startServer(t testing.TB, config *embed.Config) *server {
	t.Helper()
	binary := os.Getenv("ETCD_BIN")
	if binary == "" {
		t.Fatal("ETCD_BIN does not name the server to test")
	}
	s := &server{command: exec.Command(binary, flagsOf(config)...), ended: make(chan struct{})}
	s.command.Stdout, s.command.Stderr = &s.output, &s.output
	if err := s.command.Start(); err != nil {
		t.Fatalf("%s does not start: %v", filepath.Base(binary), err)
	}
	go func() {
		_ = s.command.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() { s.end(t) })
	return s
}

// lastOutput may be called once the process has ended: only then is nobody writing the buffer.
func (s *server) lastOutput() string {
	text := s.output.Bytes()
	return string(text[max(0, len(text)-keptOutput):])
}

func (s *server) end(t testing.TB) {
	select {
	case <-s.ended:
		t.Errorf("the server ended before the test did; its last output:\n%s", s.lastOutput())
		return
	default:
	}
	_ = s.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(endedWithin):
		_ = s.command.Process.Kill()
		<-s.ended
		t.Errorf("the server still ran %s after SIGTERM; its last output:\n%s", endedWithin, s.lastOutput())
	}
}

// awaitReady asks for the server's status until it has a leader.
func (s *server) awaitReady(t testing.TB, client *clientv3.Client) {
	t.Helper()
	deadline := time.Now().Add(readyWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		status, err := client.Status(ctx, client.Endpoints()[0])
		cancel()
		if err == nil && status.Leader != 0 {
			return
		}
		select {
		case <-s.ended:
			t.Fatalf("the server ended while it came up; its last output:\n%s", s.lastOutput())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server has no leader after %s: %v", readyWithin, err)
		}
	}
}

// RunEtcd starts a server for the test, by config or else by NewTestConfig, and gives a client of it whose calls are recorded as
// the storage tests expect.
func RunEtcd(t testing.TB, config *embed.Config) *kubernetes.Client {
	t.Helper()
	if config == nil {
		config = NewTestConfig(t)
	}
	s := startServer(t, config)
	tls, err := config.ClientTLSInfo.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   strings.Split(joined(config.AdvertiseClientUrls), ","),
		TLS:         tls,
		DialTimeout: readyWithin,
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)).Named("client"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.awaitReady(t, client.Client)
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV, client.Kubernetes = storagetesting.NewKVRecorder(client.KV, recorder), recorder
	return client
}
