package door

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// loginsPerMinute is how often one name may be tried from one address.
	loginsPerMinute = 5
	// triesPerMinute is how often one address may try anything: names, codes.
	triesPerMinute = 20
	// keptLimits bounds what is remembered of who tried; the longest silent go first.
	keptLimits = 8192
)

// limits counts tries by key.
type limits struct {
	perMinute int
	mu        sync.Mutex
	byKey     map[string]*list.Element
	order     *list.List // of *limit, the newest in front
}

type limit struct {
	key string
	of  *rate.Limiter
}

func newLimits(perMinute int) *limits {
	return &limits{perMinute: perMinute, byKey: map[string]*list.Element{}, order: list.New()}
}

// try takes one try of a key, or says how long to wait for the next.
func (l *limits) try(key string, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byKey[key]
	if e == nil {
		e = l.order.PushFront(&limit{key, rate.NewLimiter(rate.Every(time.Minute/time.Duration(l.perMinute)), l.perMinute)})
		l.byKey[key] = e
		if l.order.Len() > keptLimits {
			last := l.order.Back()
			delete(l.byKey, l.order.Remove(last).(*limit).key)
		}
	}
	l.order.MoveToFront(e)
	r := e.Value.(*limit).of.ReserveN(now, 1)
	if wait = r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return wait, false
	}
	return 0, true
}

// forget forgives a key its tries.
func (l *limits) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byKey[key]; e != nil {
		l.order.Remove(e)
		delete(l.byKey, key)
	}
}

// sourceOf is the address that tries are counted by: of IPv6 the network that one
// host can have whole.
func sourceOf(address string) string {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr().String()
		}
	}
	return addr.String()
}
