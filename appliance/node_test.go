package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// readyLog hears where a node is ready.
type readyLog struct {
	slog.Handler
	at chan string
}

func (r readyLog) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Message == "node is ready" {
		rec.Attrs(func(a slog.Attr) bool {
			if a.Key == "dashboard" {
				r.at <- a.Value.String()
			}
			return true
		})
	}
	return r.Handler.Handle(ctx, rec)
}

// start runs a node on a directory and gives its address and what stops it.
func start(t *testing.T, dir, listen string) (dashboard string, stop func()) {
	t.Helper()
	cfg, _, err := config.Load("", func(string) string { return "" }, map[string]string{"data_dir": dir, "listen": listen, "cluster_listen": "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	log := readyLog{slog.NewTextHandler(io.Discard, nil), make(chan string, 1)}
	gone := make(chan error, 1)
	go func() { gone <- Run(ctx, cfg, "test", slog.New(log), nil, Teller{}) }()
	stop = func() {
		t.Helper()
		cancel()
		select {
		case err := <-gone:
			if err != nil {
				t.Fatalf("the node ended with: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the node did not end")
		}
	}
	select {
	case dashboard = <-log.at:
	case err := <-gone:
		t.Fatalf("the node ended before it was ready: %v", err)
	}
	signIn(t, dir, dashboard)
	return dashboard, stop
}

// keys are the sessions of this test at its nodes, by dashboard.
var keys sync.Map

// signIn gets into a node's dashboard by a link that its own socket gives.
func signIn(t *testing.T, dir, dashboard string) {
	t.Helper()
	code, err := client.AtTheNode(dir).NewLoginCode(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(dashboard, nil)
	if err != nil {
		t.Fatal(err)
	}
	who, key, err := c.SignIn(t.Context(), api.SignIn{Code: code.Code})
	if err != nil || who.Role != fleet.Admin {
		t.Fatalf("signed in as %+v: %v", who, err)
	}
	keys.Store(dashboard, key)
}

// ask asks a dashboard for something as who is signed in there.
func ask(t *testing.T, dashboard, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, dashboard+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, _ := keys.Load(dashboard)
	req.AddCookie(key.(client.Key).Cookie)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func get(t *testing.T, dashboard, path string) string {
	t.Helper()
	res := ask(t, dashboard, path)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s%s: %s, %v", dashboard, path, res.Status, err)
	}
	return string(body)
}

func health(t *testing.T, dashboard string) (h api.Health) {
	t.Helper()
	if err := json.Unmarshal([]byte(get(t, dashboard, "/api/v1/health")), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestANodeStopsAndStartsAgainWhereItWas(t *testing.T) {
	dir := t.TempDir()
	dashboard, stop := start(t, dir, "127.0.0.1:0")
	before := health(t, dashboard)
	stop()

	// The same address at once: the port has to be free.
	again, stop := start(t, dir, strings.TrimPrefix(dashboard, "http://"))
	defer stop()
	if again != dashboard {
		t.Errorf("the node is at %s, was told %s", again, dashboard)
	}
	after := health(t, again)
	if after.Leader != before.Leader || after.Index < before.Index {
		t.Errorf("the node came back as %s at %d, it was %s at %d", after.Leader, after.Index, before.Leader, before.Index)
	}
}

func TestANodeEndsThoughSomebodyWatches(t *testing.T) {
	dashboard, stop := start(t, t.TempDir(), "127.0.0.1:0")
	res := ask(t, dashboard, "/api/v1/events")
	defer res.Body.Close()
	began := time.Now()
	stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took the node %s to end", took)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the viewer was cut with: %v", err)
	}
}

func TestADirectoryIsOneNodesAlone(t *testing.T) {
	dir := t.TempDir()
	dashboard, stop := start(t, dir, "127.0.0.1:0")
	defer stop()
	err := Run(t.Context(), config.Config{DataDir: dir, Listen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0", Name: "n2", Region: "dc1", BootPort: 80}, "test", slog.New(slog.DiscardHandler), nil, Teller{})
	if !errors.Is(err, consensus.ErrInUse) {
		t.Errorf("the second node on a directory: %v", err)
	}
	health(t, dashboard) // the first has not noticed
}

func TestANodeThatIsStoppedWhileItStartsEndsWell(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg := config.Config{DataDir: filepath.Join(t.TempDir(), "new"), Listen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0", Name: "n1", Region: "dc1", BootPort: 80}
	if err := Run(ctx, cfg, "test", slog.New(slog.DiscardHandler), nil, Teller{}); err != nil {
		t.Error(err)
	}
}

func TestDashboardURL(t *testing.T) {
	everywhere := &net.TCPAddr{IP: net.IPv6unspecified, Port: 8080}
	for _, c := range []struct {
		name string
		addr net.Addr
		cfg  config.Config
		want string
	}{
		{"one address", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}, config.Config{}, "http://127.0.0.1:80"},
		{"an IPv6 address", &net.TCPAddr{IP: net.IPv6loopback, Port: 80}, config.Config{}, "http://[::1]:80"},
		{"a name, beside an address", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8443}, config.Config{Hosts: []string{"lpmos.corp", "other"}}, "https://lpmos.corp:8443"},
		{"a name, and every address", everywhere, config.Config{Hosts: []string{"lpmos.corp"}}, "https://lpmos.corp:8080"},
		{"a name, and loopback", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}, config.Config{Hosts: []string{"lpmos.corp"}}, "http://127.0.0.1:80"},
		{"every address, and a network", everywhere, config.Config{Interfaces: []config.Interface{{Name: "lo"}}}, "http://127.0.0.1:8080"},
	} {
		if got := dashboardURL(c.addr, c.cfg); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// A name it was not given it would not answer to.
	if u, err := url.Parse(dashboardURL(everywhere, config.Config{})); err != nil || net.ParseIP(u.Hostname()) == nil && u.Hostname() != "localhost" || strings.Contains(u.Host, "::") {
		t.Errorf("nobody can open %s (%v)", u, err)
	}
}

func TestAnInheritedSocketIsTakenOver(t *testing.T) {
	opened, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	f, err := opened.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	// The descriptor is the node's to close from here on, as that of a parent is.
	fd, err := syscall.Dup(int(f.Fd()))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	taken, err := listenPeople(fmt.Sprintf("fd:%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if taken.Addr().String() != opened.Addr().String() {
		t.Errorf("it listens at %s, want %s", taken.Addr(), opened.Addr())
	}
	for _, bad := range []string{"fd:", "fd:1", "fd:-3", "fd:3x", "fd:60000"} {
		if l, err := listenPeople(bad); err == nil {
			l.Close()
			t.Errorf("%s was taken", bad)
		} else if !strings.HasPrefix(err.Error(), "listen: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestPortErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{syscall.EADDRINUSE, "give this node another port"},
		{syscall.EACCES, "CAP_NET_BIND_SERVICE"},
		{syscall.EADDRNOTAVAIL, "cannot assign"},
	} {
		if got := portError("listen", "127.0.0.1:1", c.err); !strings.Contains(got.Error(), c.want) || !errors.Is(got, c.err) {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

func TestImageErrorsReachPeople(t *testing.T) {
	var refused *fleet.Error
	if err := imageError(&images.RefusedError{Reason: "it is a web page"}); !errors.As(err, &refused) || refused.Code != fleet.Invalid {
		t.Errorf("a refused image: %#v", err)
	}
	var problem *api.Problem
	full := fmt.Errorf("import: %w", &images.SpaceError{Free: 1 << 30, Need: 2 << 30})
	if err := imageError(full); !errors.As(err, &problem) || problem.Status != http.StatusInsufficientStorage || problem.Detail != full.Error() {
		t.Errorf("a full disk: %#v", err)
	}
	if err := imageError(io.EOF); err != io.EOF {
		t.Errorf("anything else: %v", err)
	}
}
