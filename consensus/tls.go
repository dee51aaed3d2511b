package consensus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// KindJoin is spoken by a machine that has a token and no certificate yet. It
// never comes out of Accept: Joins gives these connections.
const KindJoin Kind = "lpmos-join/1"

const (
	// handshakeLimit is how long either end may take to prove what it is.
	handshakeLimit = 5 * time.Second
	// arrivalsKept is how many proven connections may wait for Accept.
	arrivalsKept = 64
	// joinsOpen is how many that have proven nothing may be open at once.
	joinsOpen = 32
)

// TLSConfig is what a TLS network needs; all of it but Address is required.
type TLSConfig struct {
	Listener net.Listener // of TCP; closed with the network
	Address  string       // where other nodes reach this one; default the listener's
	Cluster  string       // id
	CA       *x509.Certificate
	// Certificate gives the node's own, with that of the authority behind it. It
	// is asked for every connection, so a renewed one is used at once.
	Certificate func() *tls.Certificate
	// NodeOf reads out of a certificate which node of which cluster it is for.
	NodeOf func(*x509.Certificate) (node, cluster string, err error)
	Now    func() time.Time
	Logger *slog.Logger
}

// TLS is the network of real nodes: TLS 1.3, and both ends prove by a certificate
// of the cluster's authority which node they are. Whatever else knocks is
// turned away before anybody hears of it.
type TLS struct {
	cfg      TLSConfig
	roots    *x509.CertPool
	greeting greeting
	refusals refusals
	arrivals map[Kind]chan *tlsConn

	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[*tlsConn]struct{}
	joins  int // how many of conns are of KindJoin
}

// NewTLS begins to listen.
func NewTLS(cfg TLSConfig) *TLS {
	t := &TLS{cfg: cfg, roots: x509.NewCertPool(), refusals: refusals{log: cfg.Logger, now: cfg.Now},
		arrivals: map[Kind]chan *tlsConn{}, stop: make(chan struct{}), conns: map[*tlsConn]struct{}{}}
	t.roots.AddCert(cfg.CA)
	for _, k := range []Kind{KindRaft, KindCall, KindJoin} {
		t.arrivals[k] = make(chan *tlsConn, arrivalsKept)
	}
	t.wg.Go(t.listen)
	return t
}

// Address is where other nodes reach this one.
func (t *TLS) Address() string {
	if t.cfg.Address != "" {
		return t.cfg.Address
	}
	return t.cfg.Listener.Addr().String()
}

// listen takes what knocks. Each handshake is done before anybody else sees the
// connection: Raft's own loop would shake hands with the first word it reads, and
// a connection that never says one would stay for ever.
func (t *TLS) listen() {
	for {
		raw, err := t.cfg.Listener.Accept()
		if err == nil {
			t.greeting.begin(raw)
			t.wg.Go(func() { t.greet(raw) })
			continue
		}
		select {
		case <-t.stop:
			return
		case <-time.After(100 * time.Millisecond): // no descriptor is free, most likely
			t.refusals.tell("", fmt.Errorf("cannot take connections: %w", err))
		}
	}
}

// greet shakes hands and hands the connection on, or ends it.
func (t *TLS) greet(raw net.Conn) {
	defer t.greeting.end(raw)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeLimit)
	defer cancel()
	noticeDeath(raw)
	conn := tls.Server(raw, t.serverConfig())
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if !t.isClosed() {
			t.refusals.tell(hostOf(raw), handshakeError(err))
		}
		return
	}
	kind := Kind(conn.ConnectionState().NegotiatedProtocol)
	c := &tlsConn{Conn: conn, network: t, join: kind == KindJoin}
	if !c.join {
		// The handshake has checked it.
		c.peer, _, _ = t.cfg.NodeOf(conn.ConnectionState().PeerCertificates[0])
	}
	if err := t.keep(c); err != nil {
		raw.Close()
		if !errors.Is(err, net.ErrClosed) {
			t.refusals.tell(hostOf(raw), err)
		}
		return
	}
	select {
	case t.arrivals[kind] <- c:
	default:
		c.cut()
		t.refusals.tell(hostOf(raw), fmt.Errorf("%d connections of its kind wait already", arrivalsKept))
	}
}

// Accept waits for the next connection of a kind.
func (t *TLS) Accept(kind Kind) (net.Conn, string, error) {
	select {
	case <-t.stop:
		return nil, "", net.ErrClosed
	default:
	}
	select {
	case c := <-t.arrivals[kind]:
		return c, c.peer, nil
	case <-t.stop:
		return nil, "", net.ErrClosed
	}
}

// Dial connects to the node at address, which has to prove that it is one of this
// cluster.
func (t *TLS) Dial(ctx context.Context, address string, kind Kind) (net.Conn, error) {
	if t.isClosed() {
		return nil, net.ErrClosed
	}
	if ends := t.cfg.Certificate().Leaf.NotAfter; t.cfg.Now().After(ends) {
		return nil, fmt.Errorf("connect to %s: this node's own certificate ended on %s; if that is not long ago, its clock is wrong", address, ends.UTC().Format(time.DateTime))
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	raw, err := (&net.Dialer{Control: noticeDeathOf, KeepAliveConfig: keepAlive}).DialContext(ctx, "tcp", address)
	if err != nil {
		if op := new(net.OpError); errors.As(err, &op) {
			err = op.Err // which says the address again
		}
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	conn := tls.Client(raw, t.clientConfig(kind))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect to %s: %w", address, handshakeError(err))
	}
	// The handshake has checked it.
	peer, _, _ := t.cfg.NodeOf(conn.ConnectionState().PeerCertificates[0])
	c := &tlsConn{Conn: conn, network: t, peer: peer, address: address}
	if err := t.keep(c); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// CloseConnections ends every connection with a peer, named by its id or by the
// address that was dialled, and says how many there were.
func (t *TLS) CloseConnections(peer string) int {
	n := 0
	for _, c := range t.open() {
		if c.peer == peer || c.address == peer && peer != "" {
			c.cut()
			n++
		}
	}
	return n
}

// Close ends all connections and calls of Accept.
func (t *TLS) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.stop)
	t.mu.Unlock()
	err := t.cfg.Listener.Close()
	t.greeting.cut()
	for _, c := range t.open() {
		c.cut()
	}
	t.wg.Wait()
	return err
}

func (t *TLS) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

func (t *TLS) open() []*tlsConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*tlsConn, 0, len(t.conns))
	for c := range t.conns {
		out = append(out, c)
	}
	return out
}

func (t *TLS) keep(c *tlsConn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	if c.join {
		if t.joins >= joinsOpen {
			return fmt.Errorf("%d others want to join already", t.joins)
		}
		t.joins++
	}
	t.conns[c] = struct{}{}
	return nil
}

func (t *TLS) forget(c *tlsConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, kept := t.conns[c]; kept && c.join {
		t.joins--
	}
	delete(t.conns, c)
}

// tlsConn is a connection that can be found and cut.
type tlsConn struct {
	*tls.Conn
	network *TLS
	peer    string // id; empty for one that wants to join
	address string // that was dialled
	join    bool
}

// Close ends the connection in good order.
func (c *tlsConn) Close() error {
	c.network.forget(c)
	return c.Conn.Close()
}

// cut ends it without a word: a goodbye would wait for a peer that does not read.
func (c *tlsConn) cut() {
	c.network.forget(c)
	c.NetConn().Close()
}

// Joins gives the connections of those that want to join. They have proven
// nothing; this node has proven itself to them.
func (t *TLS) Joins() net.Listener { return &joinListener{network: t, done: make(chan struct{})} }

type joinListener struct {
	network *TLS
	once    sync.Once
	done    chan struct{}
}

func (l *joinListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.network.arrivals[KindJoin]:
		return c, nil
	case <-l.done:
	case <-l.network.stop:
	}
	return nil, net.ErrClosed
}

func (l *joinListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *joinListener) Addr() net.Addr { return l.network.cfg.Listener.Addr() }
