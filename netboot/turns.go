package netboot

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// When a rack boots at once, every machine wants the same twenty megabytes in the same
// second. Served all together they all have them late; the answers to DHCP, which
// firmware waits a second for, come late with them, and what the kernel keeps for
// thousand half-sent files is gigabytes. So there are turns: so many transfers at a
// time run as fast as the wire lets them, and the next in the order in which they were
// asked for. A machine sees a server that takes a moment.
const (
	// turnPlaces fill a wire of 25 Gb/s with machines of 1 Gb/s, and several times over
	// with cards whose drivers are firmware's.
	turnPlaces = 48
	// turnsOfOne is how many transfers one address may have running before others.
	turnsOfOne = 2
	// turnLength is after how long a transfer that still runs gives its place away. It
	// goes on: a slow machine, or one that takes nothing any more, keeps nobody waiting.
	turnLength = 10 * time.Second
	// turnPatience is how long one waits at most, whatever runs: no firmware was seen
	// that gives up before.
	turnPatience = time.Minute
	// turnBytes is how long a file is worth a turn. Loaders are not: HTTP boot
	// firmware waits five seconds for them (EDK2, HTTP_BOOT_RESPONSE_TIMEOUT).
	turnBytes = 1 << 20
)

// turns hands out places.
type turns struct {
	places   int
	after    func(time.Duration, func()) (stop func() bool) // nil: time.AfterFunc
	overtime func()                                         // told of a transfer that gives its place away

	mu      sync.Mutex
	busy    int
	of      map[netip.Addr]int // places by address
	waiting []*turn            // in the order in which they came
}

// turn is one that waits.
type turn struct {
	from  netip.Addr
	ready chan struct{} // closed when it has a place
	has   bool
}

// take waits for a place and gives what frees it, or ctx's error. told is called once,
// before a wait, with how many wait before this one.
func (t *turns) take(ctx context.Context, from netip.Addr, told func(before int)) (done func(), err error) {
	t.mu.Lock()
	if t.of == nil {
		t.of = map[netip.Addr]int{}
	}
	mine := &turn{from: from, ready: make(chan struct{})}
	t.waiting = append(t.waiting, mine)
	t.next()
	before := slices.Index(t.waiting, mine)
	t.mu.Unlock()
	if before < 0 {
		return t.begin(mine), nil
	}
	told(before)
	patience := make(chan struct{})
	stop := t.later(turnPatience, func() { close(patience) })
	defer stop()
	select {
	case <-mine.ready:
		return t.begin(mine), nil
	case <-patience:
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if mine.has { // in the same moment
		if err != nil {
			t.free(mine)
			return nil, err
		}
		return t.begin(mine), nil
	}
	t.waiting = slices.DeleteFunc(t.waiting, func(w *turn) bool { return w == mine })
	return func() {}, err
}

// begin has a turn end by itself when it takes too long.
func (t *turns) begin(mine *turn) (done func()) {
	end := sync.OnceFunc(func() { t.end(mine) })
	stop := t.later(turnLength, func() {
		if t.overtime != nil {
			t.overtime()
		}
		end()
	})
	return func() { stop(); end() }
}

func (t *turns) later(d time.Duration, f func()) (stop func() bool) {
	if t.after != nil {
		return t.after(d, f)
	}
	return time.AfterFunc(d, f).Stop
}

func (t *turns) end(mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free(mine)
}

// free gives a place back. The lock is held.
func (t *turns) free(mine *turn) {
	t.busy--
	if t.of[mine.from]--; t.of[mine.from] <= 0 {
		delete(t.of, mine.from)
	}
	t.next()
}

// next gives free places to those who wait, in their order but for addresses that have
// their share. The lock is held.
func (t *turns) next() {
	for i := 0; i < len(t.waiting) && t.busy < t.places; {
		w := t.waiting[i]
		if t.of[w.from] >= turnsOfOne {
			i++
			continue
		}
		t.busy++
		t.of[w.from]++
		w.has = true
		close(w.ready)
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
}

// Transfers is how the boot files over HTTP stand now.
type Transfers struct {
	Places  int // so many run at once
	Running int
	Waiting int // for their turn
}

func (t *turns) now() Transfers {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Transfers{Places: t.places, Running: t.busy, Waiting: len(t.waiting)}
}
