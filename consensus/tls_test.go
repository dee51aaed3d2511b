package consensus_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
)

// authority signs certificates for names such as n1.c1: node n1 of cluster c1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = certificate(t, "authority", nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		c.ExtKeyUsage = nil
	})
	return a
}

func certificate(t testing.TB, name string, by *authority, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(c)
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) sign(t testing.TB, name string, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	cert, key := certificate(t, name, a, change)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}
}

func nodeOf(cert *x509.Certificate) (node, cluster string, err error) {
	node, cluster, ok := strings.Cut(cert.DNSNames[0], ".")
	if !ok {
		return "", "", errors.New("it is no certificate of a node")
	}
	return node, cluster, nil
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count() int { return strings.Count(l.String(), "\n") }

// tlsNode is a network on loopback with its log.
type tlsNode struct {
	*consensus.TLS
	log *lines
}

func newTLS(t testing.TB, a *authority, cert *tls.Certificate) tlsNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, cluster, err := nodeOf(cert.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	n := consensus.NewTLS(consensus.TLSConfig{Listener: l, Cluster: cluster, CA: a.cert, NodeOf: nodeOf, Now: time.Now,
		Certificate: func() *tls.Certificate { return cert }, Logger: slog.New(slog.NewTextHandler(log, nil))})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return tlsNode{n, log}
}

func dial(t testing.TB, from, to tlsNode, kind consensus.Kind) net.Conn {
	t.Helper()
	conn, err := from.Dial(t.Context(), to.Address(), kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func accept(t testing.TB, n tlsNode, kind consensus.Kind) (net.Conn, string) {
	t.Helper()
	conn, peer, err := n.Accept(kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, peer
}

// until waits for a condition that has to come.
func until(t testing.TB, limit time.Duration, what string, is func() bool) {
	t.Helper()
	end := time.After(limit)
	for look := time.NewTicker(5 * time.Millisecond); !is(); {
		select {
		case <-look.C:
		case <-end:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func say(t testing.TB, from, to net.Conn, text string) {
	t.Helper()
	if _, err := from.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("%q arrived as %q: %v", text, got, err)
	}
}

func TestNodesOfAClusterMeet(t *testing.T) {
	a := newAuthority(t)
	n1, n2 := newTLS(t, a, a.sign(t, "n1.c1", nil)), newTLS(t, a, a.sign(t, "n2.c1", nil))
	for _, kind := range []consensus.Kind{consensus.KindRaft, consensus.KindCall} {
		out := dial(t, n1, n2, kind)
		in, peer := accept(t, n2, kind)
		if peer != "n1" {
			t.Errorf("%s: the peer is %q", kind, peer)
		}
		say(t, out, in, "hello")
		say(t, in, out, "hello yourself")
		if state := out.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState(); state.Version != tls.VersionTLS13 || state.DidResume {
			t.Errorf("%s: version %x, resumed %v", kind, state.Version, state.DidResume)
		}
	}
	if n1.log.count()+n2.log.count() > 0 {
		t.Errorf("there was nothing to say: %s%s", n1.log, n2.log)
	}
}

func TestDeadlinesHold(t *testing.T) {
	a := newAuthority(t)
	n1, n2 := newTLS(t, a, a.sign(t, "n1.c1", nil)), newTLS(t, a, a.sign(t, "n2.c1", nil))
	out := dial(t, n1, n2, consensus.KindRaft)
	in, _ := accept(t, n2, consensus.KindRaft)
	if err := in.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read outlived its deadline: %v", err)
	}
	if err := in.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	say(t, out, in, "still here") // a deadline that passed is no end
	if err := out.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var err error
	for block := make([]byte, 1<<20); err == nil; {
		_, err = out.Write(block) // nobody reads
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write outlived its deadline: %v", err)
	}
}

func TestACertificateIsLookedUpForEachConnection(t *testing.T) {
	a := newAuthority(t)
	n1 := newTLS(t, a, a.sign(t, "n1.c1", nil))
	renewed := a.sign(t, "n2.c1", nil)
	cert := *a.sign(t, "n2.c1", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })
	n2 := newTLS(t, a, &cert)
	if _, err := n1.Dial(t.Context(), n2.Address(), consensus.KindCall); err == nil || !strings.Contains(err.Error(), "certificate of node n2 holds from") {
		t.Errorf("a server whose certificate has ended: %v", err)
	}
	if _, err := n2.Dial(t.Context(), n1.Address(), consensus.KindCall); err == nil || !strings.Contains(err.Error(), "own certificate ended") {
		t.Errorf("a client whose certificate has ended: %v", err)
	}
	until(t, 10*time.Second, "n2 tells that it was refused", func() bool { return n2.log.count() == 1 })
	cert = *renewed
	dial(t, n1, n2, consensus.KindCall)
	dial(t, n2, n1, consensus.KindCall)
}

// offer dials as no node would and gives how that ends: the handshake alone does
// not tell, since in TLS 1.3 the client is done before the server has judged.
func offer(address string, c *tls.Config) error {
	c.InsecureSkipVerify = true
	conn, err := tls.Dial("tcp", address, c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestS44_WrongCertificates(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	raft := []string{string(consensus.KindRaft)}
	alone, key := certificate(t, "n2.c1", nil, nil)
	for _, c := range []struct {
		name, want string
		client     *tls.Config
	}{
		{"none", "client didn't provide a certificate", &tls.Config{NextProtos: raft}},
		{"another authority", "did not sign that", &tls.Config{NextProtos: raft, Certificates: []tls.Certificate{*theirs.sign(t, "n2.c1", nil)}}},
		{"its own", "did not sign that", &tls.Config{NextProtos: raft,
			Certificates: []tls.Certificate{{Certificate: [][]byte{alone.Raw}, PrivateKey: key, Leaf: alone}}}},
		{"another cluster", "it is of another cluster: it is node n2 of cluster c2, and this is cluster c1", &tls.Config{NextProtos: raft, Certificates: []tls.Certificate{*ours.sign(t, "n2.c2", nil)}}},
		{"no node", "no certificate of a node", &tls.Config{NextProtos: raft, Certificates: []tls.Certificate{*ours.sign(t, "agent", nil)}}},
		{"ended", "set the clock", &tls.Config{NextProtos: raft, Certificates: []tls.Certificate{
			*ours.sign(t, "n2.c1", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}},
		{"not begun", "set the clock", &tls.Config{NextProtos: raft, Certificates: []tls.Certificate{
			*ours.sign(t, "n2.c1", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })}}},
		{"of servers only", "incompatible key usage", &tls.Config{NextProtos: raft, Certificates: []tls.Certificate{
			*ours.sign(t, "n2.c1", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}}},
		{"an old TLS", "unsupported versions", &tls.Config{NextProtos: raft, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*ours.sign(t, "n2.c1", nil)}}},
		{"another protocol", "unsupported application protocols", &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*ours.sign(t, "n2.c1", nil)}}},
		{"no protocol", "does not say what it wants to speak", &tls.Config{Certificates: []tls.Certificate{*ours.sign(t, "n2.c1", nil)}}},
		{"a newcomer that wants more", "client didn't provide a certificate", &tls.Config{NextProtos: []string{string(consensus.KindJoin), string(consensus.KindRaft)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newTLS(t, ours, ours.sign(t, "n1.c1", nil))
			err := offer(n.Address(), c.client)
			if alert := new(net.OpError); !errors.As(err, &alert) || alert.Op != "remote error" {
				t.Errorf("it was not refused with an alert: %v", err)
			}
			refusedOnce(t, n, c.want)
		})
	}
}

// refusedOnce wants one line in the log, and nobody to have come in.
func refusedOnce(t *testing.T, n tlsNode, want string) {
	t.Helper()
	until(t, 10*time.Second, "a line in the log", func() bool { return n.log.count() > 0 })
	if text := n.log.String(); n.log.count() != 1 || !strings.Contains(text, want) || !strings.Contains(text, "from=127.0.0.1") {
		t.Errorf("the log says %s, want one line with %q", text, want)
	}
	came := make(chan string, 3)
	for _, kind := range []consensus.Kind{consensus.KindRaft, consensus.KindCall} {
		go func() {
			_, peer, err := n.Accept(kind)
			came <- fmt.Sprint(kind, " ", peer, " ", err)
		}()
	}
	go func() {
		_, err := n.Joins().Accept()
		came <- fmt.Sprint("join ", err)
	}()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	for range cap(came) {
		if got := <-came; !strings.Contains(got, net.ErrClosed.Error()) {
			t.Errorf("somebody came in: %s", got)
		}
	}
}

func TestS43_PlainRaftAndGarbage(t *testing.T) {
	a := newAuthority(t)
	// An InstallSnapshot as an open Raft port would take it: the kind, then a map
	// with a term no cluster reaches.
	snapshot := append([]byte{2, 0x8a, 0xa4, 'T', 'e', 'r', 'm', 0xcf, 0, 0, 1, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{0xc0}, 310)...)
	for name, packet := range map[string][]byte{
		"an InstallSnapshot": snapshot,
		"a TimeoutNow":       {3, 0x80},
		"HTTP":               []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"zeros":              make([]byte, 4096),
		"a broken hello":     append([]byte{22, 3, 1, 2, 0}, bytes.Repeat([]byte{1}, 512)...),
	} {
		t.Run(name, func(t *testing.T) {
			n := newTLS(t, a, a.sign(t, "n1.c1", nil))
			conn, err := net.Dial("tcp", n.Address())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(packet); err != nil {
				t.Fatal(err)
			}
			_ = conn.(*net.TCPConn).CloseWrite() // unless it is cut already
			answer, _ := io.ReadAll(conn)        // an alert or a reset: the log tells which
			if len(answer) > 7 {
				t.Errorf("it was answered with %d bytes", len(answer))
			}
			refusedOnce(t, n, "refused a connection")
		})
	}
}

func TestDiallingWhatIsNoNodeOfOurs(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	us := newTLS(t, ours, ours.sign(t, "n1.c1", nil))
	other, forged := newTLS(t, theirs, theirs.sign(t, "n9.c9", nil)), newTLS(t, theirs, theirs.sign(t, "n9.c1", nil))
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "220 mail.example ESMTP ready\r\n")
			conn.Close()
		}
	}()
	closed := newTLS(t, ours, ours.sign(t, "n3.c1", nil))
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, address, want string }{
		{"another cluster", other.Address(), "it is of another cluster: it is node n9 of cluster c9, and this is cluster c1"},
		{"another authority", forged.Address(), "it is of another cluster"},
		{"a mail server", plain.Addr().String(), "does not speak TLS"},
		{"nobody", closed.Address(), "connection refused"},
	} {
		if _, err := us.Dial(t.Context(), c.address, consensus.KindRaft); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "connect to "+c.address) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := us.Dial(ctx, other.Address(), consensus.KindRaft); !errors.Is(err, context.Canceled) {
		t.Errorf("a dial that nobody waits for: %v", err)
	}
	if _, err := closed.Dial(t.Context(), us.Address(), consensus.KindRaft); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a network that is closed dials: %v", err)
	}
}
