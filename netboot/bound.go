package netboot

import (
	"net/netip"
	"sync"
	"time"
)

// A proxy tells iPXE the path of its script in an OFFER, before another server has
// lent it an address. Such a path names no address, and is in a broadcast that all
// the wire hears. It is bound as soon as there is one: to the address that the
// machine asks the other server for, in a broadcast as well, and else to the first
// from which it is used.

// mostBound is how many machines, and how many paths, are remembered for that.
const mostBound = 4096

// bound remembers where paths are good. The zero value is ready.
type bound struct {
	mu    sync.Mutex
	asked map[string]boundTo // by MAC: the address that it asked the other server for
	used  map[string]boundTo // by path
	swept time.Time
}

type boundTo struct {
	addr netip.Addr
	end  time.Time
}

// asks notes which address a machine asks another server for. When there are too many,
// its path is bound by its first use.
func (b *bound) asks(mac string, addr netip.Addr, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil {
		b.asked, b.used = map[string]boundTo{}, map[string]boundTo{}
	}
	b.sweep(now)
	if _, known := b.asked[mac]; known || len(b.asked) < mostBound {
		b.asked[mac] = boundTo{addr, now.Add(pathLife)}
	}
}

// leads says whether a path that was made for this machine, wherever, leads anywhere
// from the address, and binds it. What finds no place leads nowhere: there have been
// thousands of boots in ten minutes whose machines have not asked for an address.
func (b *bound) leads(path, mac string, from netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil {
		b.asked, b.used = map[string]boundTo{}, map[string]boundTo{}
	}
	if a, ok := b.asked[mac]; ok && now.Before(a.end) {
		return a.addr == from
	}
	if u, ok := b.used[path]; ok {
		return u.addr == from // it has ended when the path has
	}
	b.sweep(now)
	if len(b.used) >= mostBound {
		return false
	}
	b.used[path] = boundTo{from, now.Add(pathLife + time.Second)}
	return true
}

// sweep forgets what has ended, when there is much. b.mu is held.
func (b *bound) sweep(now time.Time) {
	if len(b.asked) < mostBound && len(b.used) < mostBound || now.Sub(b.swept) < sweepEvery {
		return
	}
	b.swept = now
	for _, m := range []map[string]boundTo{b.asked, b.used} {
		for k, v := range m {
			if !now.Before(v.end) {
				delete(m, k)
			}
		}
	}
}
