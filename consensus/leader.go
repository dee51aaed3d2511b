package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// leaderView is who leads, as far as this node knows, and wakes who waits for
// that to change.
type leaderView struct {
	mu      sync.Mutex
	id      raft.ServerID
	address raft.ServerAddress
	lostAt  time.Time // since when nobody leads; zero while somebody does
	changed chan struct{}
}

func newLeaderView(now time.Time) *leaderView {
	return &leaderView{lostAt: now, changed: make(chan struct{})}
}

func (v *leaderView) set(id raft.ServerID, address raft.ServerAddress, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.id == id && v.address == address {
		return
	}
	if id == "" {
		v.lostAt = now
	} else {
		v.lostAt = time.Time{}
	}
	v.id, v.address = id, address
	close(v.changed)
	v.changed = make(chan struct{})
}

// now gives the leader, empty if there is none, and what is closed when it changes.
func (v *leaderView) now() (id raft.ServerID, address raft.ServerAddress, changed <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.id, v.address, v.changed
}

// lost is since when nobody leads; zero while somebody does.
func (v *leaderView) lost() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.lostAt
}

// wait returns when the leader is another than it was, after a moment all the
// same, or when the context ends.
func (v *leaderView) wait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
}
