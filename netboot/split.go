package netboot

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// Several nodes hear every DISCOVER of a network they share. One of them is to
// answer, as RFC 3074 has it: which one follows from the machine's hardware
// address, the same on all of them without a word between them. The others stay
// silent, and answer when the machine has to ask again: then the chosen one is
// gone, or has nothing to give.

const (
	waitsSecs   = 4                // option secs of a machine that has waited for long enough
	waitsTries  = 2                // DISCOVERs after which one has asked for long enough
	triesWithin = time.Minute      // or they are not of one attempt
	maxTries    = 4096             // machines remembered; more are answered at once
	sweepEvery  = 10 * time.Second // so that made-up machines cost little time, too
)

// Chosen is the node that answers a machine's first DISCOVER. A node that comes
// or goes changes the choice for its part of the machines alone.
func Chosen(mac string, nodes []string) string {
	best, most := "", uint64(0)
	for _, n := range nodes {
		sum := sha256.Sum256([]byte(mac + " " + n))
		if score := binary.BigEndian.Uint64(sum[:]); best == "" || score > most || score == most && n < best {
			best, most = n, score
		}
	}
	return best
}

// tries counts DISCOVERs that were left to another node.
type tries struct {
	mu    sync.Mutex
	by    map[string]try // by machine and what it runs: a loader begins anew
	swept time.Time
}

type try struct {
	n  int
	at time.Time // of the first
}

// again counts one more and reports whether the machine has asked often enough.
func (t *tries) again(who string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]try{}
	}
	if len(t.by) >= maxTries && now.Sub(t.swept) >= sweepEvery {
		t.swept = now
		for k, v := range t.by {
			if now.Sub(v.at) >= triesWithin {
				delete(t.by, k)
			}
		}
	}
	v, known := t.by[who]
	if !known && len(t.by) >= maxTries {
		return true // a flood; better two answers than none
	}
	if !known || now.Sub(v.at) >= triesWithin {
		v = try{at: now}
	}
	v.n++
	t.by[who] = v
	return v.n >= waitsTries
}

// forget is for a machine that was answered.
func (t *tries) forget(who string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, who)
}

// leave reports whether a DISCOVER is to be left to another node of the network.
func (r *responder) leave(req request) bool {
	if r.neighbours == nil {
		return false
	}
	self, alive := r.neighbours.Answering(r.link.subnet, r.link.Mode)
	if Chosen(req.machine.MAC, alive) == self || len(alive) == 0 {
		return false
	}
	if req.pkt.NumSeconds >= waitsSecs || r.tries.again(req.who(), r.now()) {
		return false
	}
	return true
}

// who is the machine and what it runs.
func (r request) who() string { return r.machine.MAC + " " + string(r.machine.Firmware.Stage) }
