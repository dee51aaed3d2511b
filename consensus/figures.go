package consensus

import (
	"math"
	"sync"
	"time"
)

// Histogram counts how long something took.
type Histogram struct {
	Bounds []float64 // seconds, rising
	Counts []uint64  // as many as Bounds: how many took at most that long
	Count  uint64
	Sum    float64 // seconds
}

// Figures are what a node measures of itself.
type Figures struct {
	Commit  Histogram // from a proposal on this node to its outcome
	Fsync   Histogram // of one write of the log
	Flushes uint64    // entries of progress that this node has written
}

// bounds run from a quarter of a millisecond to 8 s, doubling.
var bounds = func() (out []float64) {
	for i := range 16 {
		out = append(out, 0.00025*math.Pow(2, float64(i)))
	}
	return out
}()

type histogram struct {
	mu     sync.Mutex
	counts [16]uint64
	count  uint64
	sum    float64
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count++
	h.sum += s
	for i, b := range bounds {
		if s <= b {
			h.counts[i]++
			return
		}
	}
}

func (h *histogram) read() Histogram {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)), Count: h.count, Sum: h.sum}
	sum := uint64(0)
	for i, c := range h.counts {
		sum += c
		out.Counts[i] = sum
	}
	return out
}

type figures struct {
	commit, fsync histogram
	mu            sync.Mutex
	flushes       uint64
}

func (f *figures) flushed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushes++
}

// Figures are the measurements so far.
func (n *Node) Figures() Figures {
	n.figures.mu.Lock()
	flushes := n.figures.flushes
	n.figures.mu.Unlock()
	return Figures{Commit: n.figures.commit.read(), Fsync: n.figures.fsync.read(), Flushes: flushes}
}
