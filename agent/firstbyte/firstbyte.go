// Package firstbyte lets one port speak TLS and plain HTTP: the first byte that
// comes says which. Firmware knows no certificates and asks without TLS; an agent
// knows its cluster and asks with it; and neither has to be told a second port.
//
// A connection is handed on only when it has said something or, for TLS, when the
// handshake is done. Until then it is a stranger's, has a few seconds, and there
// are so many of one address and no more.
package firstbyte

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// What strangers get, unless a Config says otherwise.
const (
	patience = 5 * time.Second
	perIP    = 32
	overall  = 1024
)

// handshake is the first byte of every TLS connection (RFC 8446 section 5.1); no
// method of HTTP begins with it.
const handshake = 0x16

// Config says how to listen.
type Config struct {
	TLS      *tls.Config
	Patience time.Duration // for the first byte and the handshake; 0: 5 s
	PerIP    int           // strangers of one address at a time; 0: 32
}

// Listener is a net.Listener of *tls.Conn and of plain connections.
type Listener struct {
	net.Listener
	cfg   Config
	ready chan net.Conn
	done  chan struct{}
	end   context.Context // ends with the listener
	stop  context.CancelFunc
	err   error // why it ended; set before done is closed

	mu        sync.Mutex
	strangers map[netip.Addr]int
	total     int
}

// New takes over a TCP listener.
func New(l net.Listener, cfg Config) *Listener {
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	if cfg.PerIP == 0 {
		cfg.PerIP = perIP
	}
	b := &Listener{Listener: l, cfg: cfg, ready: make(chan net.Conn), done: make(chan struct{}), strangers: map[netip.Addr]int{}}
	b.end, b.stop = context.WithCancel(context.Background())
	go b.listen()
	return b
}

// Accept gives the next connection that has said what it is.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, l.err
	}
}

// Close ends the listener, and what has not said anything yet.
func (l *Listener) Close() error {
	l.stop()
	return l.Listener.Close()
}

// listen lets strangers in until the listener ends.
func (l *Listener) listen() {
	defer close(l.done)
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			var passing interface{ Temporary() bool } // too many open files, or the caller has gone
			if l.end.Err() == nil && errors.As(err, &passing) && passing.Temporary() {
				select {
				case <-time.After(10 * time.Millisecond):
				case <-l.end.Done():
				}
				continue
			}
			l.err = err
			l.stop()
			return
		}
		from := address(c)
		if !l.enter(from) {
			_ = c.Close()
			continue
		}
		go l.greet(c, from)
	}
}

// greet finds out what a stranger speaks, and hands it on.
func (l *Listener) greet(raw net.Conn, from netip.Addr) {
	ctx, cancel := context.WithTimeout(l.end, l.cfg.Patience)
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, err := l.introduce(ctx, raw)
	l.leave(from)
	cancelled := !stop()
	cancel()
	if err != nil || cancelled {
		_ = raw.Close()
		return
	}
	select {
	case l.ready <- c:
	case <-l.end.Done():
		_ = raw.Close()
	}
}

// introduce waits for the first byte, without taking it, and then for the handshake.
func (l *Listener) introduce(ctx context.Context, raw net.Conn) (net.Conn, error) {
	first, err := peek(raw)
	if err != nil || first != handshake {
		return raw, err
	}
	c := tls.Server(raw, l.cfg.TLS)
	return c, c.HandshakeContext(ctx)
}

// peek looks at the first byte. It stays where it is, so that a plain connection is
// the kernel's own, which sends files without our copying them.
func peek(c net.Conn) (byte, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.New("firstbyte: the connection is no socket")
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	var n int
	var failed error
	err = rc.Read(func(fd uintptr) bool {
		n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		return !errors.Is(failed, syscall.EAGAIN) && !errors.Is(failed, syscall.EINTR)
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, io.EOF
	}
	return b[0], nil
}

// enter takes a place among the strangers, if there is one for this address.
func (l *Listener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= overall || l.strangers[from] >= l.cfg.PerIP {
		return false
	}
	l.total++
	l.strangers[from]++
	return true
}

func (l *Listener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.strangers[from]--; l.strangers[from] == 0 {
		delete(l.strangers, from)
	}
}

func address(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	one := ap.Addr().Unmap()
	if one.Is6() { // a host has as many of these as it wants
		one = netip.PrefixFrom(one, 64).Masked().Addr()
	}
	return one
}
