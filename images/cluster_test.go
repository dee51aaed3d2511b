package images

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// site is several nodes with real stores that speak HTTP to each other, and a
// fleet that wants what it is told to.
type site struct {
	t     *testing.T
	nodes []*siteNode

	mu      sync.Mutex
	wants   []Want
	confirm error // of the cluster
}

// siteNode is one of them.
type siteNode struct {
	site  *site
	id    string
	dir   string
	opts  ReplicatorOptions
	space uint64 // free on its disk
	log   *captured
	srv   *httptest.Server // what peers reach

	store   *Store
	replica *Replicator

	mu    sync.Mutex
	down  bool
	fault func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	asked map[string]int                                    // GET by path, those with a body
}

// newSite makes n nodes, n0 and so on. change may alter their options.
func newSite(t *testing.T, n int, change func(*ReplicatorOptions)) *site {
	t.Helper()
	s := &site{t: t}
	for i := range n {
		node := &siteNode{site: s, id: "n" + string(rune('0'+i)), dir: t.TempDir(), space: 1 << 40, log: &captured{}, asked: map[string]int{}}
		node.opts = ReplicatorOptions{Fleet: node, Self: node.id, Retry: time.Millisecond, Stall: 10 * time.Second}
		if change != nil {
			change(&node.opts)
		}
		node.srv = httptest.NewServer(http.HandlerFunc(node.serve))
		t.Cleanup(node.srv.Close)
		s.nodes = append(s.nodes, node)
		node.open()
	}
	return s
}

// open opens the node's store, as a node does that starts.
func (n *siteNode) open() {
	n.site.t.Helper()
	store, err := OpenStore(n.dir, StoreOptions{MaxBytes: 1 << 30, Reserve: 1 << 30, FreeSpace: func(string) (uint64, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.space, nil
	}})
	if err != nil {
		n.site.t.Fatal(err)
	}
	n.opts.Store = store
	n.opts.Log = slog.New(n.log)
	replica := NewReplicator(n.opts)
	n.site.t.Cleanup(func() { replica.end(); replica.running.Wait() })
	n.mu.Lock()
	n.store, n.replica = store, replica
	n.mu.Unlock()
}

func (n *siteNode) setSpace(free uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.space = free
}

func (n *siteNode) setDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// serve is what peers reach.
func (n *siteNode) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	if r.Method == http.MethodGet {
		n.asked[r.URL.RequestURI()]++
	}
	store, fault := n.store, n.fault
	n.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	store.PeerHandler().ServeHTTP(w, r)
}

// timesAsked is how often peers fetched something whose path begins so.
func (n *siteNode) timesAsked(prefix string) (total int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for path, times := range n.asked {
		if strings.HasPrefix(path, prefix) {
			total += times
		}
	}
	return total
}

// Peers are the other nodes of the site.
func (n *siteNode) Peers() (out []Peer) {
	for _, other := range n.site.nodes {
		if other == n {
			continue
		}
		other.mu.Lock()
		store, down := other.store, other.down
		other.mu.Unlock()
		out = append(out, Peer{ID: other.id, Reachable: !down, Client: other.srv.Client(), Base: other.srv.URL,
			Holds: func(digest string) Holding { return store.Holdings()[digest] }})
	}
	return out
}

// Wanted is what the site's fleet wants.
func (n *siteNode) Wanted() []Want {
	n.site.mu.Lock()
	defer n.site.mu.Unlock()
	return slices.Clone(n.site.wants)
}

// Confirm fails while the site is told so.
func (n *siteNode) Confirm(context.Context) error {
	n.site.mu.Lock()
	defer n.site.mu.Unlock()
	return n.site.confirm
}

// want makes images wanted, and nothing else.
func (s *site) want(wants ...Want) {
	s.mu.Lock()
	s.wants = wants
	s.mu.Unlock()
	for _, n := range s.nodes {
		n.replica.Wake()
	}
}

// imported imports an image on a node and makes it wanted beside the others.
func (s *site) imported(on int, raw []byte) (wire.Manifest, string) {
	s.t.Helper()
	m, digest := mustImport(s.t, s.nodes[on].store, raw)
	info, err := s.nodes[on].store.Info(digest)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	wants := append(slices.Clone(s.wants), Want{Digest: digest, Name: "debian-12", StoredBytes: info.StoredBytes})
	s.mu.Unlock()
	s.want(wants...)
	return m, digest
}

// pullAll is one look of a node at what is missing, undisturbed.
func (n *siteNode) pullAll() (whole, moved bool) {
	n.site.t.Helper()
	select {
	case <-n.replica.wakePull:
	default:
	}
	return n.replica.pullAll(n.site.t.Context())
}

// has checks that an image is here in whole and good.
func (n *siteNode) has(digest string, raw []byte) {
	n.site.t.Helper()
	if err := n.store.Verify(digest); err != nil {
		n.site.t.Errorf("%s: %v", n.id, err)
		return
	}
	m, err := n.store.Manifest(digest)
	if err != nil {
		n.site.t.Fatal(err)
	}
	if got := readBack(n.site.t, n.store, m); string(got) != string(raw) {
		n.site.t.Errorf("%s holds other bytes than were imported", n.id)
	}
	if h := n.store.Holdings()[digest]; !h.Whole() || h.Total != len(chunkSet(m)) {
		n.site.t.Errorf("%s says that it holds %+v", n.id, h)
	}
}

// run runs the node's replicator; stop ends it as a node that stops does.
func (n *siteNode) run() (stop func()) {
	ctx, cancel := context.WithCancel(n.site.t.Context())
	done := make(chan struct{})
	go func() { n.replica.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	n.site.t.Cleanup(stop)
	return stop
}

// machine asks for something as a machine does.
func (n *siteNode) machine(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	n.replica.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// captured keeps what is logged at Warn and above.
type captured struct {
	mu    sync.Mutex
	lines []string
}

func (c *captured) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (c *captured) WithAttrs([]slog.Attr) slog.Handler           { return c }
func (c *captured) WithGroup(string) slog.Handler                { return c }

func (c *captured) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(" " + a.String())
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, b.String())
	return nil
}

// count is how many lines hold all the words.
func (c *captured) count(words ...string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.lines {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// alone is a replicator of a node without others whose fleet wants nothing.
func alone(s *Store) *Replicator {
	return NewReplicator(ReplicatorOptions{Store: s, Fleet: nobody{}})
}

type nobody struct{}

func (nobody) Peers() []Peer                 { return nil }
func (nobody) Wanted() []Want                { return nil }
func (nobody) Confirm(context.Context) error { return errors.New("there is no cluster") }
