package install

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/grant/granttest"
	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
)

// silence is how long the agent of these tests waits for a word.
const silence = 300 * time.Millisecond

// cluster is what all nodes of a test know, whichever was told.
type cluster struct {
	t      *testing.T
	src    *memSource
	grant  wire.SignedGrant
	grants *granttest.Authority
	nodes  []*node

	mu      sync.Mutex
	reports int
	served  int            // chunks whose first byte was sent
	at      map[int]func() // what happens when so many were
	status  []string
	ended   bool
	trust   *pintest.Cluster
}

// node is one of the nodes machines may talk to.
type node struct {
	c      *cluster
	srv    *httptest.Server
	url    string
	frozen atomic.Bool // it is there and says nothing
	cut    atomic.Bool // it cannot reach the others
	free   chan struct{}
}

func newCluster(t *testing.T, src *memSource, nodes int) *cluster {
	c := &cluster{t: t, src: src, at: map[int]func(){}, trust: pintest.New(t)}
	g := grantFor(c.src.man, 64*mib, wire.Contents{})
	g.Plan.MachineID, g.Plan.InventoryHash = "m1", wire.Inventory{}.Hash()
	g.PlanHash = g.Plan.Hash()
	c.grants = granttest.New(t, time.Now)
	c.grant = c.grants.Sign(c.grants.Fill(g))
	for range nodes {
		n := &node{c: c, free: make(chan struct{})}
		n.srv = httptest.NewUnstartedServer(n)
		n.url = "https://" + n.srv.Listener.Addr().String()
		t.Cleanup(func() { n.srv.CloseClientConnections(); close(n.free); n.srv.Close() })
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes { // each knows all when it is asked first
		c.trust.Start(n.srv)
	}
	return c
}

func (c *cluster) urls() (out []string) {
	for _, n := range c.nodes {
		out = append(out, n.url)
	}
	return out
}

// kill ends a node as kill -9 does.
func (n *node) kill() {
	_ = n.srv.Listener.Close()
	n.srv.CloseClientConnections()
}

// wait holds whoever speaks to a frozen node.
func (n *node) wait() {
	if n.frozen.Load() {
		<-n.free
		panic(http.ErrAbortHandler)
	}
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.wait()
	c := n.c
	path := strings.TrimPrefix(r.URL.Path, "/api/v1/agent/")
	refuse := func() {
		http.Error(w, `{"detail":"this node cannot reach the other nodes"}`, http.StatusServiceUnavailable)
	}
	read := func(v any) {
		if err := json.NewDecoder(r.Body).Decode(v); err != nil {
			c.t.Errorf("%s: %v", path, err)
		}
	}
	switch {
	case path == "report":
		if n.cut.Load() {
			refuse()
			return
		}
		c.mu.Lock()
		c.reports++
		c.mu.Unlock()
		_ = json.NewEncoder(w).Encode(wire.ReportResponse{MachineID: "m1", Nodes: append([]string{n.url}, c.urls()...)})
	case strings.HasPrefix(path, "approval/"):
		_ = json.NewEncoder(w).Encode(wire.ApprovalResponse{Verdict: wire.VerdictInstall, SignedGrant: &c.grant})
	case path == "status":
		var q wire.StatusRequest
		read(&q)
		if n.cut.Load() && !q.Keep {
			refuse()
			return
		}
		c.mu.Lock()
		c.status = append(c.status, string(q.Status))
		c.ended = q.Status != wire.StatusInstalling
		c.mu.Unlock()
		w.WriteHeader(204)
	case path == "progress", path == "log":
		w.WriteHeader(204)
	case path == "next":
		var q wire.NextRequest
		read(&q)
		var resp wire.NextResponse
		for _, i := range q.Need[:min(8, len(q.Need))] {
			resp.Fetch = append(resp.Fetch, wire.ChunkSource{Index: i, URL: fmt.Sprintf("%s/chunk/%d", wire.PlainURL(n.url), i)})
		}
		_ = json.NewEncoder(w).Encode(resp)
	case strings.HasPrefix(path, "/manifest/"):
		_ = json.NewEncoder(w).Encode(c.src.man)
	case strings.HasPrefix(path, "/chunk/"):
		var i int
		fmt.Sscan(strings.TrimPrefix(path, "/chunk/"), &i)
		b := c.src.members[i]
		c.mu.Lock()
		c.served++
		happens := c.at[c.served]
		c.mu.Unlock()
		_, _ = w.Write(b[:len(b)/2])
		w.(http.Flusher).Flush()
		if happens != nil {
			happens()
		}
		n.wait()
		_, _ = w.Write(b[len(b)/2:])
	default:
		c.t.Errorf("the agent asks for %s", r.URL.Path)
	}
}

// counted is the agent's own source with a count of the chunks that were read
// to their ends.
type counted struct {
	agent.Source
	mu    sync.Mutex
	whole map[string]int // by the last word of the URL
}

func (c *counted) Fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	rc, err := c.Source.Fetch(ctx, url)
	if err != nil {
		return nil, err
	}
	return &countedBody{rc, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.whole[url[strings.LastIndex(url, "/")+1:]]++
	}}, nil
}

type countedBody struct {
	io.ReadCloser
	whole func()
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.whole()
	}
	return n, err
}

// machine is one with a disk in memory.
type machine struct {
	c       *cluster
	disk    *memDisk
	whole   map[string]int
	reading func() // called when the disk is read back
}

func (m *machine) Install(ctx context.Context, g wire.Grant, allowed func() error, src agent.Source, report func(wire.Progress)) error {
	cs := &counted{Source: src, whole: m.whole}
	var once sync.Once
	return Run(ctx, Options{
		Allowed: allowed,
		Grant:   g, Source: cs, Report: func(p wire.Progress) {
			if p.Stage == wire.StageInstalling && m.reading != nil {
				once.Do(m.reading)
			}
			report(p)
		},
		Disks: func() ([]Candidate, error) { return []Candidate{approved(g, "")}, nil },
		Open:  func(Candidate) (Device, error) { return m.disk, nil },
	})
}

// An install outlives its node, whatever the node was doing when it went and
// however it went: it ends well, quickly, and no chunk that was verified is
// fetched again.
func TestAnInstallOutlivesItsNode(t *testing.T) {
	kill := func(c *cluster) { c.nodes[0].kill() }
	src := newSource(t, gptImage(t, 41*mib), 512)
	freeze := func(c *cluster) { c.nodes[0].frozen.Store(true) }
	for _, tc := range []struct {
		name  string
		chunk int // with which one it happens; 0: when the disk is read back
		what  func(*cluster)
	}{
		{"killed at the first chunk", 1, kill},
		{"killed at 10 %", 2, kill},
		{"killed at 50 %", 5, kill},
		{"killed at 90 %", 9, kill},
		{"killed while the disk is read back", 0, kill},
		{"silent at 10 %", 2, freeze},
		{"silent at 50 %", 5, freeze},
		{"silent at 90 %", 9, freeze},
		{"silent while the disk is read back", 0, freeze},
		{"all but the last gone, one way and the other", 5, func(c *cluster) { kill(c); c.nodes[1].frozen.Store(true) }},
		{"the rest cut off from each other", 5, func(c *cluster) { kill(c); c.nodes[1].cut.Store(true); c.nodes[2].cut.Store(true) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t, src, 3)
			m := &machine{c: c, disk: newMemDisk(64*mib, 512), whole: map[string]int{}}
			if tc.chunk > 0 {
				c.at[tc.chunk] = func() { tc.what(c) }
			} else {
				m.reading = func() { tc.what(c) }
			}
			var console bytes.Buffer
			a, err := agent.New(agent.Config{
				Nodes: c.urls()[:1], Trust: c.trust.Verifier(), MAC: "52:54:00:00:00:01", Silence: silence, Collect: func() wire.Inventory { return wire.Inventory{} },
				Grants: c.grants.Checker(), Installer: m, Console: agent.NewConsole(&console, time.Now),
				Sleep: func(ctx context.Context, d time.Duration) error { // as long as it has to be, ten times as fast
					select {
					case <-time.After(d / 10):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begin := time.Now()
			out, err := a.Run(ctx)
			if err != nil || out != agent.OutcomeInstalled {
				t.Fatalf("%s, %v\n%s", out, err, console.String())
			}
			t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
			if got := strings.Join(c.status, " "); got != "installing completed" {
				t.Errorf("the nodes were told %q", got)
			}
			if c.reports != 1 {
				t.Errorf("%d reports: the session was good at every node", c.reports)
			}
			for i := range c.src.members {
				if n := m.whole[fmt.Sprint(i)]; n != 1 {
					t.Errorf("chunk %d was fetched %d times", i, n)
				}
			}
		})
	}
}
