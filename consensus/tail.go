package consensus

import "sync"

// tail remembers how large the newest entries are. Those kept behind a snapshot,
// from which a follower that lags a little is served, are counted by Raft; but
// a count of entries bounds no disk when one may be a hundred times another.
type tail struct {
	mu    sync.Mutex
	sizes []int64 // of the newest entries, in a ring
	next  int     // where the following goes
}

func newTail(entries uint64) *tail { return &tail{sizes: make([]int64, 0, entries)} }

func (t *tail) add(size int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sizes) < cap(t.sizes) {
		t.sizes = append(t.sizes, size)
		return
	}
	t.sizes[t.next] = size
	t.next = (t.next + 1) % len(t.sizes)
}

// within is how many of the newest entries fit into so many bytes; one at least,
// and as many as are counted at all when nothing larger is known of them.
func (t *tail) within(bytes int64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.sizes)
	for kept := range n {
		if bytes -= t.sizes[(t.next+n-1-kept)%n]; bytes < 0 {
			return max(1, uint64(kept))
		}
	}
	return uint64(cap(t.sizes))
}
