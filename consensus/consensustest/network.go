package consensustest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus"
)

// Network joins the nodes of one test over loopback TCP, through links that can
// be cut, one way or both, and made slow. Nodes say who they are and are
// believed: trust is tested elsewhere.
type Network struct {
	mu      sync.Mutex
	cut     map[[2]string]bool
	delay   time.Duration // of one way
	changed chan struct{} // closed when a link changes
	byAddr  map[string]string
}

// NewNetwork is a network without nodes.
func NewNetwork() *Network {
	return &Network{cut: map[[2]string]bool{}, changed: make(chan struct{}), byAddr: map[string]string{}}
}

func (w *Network) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// Cut lets nothing through from one node to another; what is on its way waits,
// as TCP has it.
func (w *Network) Cut(from, to string) { w.change(func() { w.cut[[2]string{from, to}] = true }) }

// Isolate cuts a node off from all others, both ways.
func (w *Network) Isolate(id string, others ...string) {
	w.change(func() {
		for _, o := range others {
			w.cut[[2]string{id, o}], w.cut[[2]string{o, id}] = true, true
		}
	})
}

// Heal mends all links.
func (w *Network) Heal() { w.change(func() { clear(w.cut) }) }

// Slow makes every way take that long; a round trip takes twice as much.
func (w *Network) Slow(oneWay time.Duration) { w.change(func() { w.delay = oneWay }) }

// state is whether a way is open, its delay, and what is closed when that changes.
func (w *Network) state(from, to string) (open bool, delay time.Duration, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.cut[[2]string{from, to}], w.delay, w.changed
}

// Port is a node's place on the network. It is a consensus.Network.
type Port struct {
	net   *Network
	id    string
	l     net.Listener
	queue map[consensus.Kind]chan arrival

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed chan struct{}
	once   sync.Once
}

type arrival struct {
	conn net.Conn
	peer string
}

// Join gives a node a place; address is "" for any, or one it had before.
func (w *Network) Join(id, address string) (*Port, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Port{net: w, id: id, l: l, open: map[net.Conn]struct{}{}, closed: make(chan struct{}),
		queue: map[consensus.Kind]chan arrival{consensus.KindRaft: make(chan arrival), consensus.KindCall: make(chan arrival)}}
	w.mu.Lock()
	w.byAddr[l.Addr().String()] = id
	w.mu.Unlock()
	go p.accept()
	return p, nil
}

func (p *Port) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		go func() {
			r := bufio.NewReader(c)
			line, err := r.ReadString('\n')
			kind, peer, ok := strings.Cut(strings.TrimSpace(line), " ")
			if err != nil || !ok || p.queue[consensus.Kind(kind)] == nil || !p.keep(c) {
				c.Close()
				return
			}
			select {
			case p.queue[consensus.Kind(kind)] <- arrival{&buffered{c, r}, peer}:
			case <-p.closed:
				c.Close()
			}
		}()
	}
}

// buffered reads on where the greeting was read.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func (p *Port) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return false
	default:
	}
	p.open[c] = struct{}{}
	return true
}

// Address is where others reach the node.
func (p *Port) Address() string { return p.l.Addr().String() }

// Accept waits for the next connection.
func (p *Port) Accept(kind consensus.Kind) (net.Conn, string, error) {
	select {
	case a := <-p.queue[kind]:
		return a.conn, a.peer, nil
	case <-p.closed:
		return nil, "", net.ErrClosed
	}
}

// Dial connects through a link. A cut one is noticed by nobody but the clock.
func (p *Port) Dial(ctx context.Context, address string, kind consensus.Kind) (net.Conn, error) {
	p.net.mu.Lock()
	to := p.net.byAddr[address]
	p.net.mu.Unlock()
	for {
		there, _, changed := p.net.state(p.id, to)
		back, _, _ := p.net.state(to, p.id)
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
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "%s %s\n", kind, p.id); err != nil || !p.keep(c) {
		c.Close()
		return nil, errors.Join(net.ErrClosed, err)
	}
	ours, theirs := net.Pipe()
	l := &link{Conn: ours, far: c, over: make(chan struct{})}
	go p.net.carry(l, c, theirs, p.id, to)
	go p.net.carry(l, theirs, c, to, p.id)
	return l, nil
}

// link is the dialing end of a connection.
type link struct {
	net.Conn
	far  net.Conn
	over chan struct{}
	once sync.Once
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.over) })
	l.far.Close()
	return l.Conn.Close()
}

func (l *link) RemoteAddr() net.Addr { return l.far.RemoteAddr() }

// carry takes bytes from one end to the other when they are due and the way is
// open, and ends the connection when one end does.
func (w *Network) carry(l *link, dst, src net.Conn, from, to string) {
	type parcel struct {
		b   []byte
		due time.Time
	}
	way := make(chan parcel, 64)
	go func() {
		defer close(way)
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			if n > 0 {
				_, delay, _ := w.state(from, to)
				select {
				case way <- parcel{b[:n], time.Now().Add(delay)}:
				case <-l.over:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { dst.Close(); src.Close() }()
	for p := range way {
		if wait := time.Until(p.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-l.over:
				return
			}
		}
		for {
			open, _, changed := w.state(from, to)
			if open {
				break
			}
			select {
			case <-changed:
			case <-l.over:
				return
			}
		}
		if _, err := dst.Write(p.b); err != nil {
			return
		}
	}
}

// Close takes the node off the network; what it had open ends.
func (p *Port) Close() error {
	p.once.Do(func() { close(p.closed) })
	err := p.l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
	return err
}
