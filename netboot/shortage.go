package netboot

import (
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// shortages remembers on which networks a machine got no address, until one does
// or nobody has asked for some time.
type shortages struct {
	mu sync.Mutex
	at map[netip.Prefix]shortage
}

type shortage struct {
	last   time.Time
	worded time.Time // counting costs time, and a flood of strangers is no reason to spend it
	text   string
}

// wordEvery is how long a sentence about a shortage is good.
const wordEvery = 5 * time.Second

// note remembers that a machine got none; word counts who has them.
func (s *shortages) note(network netip.Prefix, now time.Time, word func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[netip.Prefix]shortage{}
	}
	was := s.at[network]
	if was.text == "" || now.Sub(was.worded) >= wordEvery {
		was.text, was.worded = word(), now
	}
	was.last = now
	s.at[network] = was
}

// over is for a machine nobody knows that has got one.
func (s *shortages) over(network netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at, network)
}

// alarms are those of now.
func (s *shortages) alarms(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for network, sh := range s.at {
		if now.Sub(sh.last) >= alarmLasts {
			delete(s.at, network)
			continue
		}
		out = append(out, sh.text)
	}
	return out
}

// shortage words why there is no address for a stranger: who has them all.
func (r *responder) shortage() string {
	terms := r.terms()
	if len(terms.From) == 0 {
		return fmt.Sprintf("no address is left for new machines on %s: this node has no part of %s to lend from now; it gets one when it hears the other nodes", r.link.Name, r.link.Range)
	}
	kept := func(a netip.Addr) bool { return !r.link.usable(a) || r.fleet.Taken(a) }
	return fmt.Sprintf("no address is left for new machines on %s in %s: %s; give it a larger range, or free one (lpmos lease list, lpmos lease release ADDRESS)",
		r.link.Name, r.lendsFrom(), r.leases.held(terms.From, kept))
}
