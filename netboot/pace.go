package netboot

import (
	"sync"
	"time"
)

// pace lets something happen so often in a span of time and no more. The zero
// value is ready; nil lets everything happen.
type pace struct {
	mu    sync.Mutex
	begun time.Time
	n     int
}

// allow counts one, and reports whether it is among the first most of its span.
func (p *pace) allow(now time.Time, span time.Duration, most int) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if since := now.Sub(p.begun); since < 0 || since >= span {
		p.begun, p.n = now, 0
	}
	p.n++
	return p.n <= most
}

// mayComplain reports whether a packet may cause one more line of the log: whoever can
// send one can send a thousand.
func (p *pace) mayComplain(now time.Time) bool {
	return p.allow(now, 10*time.Second, complaintsEach)
}

// bucket lets something happen a number of times at once, and from then on so often in
// a second. It is full at the beginning. Nil, and one without a size, let everything
// happen.
type bucket struct {
	burst, each float64

	mu   sync.Mutex
	used float64 // of burst
	last time.Time
}

// allow takes one, if there is one.
func (b *bucket) allow(now time.Time) bool {
	if b == nil || b.burst == 0 {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if since := now.Sub(b.last); since > 0 {
		b.used = max(0, b.used-since.Seconds()*b.each)
	}
	b.last = now
	if b.used+1 > b.burst {
		return false
	}
	b.used++
	return true
}

// giveBack undoes an allow.
func (b *bucket) giveBack() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = max(0, b.used-1)
}
