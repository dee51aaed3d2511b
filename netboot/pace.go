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
