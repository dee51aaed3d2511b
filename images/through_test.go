package images

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestMachinesGetWhatIsNotHereYet(t *testing.T) {
	s := newSite(t, 2, nil)
	m, digest := s.imported(0, diskImage(6*wire.ChunkBytes, 1))
	from, to := s.nodes[0], s.nodes[1]

	if w := to.machine("/manifest/" + digest); w.Code != 200 || sha(w.Body.Bytes()) != digest {
		t.Fatalf("manifest: %d %s", w.Code, w.Body)
	}
	// All at once, each chunk several times, is one fetch a chunk.
	var machines sync.WaitGroup
	names := []string{m.Chunks[0], m.Chunks[2], m.Chunks[3], m.Chunks[4], m.Chunks[5]}
	for i := range 50 {
		machines.Go(func() {
			name := names[i%len(names)]
			if w := to.machine("/chunk/" + name); w.Code != 200 || verifyMember(w.Body, name) != nil {
				t.Errorf("chunk: %d", w.Code)
			}
		})
	}
	machines.Wait()
	for _, name := range names {
		if n := from.timesAsked("/x/chunk/" + name); n != 1 {
			t.Errorf("chunk %.12s was fetched %d times", name, n)
		}
	}
	if whole, moved := to.pullAll(); !whole || moved {
		t.Errorf("whole %t, moved %t: what machines waited for is kept", whole, moved)
	}
}

func TestWhatMachinesAreToldAboutWhatIsNotHere(t *testing.T) {
	s := newSite(t, 2, nil)
	m, digest := s.imported(0, diskImage(4*wire.ChunkBytes, 1))
	to := s.nodes[1]
	unknown := strings.Repeat("ab", 32)
	ask := func(path string, code int, says string) {
		t.Helper()
		if w := to.machine(path); w.Code != code || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	ask("/chunk/"+unknown, 404, "")
	ask("/manifest/"+unknown, 404, "")
	ask("/chunk/"+m.Chunks[3], 404, "") // no image here names it: strangers cannot send a node looking
	if n := s.nodes[0].timesAsked("/"); n != 0 {
		t.Errorf("the other node was asked %d times", n)
	}
	s.nodes[0].setDown(true)
	ask("/manifest/"+digest, 503, "not on this node yet: no other node is in reach")
	s.nodes[0].setDown(false)
	ask("/manifest/"+digest, 200, m.Chunks[3])
	s.nodes[0].setDown(true)
	ask("/chunk/"+m.Chunks[3], 503, "not on this node yet: no other node is in reach")
	to.replica.nowhere = map[string]*absence{} // as a second later
	s.nodes[0].setDown(false)
	ask("/chunk/"+m.Chunks[3], 200, "")
	to.replica.end()
	ask("/chunk/"+m.Chunks[2], 503, "canceled")
}

// Two nodes that lack the same chunk must not ask each other for ever.
func TestPeersAreGivenWhatIsHereAndNothingElse(t *testing.T) {
	s := newSite(t, 2, nil)
	m, digest := s.imported(0, diskImage(4*wire.ChunkBytes, 1))
	a, b := s.nodes[0], s.nodes[1]
	b.pullAll()
	for _, n := range s.nodes {
		if err := os.Remove(n.store.chunkPath(m.Chunks[3])); err != nil {
			t.Fatal(err)
		}
	}
	if w := b.machine("/chunk/" + m.Chunks[3]); w.Code != 503 || !strings.Contains(w.Body.String(), "no node in reach has it") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if n := b.timesAsked("/x/chunk/" + m.Chunks[3]); n != 0 {
		t.Errorf("%s was asked back %d times", b.id, n)
	}
	if h := a.store.Holdings()[digest]; h.Whole() {
		t.Errorf("the node that was asked says that it holds %+v", h)
	}
}

// meter is a limiter that keeps account, and stops everybody when closed.
type meter struct {
	mu     sync.Mutex
	passed int
	gate   chan struct{}
	met    chan struct{} // somebody waits at the gate
}

func (m *meter) WaitN(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.gate != nil {
		select {
		case m.met <- struct{}{}:
		default:
		}
		select {
		case <-m.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.passed += n
	return nil
}

func TestCopyingKeepsToTheLimit(t *testing.T) {
	m := &meter{}
	s := newSite(t, 2, func(o *ReplicatorOptions) { o.Limiter = m })
	man, digest := s.imported(0, diskImage(6*wire.ChunkBytes, 1))
	to := s.nodes[1]
	if w := to.machine("/manifest/" + digest); w.Code != 200 {
		t.Fatal(w.Code)
	}
	through := to.machine("/chunk/" + man.Chunks[5]).Body.Len()
	if through < 8192 || m.passed != 0 {
		t.Errorf("%d bytes for a machine, of which the limiter saw %d", through, m.passed)
	}
	if whole, _ := to.pullAll(); !whole {
		t.Fatalf("waits: %v", to.replica.Waiting())
	}
	if want := int(s.wants[0].StoredBytes) - through; m.passed != want {
		t.Errorf("the limiter saw %d bytes, %d were copied", m.passed, want)
	}
}

// A machine that waits for a chunk which is being copied slowly gets it at once,
// and nothing else is begun while it waits.
func TestMachinesComeFirst(t *testing.T) {
	m := &meter{gate: make(chan struct{}), met: make(chan struct{}, 1)}
	s := newSite(t, 2, func(o *ReplicatorOptions) { o.Limiter = m; o.Parallel = 1 })
	from, to := s.nodes[0], s.nodes[1]
	_, digest := s.imported(0, diskImage(6*wire.ChunkBytes, 1))
	stop := to.run()
	<-m.met // the first chunk is held back by the limit
	var first string
	from.mu.Lock()
	for path := range from.asked {
		if name, ok := strings.CutPrefix(path, "/x/chunk/"); ok {
			first = name
		}
	}
	from.mu.Unlock()
	if w := to.machine("/chunk/" + first); w.Code != 200 || verifyMember(w.Body, first) != nil {
		t.Errorf("got %d", w.Code)
	}
	if n := from.timesAsked("/x/chunk/" + first); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}
	stop() // the second chunk waits at the gate: it must not keep the node from stopping
	if h := to.store.Holdings()[digest]; h.Have > 2 {
		t.Errorf("holds %+v: more than the machine's chunk and one under way", h)
	}

	to.open()
	to.replica.mu.Lock()
	to.replica.urgent, to.replica.calm = 1, make(chan struct{})
	to.replica.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	before := from.timesAsked("/x/chunk/")
	if err := to.replica.copyChunk(ctx, first); !errors.Is(err, context.DeadlineExceeded) || from.timesAsked("/x/chunk/") != before {
		t.Errorf("copied while a machine waits: %v", err)
	}
}

func TestSchedulerOnANodeThatHasNothingYet(t *testing.T) {
	s := newSite(t, 3, nil)
	m, digest := s.imported(0, diskImage(6*wire.ChunkBytes, 1))
	to := s.nodes[1]
	sched := NewScheduler(to.replica)
	ask := func(req wire.NextRequest) (wire.NextResponse, error) {
		t.Helper()
		req.TaskID, req.Image = "t", digest
		to.replica.nowhere = map[string]*absence{} // as a second later
		return sched.Next(t.Context(), base, req)
	}
	s.nodes[0].setDown(true)
	if _, err := ask(wire.NextRequest{Need: []int{2}}); !errors.Is(err, ErrNotYet) || errors.Is(err, ErrNotFound) {
		t.Errorf("no manifest to be had: %v", err)
	}
	s.nodes[0].setDown(false)
	resp, err := ask(wire.NextRequest{Need: []int{2, 3, 4}})
	if err != nil || len(resp.Fetch) != 3 || resp.Fetch[0].URL != base+"/chunk/"+m.Chunks[2] {
		t.Errorf("to be fetched while the machine waits: %+v, %v", resp, err)
	}
	// The same when nobody says what it holds, by asking for each.
	if got := to.replica.offers(t.Context(), strings.Repeat("00", 32), m.Chunks[2:5]); len(got) != 3 || !got[m.Chunks[2]].yes {
		t.Errorf("offers: %+v", got)
	}
	if n := to.store.Holdings()[digest].Have; n != 0 {
		t.Errorf("%d chunks were fetched by asking", n)
	}

	if err := os.Remove(s.nodes[0].store.chunkPath(m.Chunks[4])); err != nil {
		t.Fatal(err)
	}
	s.nodes[0].store.HasChunk(m.Chunks[4]) // it notices
	resp, err = ask(wire.NextRequest{Need: []int{4, 5}})
	if err != nil || len(resp.Fetch) != 1 || resp.Fetch[0].Index != 5 {
		t.Errorf("a chunk nobody has is left out: %+v, %v", resp, err)
	}
	// However often it fails meanwhile: the install waits, it does not end.
	bad := []wire.BadChunk{{Index: 4, URL: base + "/chunk/" + m.Chunks[4], Reason: "the node answered 503"}}
	for range 2 * strikes {
		resp, err = ask(wire.NextRequest{Need: []int{4}, Bad: bad})
		if err != nil || len(resp.Fetch) != 0 || resp.RetryAfterMS <= 0 {
			t.Fatalf("%+v, %v: want to be told to ask again", resp, err)
		}
	}
}

func TestS38_ADamagedChunkIsMendedUnderAnInstall(t *testing.T) {
	s := newSite(t, 2, nil)
	raw := diskImage(6*wire.ChunkBytes, 1)
	m, digest := s.imported(0, raw)
	to := s.nodes[1]
	to.pullAll()
	sched := NewScheduler(to.replica)
	req := wire.NextRequest{TaskID: "t", Image: digest, Need: []int{3}, Bad: []wire.BadChunk{{Index: 3, URL: base + "/chunk/" + m.Chunks[3]}}}

	flip(t, to.store.chunkPath(m.Chunks[3]), 1000)
	resp, err := sched.Next(t.Context(), base, req)
	if err != nil || len(resp.Fetch) != 1 {
		t.Fatalf("%+v, %v", resp, err)
	}
	if w := to.machine("/chunk/" + m.Chunks[3]); w.Code != 200 || verifyMember(w.Body, m.Chunks[3]) != nil {
		t.Errorf("a machine got %d", w.Code)
	}
	to.has(digest, raw)

	// Out of reach is not lost: the install waits.
	flip(t, to.store.chunkPath(m.Chunks[3]), 1000)
	s.nodes[0].setDown(true)
	if resp, err := sched.Next(t.Context(), base, req); err != nil || len(resp.Fetch) != 0 {
		t.Errorf("%+v, %v", resp, err)
	}
	// Nobody has it: that ends the install, and says so.
	s.nodes[0].setDown(false)
	flip(t, s.nodes[0].store.chunkPath(m.Chunks[3]), 1000)
	if err := s.nodes[0].store.VerifyChunk(m.Chunks[3]); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if _, err := sched.Next(t.Context(), base, req); !errors.Is(err, ErrCorrupt) {
		t.Errorf("lost everywhere: %v", err)
	}
	mustImport(t, s.nodes[0].store, raw)
	to.pullAll()
	to.has(digest, raw)
}

func TestS38_ADamagedChunkIsNotServed(t *testing.T) {
	dir := t.TempDir()
	m, _ := mustImport(t, openStore(t, dir), diskImage(4*wire.ChunkBytes, 1))
	s := openStore(t, dir)
	flip(t, s.chunkPath(m.Chunks[2]), 1000)
	r := alone(s)
	n := &siteNode{store: s, replica: r}
	if w := n.machine("/chunk/" + m.Chunks[2]); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "there is no other node") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := n.machine("/chunk/" + m.Chunks[3]); w.Code != 200 {
		t.Errorf("a good one: %d", w.Code)
	}
}
