package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// greetTime is how long a connection may take to say what it speaks, and a TLS
	// handshake to end.
	greetTime = 5 * time.Second
	// greetsAtOnce bounds the connections that have not said yet what they are.
	greetsAtOnce = 256
	// connectionsAtOnce bounds those that are open, of all and of one address: what
	// strangers leave open must not keep others out.
	connectionsAtOnce, connectionsEach = 1024, 128
	// tlsRecord is the first byte of a TLS handshake (RFC 8446 section 5.1). No HTTP
	// method begins with it.
	tlsRecord = 0x16
)

// eitherListener takes TLS and plain connections on one port: the first byte
// decides. A handshake is finished before Accept gives the connection, so that one
// that never ends costs nobody else's turn.
type eitherListener struct {
	net.Listener
	config *tls.Config
	log    *slog.Logger

	ready chan net.Conn
	ended chan struct{} // closed when Accept of the inner listener has failed
	err   error         // then
	busy  chan struct{}
	stop  context.CancelFunc
	group sync.WaitGroup

	mu   sync.Mutex
	all  int            // connections that are open
	from map[string]int // of one address
}

func listenEither(inner net.Listener, config *tls.Config, log *slog.Logger) net.Listener {
	ctx, stop := context.WithCancel(context.Background())
	l := &eitherListener{Listener: inner, config: config, log: log, ready: make(chan net.Conn), ended: make(chan struct{}),
		busy: make(chan struct{}, greetsAtOnce), stop: stop, from: map[string]int{}}
	go l.accept(ctx)
	return l
}

func (l *eitherListener) accept(ctx context.Context) {
	defer close(l.ended)
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			var passing net.Error
			if errors.As(err, &passing) && passing.Timeout() {
				continue
			}
			l.err = err
			return
		}
		if conn = l.count(conn); conn == nil {
			continue
		}
		select {
		case l.busy <- struct{}{}:
		default: // whoever greets at once is let in again at once
			conn.Close()
			continue
		}
		l.group.Go(func() {
			greeted, err := l.greet(ctx, conn)
			<-l.busy
			if err != nil {
				conn.Close()
				l.log.Debug("a connection came to nothing", "from", conn.RemoteAddr(), "err", err)
				return
			}
			select {
			case l.ready <- greeted:
			case <-ctx.Done():
				greeted.Close()
			}
		})
	}
}

// count takes a connection in, or closes it and gives nil if there are too many.
func (l *eitherListener) count(conn net.Conn) net.Conn {
	address, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		address = "" // of a kind without ports
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= connectionsAtOnce || l.from[address] >= connectionsEach {
		conn.Close()
		return nil
	}
	l.all++
	l.from[address]++
	return &countedConn{Conn: conn, done: sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.all--
		if l.from[address]--; l.from[address] == 0 {
			delete(l.from, address)
		}
	})}
}

// countedConn is given back when it is closed.
type countedConn struct {
	net.Conn
	done func()
}

func (c *countedConn) Close() error {
	c.done()
	return c.Conn.Close()
}

// greet reads the first byte of a connection, and the handshake that follows.
func (l *eitherListener) greet(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(greetTime)); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	first := make([]byte, 1)
	if _, err := conn.Read(first); err != nil {
		return nil, err
	}
	var out net.Conn = &begunConn{Conn: conn, first: first}
	if first[0] == tlsRecord {
		secure := tls.Server(out, l.config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		out = secure
	}
	return out, conn.SetDeadline(time.Time{})
}

func (l *eitherListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.ended:
		return nil, l.err
	}
}

// Close ends the listener and every connection that was not given out yet.
func (l *eitherListener) Close() error {
	err := l.Listener.Close()
	l.stop()
	l.group.Wait()
	return err
}

// begunConn is a connection of which the first byte was read.
type begunConn struct {
	net.Conn
	first []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) > 0 && len(b) > 0 {
		b[0] = c.first[0]
		c.first = nil
		return 1, nil
	}
	return c.Conn.Read(b)
}
