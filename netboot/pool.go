package netboot

import (
	"sync"
	"time"
)

// PoolBlock is a block of a network's range as the nodes have agreed on it.
type PoolBlock struct {
	Range
	Owner  string // id of the node that lends it; empty while nobody does
	Wanted string // id of the node that waits for it
}

// ShareOf is the share of one node, which knows all that was agreed on up to heard.
func ShareOf(self string, pool []PoolBlock, heard time.Time) Share {
	s := Share{Heard: heard}
	for _, b := range pool {
		if b.Owner == self {
			s.Blocks = append(s.Blocks, Block{Range: b.Range, Wanted: b.Wanted != ""})
		}
	}
	return s
}

// yields remembers which blocks this node has offered to yield, and when last.
type yields struct {
	mu   sync.Mutex
	last map[Range]time.Time
}

// yieldRest is how long after an offer to yield it may still be accepted: one whose
// answer was lost can be on its way for as long as a command lives.
const yieldRest = time.Minute

// Yield says which blocks of a pool, by their places, this node is to yield now: those
// that another waits for and of which nobody holds an address any more. They
// are lent from no more, whatever comes of the offer, until it is certain that
// nobody else has got them.
func (s *Server) Yield(self string, pool []PoolBlock) []int {
	s.yields.mu.Lock()
	defer s.yields.mu.Unlock()
	if s.yields.last == nil {
		s.yields.last = map[Range]time.Time{}
	}
	now := s.cfg.Now()
	var places []int
	for i, b := range pool {
		if b.Owner != self {
			continue
		}
		last, offered := s.yields.last[b.Range]
		switch {
		case b.Wanted != "" && s.leases.Vacate(b.Range):
			s.yields.last[b.Range] = now
			places = append(places, i)
		case b.Wanted == "" && (!offered || now.Sub(last) >= yieldRest):
			// Who waited for it is gone. Who waits for it next has to find it closed again.
			delete(s.yields.last, b.Range)
			s.leases.Reopen(b.Range)
		}
	}
	return places
}
