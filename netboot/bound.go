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

const (
	// mostBound is how many machines, and how many paths, are remembered for that. One more
	// takes the place of the oldest: made-up ones must keep nobody from booting.
	mostBound = 4096
	// boundOfOne is how many of those paths may be one address's, which is more than a
	// machine needs: nobody can push out another's alone.
	boundOfOne = 8
)

// bound remembers where paths are good. The zero value is ready.
type bound struct {
	mu    sync.Mutex
	asked map[string]boundTo // by MAC: the address that it asked the other server for
	used  map[string]boundTo // by path
}

type boundTo struct {
	addr netip.Addr
	end  time.Time
}

// asks notes which address a machine asks another server for.
func (b *bound) asks(mac string, addr netip.Addr, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asked == nil {
		b.asked = map[string]boundTo{}
	}
	if _, known := b.asked[mac]; !known {
		makeRoom(b.asked, addr, mostBound, now)
	}
	b.asked[mac] = boundTo{addr, now.Add(pathLife)}
}

// leads says whether a path that was made for this machine, wherever, leads anywhere
// from the address, and binds it.
func (b *bound) leads(path, mac string, from netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, ok := b.asked[mac]; ok && now.Before(a.end) {
		return a.addr == from
	}
	if u, ok := b.used[path]; ok {
		return u.addr == from // it has ended when the path has
	}
	if b.used == nil {
		b.used = map[string]boundTo{}
	}
	makeRoom(b.used, from, boundOfOne, now)
	b.used[path] = boundTo{from, now.Add(pathLife + time.Second)}
	return true
}

// makeRoom forgets what has ended, the oldest of an address that has so many, and the
// oldest of all if there are too many. It looks at all of them, which takes less time
// than the script that one is remembered for.
func makeRoom(m map[string]boundTo, of netip.Addr, most int, now time.Time) {
	n, own, oldest := 0, "", ""
	for k, v := range m {
		if !now.Before(v.end) {
			delete(m, k)
			continue
		}
		if o, ok := m[oldest]; !ok || v.end.Before(o.end) {
			oldest = k
		}
		if v.addr == of {
			if o, ok := m[own]; n == 0 || ok && v.end.Before(o.end) {
				own = k
			}
			n++
		}
	}
	switch {
	case n >= most:
		delete(m, own)
	case len(m) >= mostBound:
		delete(m, oldest)
	}
}
