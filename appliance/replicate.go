package appliance

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
)

// replicaSeam is the cluster as copying images sees it.
type replicaSeam struct{ *consensus.Node }

// Peers are all members but this node. One that cannot be called is as good as
// out of reach.
func (s replicaSeam) Peers() []images.Peer {
	var out []images.Peer
	for _, m := range s.Status().Members {
		if m.ID == s.ID() {
			continue
		}
		client, base, err := s.Call(m.ID)
		out = append(out, images.Peer{ID: m.ID, Reachable: m.Reachable && err == nil, Client: client, Base: base,
			Holds: func(digest string) images.Holding { return images.Holding(m.Described.Images[digest]) }})
	}
	return out
}

// Wanted are the images people can choose, and those that open tasks install: an
// image that was replaced or renamed stays until the last of them has ended; and the files
// of profiles.
func (s replicaSeam) Wanted() (out []images.Want) {
	s.View(func(st *fleet.State) {
		known := map[string]bool{}
		for _, img := range st.Images() {
			if !known[img.Digest] {
				known[img.Digest] = true
				out = append(out, images.Want{Digest: img.Digest, Name: img.Name, StoredBytes: img.Stored})
			}
		}
		for _, p := range st.MadeProfiles() {
			for _, f := range p.AllFiles() {
				if !known[f.Digest] {
					known[f.Digest] = true
					out = append(out, images.Want{Digest: f.Digest, Name: "profile " + p.Name + ", " + f.Name})
				}
			}
		}
		for _, t := range st.CurrentTasks() {
			if t.Plan != nil && t.Open() && !known[t.Plan.Image.Digest] {
				known[t.Plan.Image.Digest] = true
				out = append(out, images.Want{Digest: t.Plan.Image.Digest, Name: t.Plan.Image.Name})
			}
		}
	})
	return out
}

// Confirm is asked before images are deleted.
func (s replicaSeam) Confirm(ctx context.Context) error { return s.Verify(ctx) }

// newReplicator makes what keeps the store as the fleet wants it.
func newReplicator(cfg config.Config, cluster *consensus.Node, store *images.Store, log *slog.Logger) *images.Replicator {
	limit := cfg.CopyLimit * 1_000_000
	if limit == 0 {
		limit = -1
	}
	return images.NewReplicator(images.ReplicatorOptions{
		Store: store, Fleet: replicaSeam{cluster}, Self: cluster.ID(), BytesPerSecond: limit, Log: log})
}

// feedReplicator wakes the replicator when the fleet's images or profiles change.
func feedReplicator(ctx context.Context, cluster *consensus.Node, r *images.Replicator) error {
	for {
		w := cluster.SnapshotAndWatch(func(*fleet.State) {})
		r.Wake() // for what was not watched
		for {
			events, err := w.Next(ctx)
			if ctx.Err() != nil || errors.Is(err, consensus.ErrClosed) {
				w.Close()
				return nil
			}
			if err != nil {
				break // cut for lagging: watch anew
			}
			for _, ev := range events {
				switch ev.Type {
				case fleet.EventImage, fleet.EventImageDeleted, fleet.EventProfile, fleet.EventProfileDeleted:
					r.Wake()
				}
			}
		}
		w.Close()
	}
}

// peerImages is where other nodes get parts of images from this one, and learn
// what it has. It is there before the image store: that is opened only once the
// log has shown that the directory is this version's, and this cluster's.
type peerImages struct{ store atomic.Pointer[images.Store] }

// open begins to give.
func (p *peerImages) open(store *images.Store) { p.store.Store(store) }

// ServeHTTP answers below /x/. Until the store is open it says that it cannot
// tell, which is not the same as having nothing.
func (p *peerImages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	store := p.store.Load()
	if store == nil {
		http.Error(w, "this node is starting", http.StatusServiceUnavailable)
		return
	}
	store.PeerHandler().ServeHTTP(w, r)
}

// describe is what other nodes are told of this one beside Raft.
func (p *peerImages) describe() (d consensus.Described) {
	store := p.store.Load()
	if store == nil {
		return d
	}
	d.Images = map[string]consensus.Hold{}
	for digest, h := range store.Holdings() {
		d.Images[digest] = consensus.Hold(h)
	}
	if free, err := store.FreeBytes(); err == nil {
		d.FreeBytes = free
	}
	return d
}
