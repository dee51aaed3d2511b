package images

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestANodeThatWasAwayCatchesUpBothWays(t *testing.T) {
	s := newSite(t, 2, nil)
	old, fresh := diskImage(4*wire.ChunkBytes, 1), diskImage(5*wire.ChunkBytes, 2)
	_, gone := s.imported(0, old)
	away := s.nodes[1]
	stop := away.run()
	eventually(t, "it has the image", func() bool { return away.store.Holdings()[gone].Whole() })
	stop()

	s.want()
	_, digest := s.imported(0, fresh)
	away.open()
	away.run()
	eventually(t, "it has the new image", func() bool { return away.store.Holdings()[digest].Whole() })
	eventually(t, "it has not the old one any more", func() bool { return len(away.store.Manifests()) == 1 })
	away.has(digest, fresh)
}

// A node that has just started, or that is cut off, has an old state: what is not
// in it may be an image that was imported since, with its only copy here.
func TestNothingIsDeletedByAnOldState(t *testing.T) {
	s := newSite(t, 2, nil)
	_, digest := s.imported(0, diskImage(4*wire.ChunkBytes, 1))
	n := s.nodes[0]
	n.pullAll()
	s.want()
	s.confirm = errors.New("no majority is in reach")
	if n.replica.forget(t.Context()) || !n.store.Holdings()[digest].Whole() {
		t.Error("it was deleted, or nothing is left to do")
	}
	s.confirm = nil
	if !n.replica.forget(t.Context()) || len(files(t, n.dir)) != 0 {
		t.Errorf("left: %v", files(t, n.dir))
	}
}

func TestAnImportIsKeptUntilTheFleetKnowsIt(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newSite(t, 1, func(o *ReplicatorOptions) { o.Now = func() time.Time { return now } })
	n := s.nodes[0]
	raw := diskImage(4*wire.ChunkBytes, 1)
	_, digest := mustImport(t, n.store, raw)
	look := func(why string, keeps bool) {
		t.Helper()
		n.pullAll()
		n.replica.forget(t.Context())
		if _, err := n.store.Manifest(digest); (err == nil) != keeps {
			t.Fatalf("%s: kept is %t", why, err == nil)
		}
	}
	look("its command is under way", true)
	now = now.Add(newFor - time.Second)
	look("its command may still be under way", true)
	s.want(Want{Digest: digest})
	look("the fleet wants it", true)
	s.want()
	mustImport(t, n.store, raw) // before this node has noticed that it is to be deleted
	look("it was imported again", true)
	now = now.Add(newFor + time.Second)
	look("nobody asked for it", false)

	mustImport(t, n.store, raw)
	s.want(Want{Digest: digest})
	look("the fleet wants it", true)
	s.want()
	look("it was deleted", false)
}

// The fleet's list is read before the images it tells of are marked as known, so
// that an import in between is not taken for one that was deleted.
func TestASettledImportIsTheOneTheFleetSaw(t *testing.T) {
	s := openStore(t, t.TempDir())
	raw := diskImage(4*wire.ChunkBytes, 1)
	_, digest := mustImport(t, s, raw)
	before := s.stamped()[digest]
	mustImport(t, s, raw)
	s.settle(digest, before.stamp)
	if now := s.stamped()[digest]; now.settled || now.stamp == before.stamp {
		t.Errorf("settled as %+v, the fleet saw %+v", now, before)
	}
	if err := s.deleteStamped(digest, before.stamp); err != nil || s.Verify(digest) != nil {
		t.Error("the new import was deleted in place of the old one")
	}
	s.settle(digest, s.stamped()[digest].stamp)
	if !s.stamped()[digest].settled {
		t.Error("not settled")
	}
}

func TestAnImageIsDeletedWhileItIsCopied(t *testing.T) {
	s := newSite(t, 2, nil)
	from, to := s.nodes[0], s.nodes[1]
	gate := make(chan struct{})
	reached := make(chan struct{}, 100)
	from.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/x/chunk/") {
			reached <- struct{}{}
			<-gate
		}
		return false
	}
	_, digest := s.imported(0, diskImage(7*wire.ChunkBytes, 1))
	stop := to.run()
	for range 4 {
		<-reached
	}
	s.want()
	eventually(t, "the manifest is gone", func() bool { return len(to.store.Manifests()) == 0 })
	close(gate)
	eventually(t, "the chunks under way have landed", func() bool {
		to.replica.mu.Lock()
		defer to.replica.mu.Unlock()
		return len(to.replica.flights) == 0
	})
	if left := files(t, to.dir); len(left) != 0 {
		t.Errorf("left of the image: %v", left)
	}
	// And a manifest that arrives after its image was deleted.
	stop()
	to.open()
	to.replica.manifestFlight(digest).wait(t.Context())
	if len(to.replica.wakeForget) == 0 {
		t.Error("nobody is told that it is not wanted")
	}
	to.replica.forget(t.Context())
	if left := files(t, to.dir); len(left) != 0 {
		t.Errorf("left of the image: %v", left)
	}
}
