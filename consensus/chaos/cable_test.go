package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus"
)

// cable joins nodes in memory, so that a whole cluster runs in the time of a
// testing/synctest bubble: thirty seconds of faults take two.
type cable struct {
	mu      sync.Mutex
	cut     map[[2]string]bool
	delay   time.Duration // of one way, at most
	steady  bool          // it always takes that long
	changed chan struct{} // closed when a link changes
	ports   map[string]*port
}

func newCable() *cable {
	return &cable{cut: map[[2]string]bool{}, delay: time.Millisecond, changed: make(chan struct{}), ports: map[string]*port{}}
}

func (w *cable) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *cable) oneWay(from, to string) { w.change(func() { w.cut[[2]string{from, to}] = true }) }
func (w *cable) heal()                  { w.change(func() { clear(w.cut) }) }
func (w *cable) slow(d time.Duration)   { w.change(func() { w.delay = d }) }

// far makes every way take exactly that long.
func (w *cable) far(d time.Duration) { w.change(func() { w.delay, w.steady = d, true }) }

// split lets nothing through between some nodes and all others.
func (w *cable) split(some map[string]bool, all []string) {
	w.change(func() {
		for _, a := range all {
			for _, b := range all {
				if some[a] != some[b] {
					w.cut[[2]string{a, b}] = true
				}
			}
		}
	})
}

func (w *cable) state(from, to string) (open bool, delay time.Duration, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delay = w.delay
	if !w.steady {
		delay = delay/2 + rand.N(delay/2+1)
	}
	return !w.cut[[2]string{from, to}], delay, w.changed
}

// port is a node's place on the cable. It is a consensus.Network.
type port struct {
	w     *cable
	id    string
	queue map[consensus.Kind]chan arrival

	mu     sync.Mutex
	open   []net.Conn
	closed chan struct{}
	once   sync.Once
}

type arrival struct {
	conn net.Conn
	peer string
}

func (w *cable) join(id string) *port {
	p := &port{w: w, id: id, closed: make(chan struct{}),
		queue: map[consensus.Kind]chan arrival{consensus.KindRaft: make(chan arrival, 64), consensus.KindCall: make(chan arrival, 64)}}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[id] = p
	return p
}

func (p *port) Address() string { return addressOf(p.id) }

func addressOf(id string) string { return id + ":1" }

func (p *port) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return false
	default:
	}
	p.open = append(p.open, c)
	return true
}

func (p *port) Accept(kind consensus.Kind) (net.Conn, string, error) {
	select {
	case a := <-p.queue[kind]:
		return a.conn, a.peer, nil
	case <-p.closed:
		return nil, "", net.ErrClosed
	}
}

func (p *port) Dial(ctx context.Context, address string, kind consensus.Kind) (net.Conn, error) {
	to := strings.TrimSuffix(address, ":1")
	for {
		there, _, changed := p.w.state(p.id, to)
		back, _, _ := p.w.state(to, p.id)
		if there && back {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.closed:
			return nil, net.ErrClosed
		}
	}
	p.w.mu.Lock()
	far := p.w.ports[to]
	p.w.mu.Unlock()
	if far == nil {
		return nil, fmt.Errorf("there is no %s", to)
	}
	ours, here := net.Pipe()
	theirs, there := net.Pipe()
	if !p.keep(ours) || !far.keep(theirs) {
		ours.Close()
		theirs.Close()
		return nil, fmt.Errorf("%s refuses", to)
	}
	go p.w.carry(there, here, p.id, to)
	go p.w.carry(here, there, to, p.id)
	select {
	case far.queue[kind] <- arrival{theirs, p.id}:
		return ours, nil
	case <-far.closed:
	case <-ctx.Done():
	}
	ours.Close()
	theirs.Close()
	return nil, fmt.Errorf("%s refuses", to)
}

// carry takes bytes from one end to the other when they are due and the way is
// open. A way that is cut holds them, as TCP does.
func (w *cable) carry(dst, src net.Conn, from, to string) {
	type parcel struct {
		b   []byte
		due time.Time
	}
	way, over := make(chan parcel, 64), make(chan struct{})
	go func() {
		defer close(way)
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			if n > 0 {
				_, delay, _ := w.state(from, to)
				select {
				case way <- parcel{b[:n], time.Now().Add(delay)}:
				case <-over:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { close(over); dst.Close(); src.Close() }()
	for p := range way {
		time.Sleep(time.Until(p.due))
		for waited := time.Duration(0); ; {
			open, _, changed := w.state(from, to)
			if open {
				break
			}
			t := time.NewTimer(time.Minute)
			select {
			case <-changed:
			case <-t.C:
				if waited += time.Minute; waited > 5*time.Minute {
					return
				}
			}
			t.Stop()
		}
		if _, err := dst.Write(p.b); err != nil {
			return
		}
	}
}

// reset ends all that the node has open; new connections may be made.
func (p *port) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

// Close takes the node off the cable at once: what it had open ends.
func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
	return nil
}
