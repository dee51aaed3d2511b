package images

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestImagesReachEveryNode(t *testing.T) {
	s := newSite(t, 3, nil)
	raw := diskImage(6*wire.ChunkBytes+512, 1)
	_, digest := s.imported(0, raw)

	var both sync.WaitGroup
	for _, n := range s.nodes[1:] {
		both.Go(func() {
			if whole, moved := n.pullAll(); !whole || !moved {
				t.Errorf("%s: whole %t, moved %t, waits: %v", n.id, whole, moved, n.replica.Waiting())
			}
		})
	}
	both.Wait()
	for _, n := range s.nodes {
		n.has(digest, raw)
	}
	if whole, moved := s.nodes[1].pullAll(); !whole || moved {
		t.Errorf("nothing is missing: whole %t, moved %t", whole, moved)
	}
}

// One look is enough for all images though they share chunks, and what is shared
// is fetched once.
func TestSharedChunksAreFetchedOnce(t *testing.T) {
	s := newSite(t, 2, nil)
	a := diskImage(5*wire.ChunkBytes, 1)
	b := bytes.Clone(a)
	b[4*wire.ChunkBytes] ^= 1
	ma, da := s.imported(0, a)
	mb, db := s.imported(0, b)
	if whole, _ := s.nodes[1].pullAll(); !whole {
		t.Fatalf("waits: %v", s.nodes[1].replica.Waiting())
	}
	s.nodes[1].has(da, a)
	s.nodes[1].has(db, b)
	different := chunkSet(ma)
	for name := range chunkSet(mb) {
		different[name] = true
	}
	if got := s.nodes[0].timesAsked("/x/chunk/"); got != len(different) {
		t.Errorf("%d chunks were fetched, there are %d", got, len(different))
	}
}

func TestANodeThatIsStoppedGoesOnWhereItWas(t *testing.T) {
	s := newSite(t, 2, nil)
	from, to := s.nodes[0], s.nodes[1]
	var mu sync.Mutex
	served := map[string]bool{}
	from.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/x/chunk/") {
			return false
		}
		mu.Lock()
		full := len(served) == 3
		if !full {
			served[r.URL.Path] = true
		}
		mu.Unlock()
		if full {
			<-r.Context().Done() // until the node that asked is gone
		}
		return full
	}
	raw := diskImage(7*wire.ChunkBytes, 1)
	_, digest := s.imported(0, raw)
	stop := to.run()
	eventually(t, "three chunks arrived", func() bool { return to.store.Holdings()[digest].Have == 3 })
	stop()

	from.mu.Lock()
	from.fault = nil
	from.mu.Unlock()
	to.open()
	if info, err := to.store.Info(digest); err != nil || info.Missing != 6-3 || to.store.Holdings()[digest].Have != 3 {
		t.Errorf("after a restart: %+v, %v", info, err)
	}
	if whole, _ := to.pullAll(); !whole {
		t.Errorf("waits: %v", to.replica.Waiting())
	}
	to.has(digest, raw)
	for path := range served {
		if n := from.timesAsked(path); n != 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
}

func TestS38_ADamagedCopyIsReplacedAndItsNodeNamed(t *testing.T) {
	raw := diskImage(6*wire.ChunkBytes, 1)
	for _, tt := range []struct {
		name    string
		restart bool // then the node finds the damage by itself, before it sends it
	}{
		{"damaged while it runs", false},
		{"damaged before it started", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, 3, nil)
			m, digest := s.imported(0, raw)
			bad, reader := s.nodes[1], s.nodes[2]
			bad.pullAll()
			for name := range chunkSet(m) {
				flip(t, bad.store.chunkPath(name), 1000)
			}
			if tt.restart {
				bad.open()
			}
			if whole, _ := reader.pullAll(); !whole {
				t.Fatalf("waits: %v", reader.replica.Waiting())
			}
			reader.has(digest, raw)
			if got := reader.log.count("not the chunk", "node="+bad.id); (got > 0) == tt.restart {
				t.Errorf("%d complaints about %s in %q", got, bad.id, reader.log.lines)
			}
			h := bad.store.Holdings()[digest]
			if h.Whole() || len(bad.replica.wakePull) == 0 {
				t.Errorf("the node with the damage holds %+v and was not woken to mend it", h)
			}
			bad.pullAll()
			if now := bad.store.Holdings()[digest]; !now.Whole() {
				t.Errorf("not mended: %+v", now)
			}
		})
	}
}

func TestANodeThatSendsRubbishIsPassedOver(t *testing.T) {
	s := newSite(t, 3, nil)
	raw := diskImage(6*wire.ChunkBytes, 1)
	_, digest := s.imported(0, raw)
	s.nodes[1].fault = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasPrefix(r.URL.Path, "/x/manifest/"):
			w.Write([]byte(`{"version":1,"size_bytes":512,"chunk_bytes":4194304,"sector_bytes":512,"chunks":[""]}`))
		case len(r.URL.Path)%2 == 0:
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		default:
			w.Write(make([]byte, maxMember+1))
		}
		return true
	}
	if whole, _ := s.nodes[2].pullAll(); !whole {
		t.Fatalf("waits: %v", s.nodes[2].replica.Waiting())
	}
	s.nodes[2].has(digest, raw)
}

func TestASlowNodeIsPassedOver(t *testing.T) {
	s := newSite(t, 3, func(o *ReplicatorOptions) { o.Stall = 300 * time.Millisecond })
	raw := diskImage(6*wire.ChunkBytes, 1)
	_, digest := s.imported(0, raw)
	s.nodes[1].fault = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "1000")
		w.Write([]byte("so far"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	reader := s.nodes[2]
	eventually(t, "the image is here", func() bool { whole, _ := reader.pullAll(); return whole })
	reader.has(digest, raw)
	if reader.log.count("node=n1", errSlow.Error()) == 0 {
		t.Errorf("nobody said that n1 is slow: %q", reader.log.lines)
	}
	// It comes last for a while instead of costing its time with every chunk.
	if n := s.nodes[1].timesAsked("/x/chunk/"); n > 2*4 {
		t.Errorf("n1 was asked %d times for chunks", n)
	}
}

func TestAChunkThatIsNowhereIsWaitedFor(t *testing.T) {
	s := newSite(t, 3, nil)
	raw := diskImage(6*wire.ChunkBytes, 1)
	m, digest := s.imported(0, raw)
	lost := m.Chunks[3]
	if err := os.Remove(s.nodes[0].store.chunkPath(lost)); err != nil {
		t.Fatal(err)
	}
	to := s.nodes[1]
	if whole, moved := to.pullAll(); whole || !moved {
		t.Errorf("whole %t, moved %t", whole, moved)
	}
	if h := to.store.Holdings()[digest]; h.Have != 4 || h.Total != 5 {
		t.Errorf("holds %+v, want all but one", h)
	}
	if why := to.replica.Waiting()[digest]; !strings.Contains(why, "no node in reach has it") {
		t.Errorf("waits because of %q", why)
	}
	if h := s.nodes[0].store.Holdings()[digest]; h.Have != 4 {
		t.Errorf("the node that lost it says that it holds %+v", h)
	}
	for _, n := range s.nodes {
		n.setDown(true)
	}
	to.replica.nowhere = map[string]*absence{} // as a second later
	if to.pullAll(); !strings.Contains(to.replica.Waiting()[digest], "no other node is in reach") {
		t.Errorf("waits because of %v", to.replica.Waiting())
	}
	for _, n := range s.nodes {
		n.setDown(false)
	}
	mustImport(t, s.nodes[2].store, raw)
	to.replica.nowhere = map[string]*absence{}
	if whole, _ := to.pullAll(); !whole || len(to.replica.Waiting()) != 0 {
		t.Errorf("waits: %v", to.replica.Waiting())
	}
	to.has(digest, raw)
}

func TestAnImageThatDoesNotFitWaitsAndSaysWhy(t *testing.T) {
	s := newSite(t, 2, nil)
	raw := diskImage(7*wire.ChunkBytes, 1)
	m, digest := s.imported(0, raw)
	stored := s.wants[0].StoredBytes
	to := s.nodes[1]
	for range 3 {
		to.setSpace(1<<30 + stored/2) // the reserve, and half of what is needed
		if whole, _ := to.pullAll(); whole {
			t.Fatal("it did fit")
		}
	}
	if why := to.replica.Waiting()[digest]; !strings.Contains(why, "not enough space for the image: 1024 MiB free, 1024 MiB are kept in reserve") {
		t.Errorf("waits because of %q", why)
	}
	if n := to.log.count("digest="+digest, "not enough space"); n != 1 {
		t.Errorf("said %d times: %q", n, to.log.lines)
	}
	if got := s.nodes[0].timesAsked("/x/chunk/"); got != 0 {
		t.Errorf("%d chunks were fetched for nothing", got)
	}
	// What machines wait for is given to them all the same, out of memory.
	to.setSpace(1<<30 + 100)
	if w := to.machine("/chunk/" + m.Chunks[5]); w.Code != 200 || verifyMember(w.Body, m.Chunks[5]) != nil {
		t.Errorf("a machine got %d", w.Code)
	}
	if h := to.store.Holdings()[digest]; h.Have != 0 || len(files(t, to.dir)) != 1 {
		t.Errorf("holds %+v, %v", h, files(t, to.dir))
	}
	// The space vanishes while it is copied: the size was not known.
	s.want(Want{Digest: digest, Name: "debian-12"})
	if whole, moved := to.pullAll(); whole || moved {
		t.Errorf("whole %t, moved %t", whole, moved)
	}
	if got := s.nodes[0].timesAsked("/x/chunk/"); got > 1+4 {
		t.Errorf("%d chunks were fetched for nothing", got-1)
	}
	to.setSpace(1 << 40)
	if whole, _ := to.pullAll(); !whole {
		t.Errorf("waits: %v", to.replica.Waiting())
	}
	to.has(digest, raw)
}

// Copies, deletions, imports and readers at once leave what is wanted.
func TestEverythingAtOnce(t *testing.T) {
	s := newSite(t, 3, nil)
	keep := diskImage(5*wire.ChunkBytes, 1)
	_, digest := s.imported(0, keep)
	other := bytes.Clone(keep)
	other[4*wire.ChunkBytes] ^= 1
	for _, n := range s.nodes {
		n.run()
	}
	for range 2 {
		_, gone := mustImport(t, s.nodes[1].store, other)
		s.want(Want{Digest: digest}, Want{Digest: gone})
		eventually(t, "n2 has begun", func() bool { return s.nodes[2].store.Holdings()[gone].Have > 0 })
		s.want(Want{Digest: digest})
		eventually(t, "it is gone everywhere", func() bool {
			for _, n := range s.nodes {
				if _, err := n.store.Manifest(gone); !errors.Is(err, ErrNotFound) {
					return false
				}
			}
			return true
		})
	}
	for _, n := range s.nodes {
		eventually(t, n.id+" has what is wanted", func() bool { return n.store.Holdings()[digest].Whole() })
		n.has(digest, keep)
		before := files(t, n.dir)
		store := openStore(t, n.dir) // removes what nothing names
		if after := files(t, n.dir); len(before) != len(after) || len(store.Manifests()) != 1 {
			t.Errorf("%s had left over: %v, then %v", n.id, before, after)
		}
	}
}
