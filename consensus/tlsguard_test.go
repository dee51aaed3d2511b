package consensus_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestS45_ThousandSilentConnections(t *testing.T) {
	a := newAuthority(t)
	n1, n2 := newTLS(t, a, a.sign(t, "n1.c1", nil)), newTLS(t, a, a.sign(t, "n2.c1", nil))
	before := runtime.NumGoroutine()
	var silent []net.Conn
	for range 1000 {
		conn, err := net.Dial("tcp", n1.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	// Those that are cut off to make room take a moment to end.
	until(t, 3*time.Second, "few goroutines serve those that say nothing", func() bool { return runtime.NumGoroutine()-before <= 200 })
	// A node gets in all the same, though it has their address.
	out := dial(t, n2, n1, consensus.KindRaft)
	in, peer := accept(t, n1, consensus.KindRaft)
	if peer != "n2" {
		t.Errorf("the peer is %q", peer)
	}
	say(t, out, in, "hello")
	until(t, 10*time.Second, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before+1 })
	for _, conn := range silent {
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("a connection was kept: %v", err)
		}
	}
	if n1.log.count() > 3 {
		t.Errorf("a flood of connections became a flood of lines:\n%s", n1.log)
	}
}

func TestNewcomersMayJoinAndNothingElse(t *testing.T) {
	a := newAuthority(t)
	n := newTLS(t, a, a.sign(t, "n1.c1", nil))
	joins := n.Joins()
	conn, err := tls.Dial("tcp", n.Address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{string(consensus.KindJoin)}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if shown := conn.ConnectionState().PeerCertificates; len(shown) != 2 || !shown[1].Equal(a.cert) {
		t.Errorf("the newcomer sees %d certificates, it needs the authority's", len(shown))
	}
	in, err := joins.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	say(t, conn, in, "let me in")
	if err := joins.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := joins.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestS45_ThereAreNotManyNewcomersAtOnce(t *testing.T) {
	a := newAuthority(t)
	n := newTLS(t, a, a.sign(t, "n1.c1", nil))
	newcomer := func() (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", n.Address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{string(consensus.KindJoin)}})
		if err != nil {
			return nil, err
		}
		return conn, conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	}
	for range 32 {
		conn, err := newcomer()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	over, err := newcomer()
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	if _, err := over.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) {
		t.Errorf("one too many was kept: %v", err)
	}
	until(t, 10*time.Second, "a line in the log", func() bool { return n.log.count() > 0 })
	if n.log.count() != 1 || !strings.Contains(n.log.String(), "32 others want to join already") {
		t.Errorf("the log says: %s", n.log)
	}
}

func TestConnectionsOfAPeerCanBeCut(t *testing.T) {
	a := newAuthority(t)
	n1, n2, n3 := newTLS(t, a, a.sign(t, "n1.c1", nil)), newTLS(t, a, a.sign(t, "n2.c1", nil)), newTLS(t, a, a.sign(t, "n3.c1", nil))
	out := dial(t, n1, n2, consensus.KindRaft)
	in, _ := accept(t, n2, consensus.KindRaft)
	other := dial(t, n1, n3, consensus.KindRaft)
	otherIn, _ := accept(t, n3, consensus.KindRaft)
	if n := n1.CloseConnections(n2.Address()); n != 1 {
		t.Errorf("%d connections were cut by address", n)
	}
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("the peer did not notice")
	}
	if _, err := out.Write([]byte("x")); err == nil {
		t.Error("the connection is still good")
	}
	say(t, other, otherIn, "hello")
	if n := n3.CloseConnections("n1"); n != 1 {
		t.Errorf("%d connections were cut by id", n)
	}
	if _, err := other.Read(make([]byte, 1)); err == nil {
		t.Error("the peer did not notice")
	}
	if n := n1.CloseConnections(""); n != 0 {
		t.Errorf("nobody's connections: %d", n)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	a := newAuthority(t)
	n1, n2 := newTLS(t, a, a.sign(t, "n1.c1", nil)), newTLS(t, a, a.sign(t, "n2.c1", nil))
	out := dial(t, n1, n2, consensus.KindRaft)
	accept(t, n2, consensus.KindRaft)
	silent, err := net.Dial("tcp", n2.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	waiting := make(chan error, 1)
	go func() {
		_, _, err := n2.Accept(consensus.KindCall)
		waiting <- err
	}()
	began := time.Now()
	if err := errors.Join(n2.Close(), n2.Close()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := out.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("the peer: %v", err)
	}
}

// A peer that a cable was pulled from says nothing any more. The test pulls one
// in a network of its own: it needs root, as the tests of the command line do.
func TestADeadPeerIsNoticed(t *testing.T) {
	a := newAuthority(t)
	ended := make(chan error, 2)
	var began time.Time
	// This thread moves into a network of its own and ends with its goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network for the test: %v", err)
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Error(err)
			return
		}
		n1, n2 := newTLS(t, a, a.sign(t, "n1.c1", nil)), newTLS(t, a, a.sign(t, "n2.c1", nil))
		dialled, err := n1.Dial(t.Context(), n2.Address(), consensus.KindRaft)
		if err != nil {
			t.Error(err)
			return
		}
		accepted, _, err := n2.Accept(consensus.KindRaft)
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.LinkSetDown(lo); err != nil {
			t.Error(err)
			return
		}
		began = time.Now()
		for _, c := range []net.Conn{dialled, accepted} {
			go func() {
				_, err := c.Read(make([]byte, 1))
				ended <- err
			}()
		}
	}()
	<-done
	if t.Failed() {
		return
	}
	for range 2 {
		select {
		case err := <-ended:
			if !errors.Is(err, syscall.ETIMEDOUT) {
				t.Errorf("the connection ended with: %v", err)
			}
		case <-time.After(15 * time.Second):
			t.Fatal("nobody noticed")
		}
	}
	if took := time.Since(began); took < 2*time.Second || took > 12*time.Second {
		t.Errorf("it was noticed after %s", took)
	}
}
