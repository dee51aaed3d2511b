package appliance

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// strangersTerm is a term that no cluster comes to by itself.
const strangersTerm = 1 << 40

// strangers sends what an open Raft port acts on: calls 0 to 4, as Raft itself writes
// them. How they end is for the caller to find out at the other end.
func strangers(t *testing.T, through raft.StreamLayer, to string) {
	t.Helper()
	from := raft.NewNetworkTransport(through, 1, 2*time.Second, io.Discard)
	defer from.Close()
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("evil"), Addr: []byte("127.0.0.1:1")}
	target := raft.ServerAddress(to)
	members := raft.Configuration{Servers: []raft.Server{{ID: "evil", Address: "127.0.0.1:1"}}}
	var failed int
	count := func(err error) {
		if err != nil {
			failed++
		}
	}
	count(from.RequestVote("x", target, &raft.RequestVoteRequest{RPCHeader: header, Term: strangersTerm, LastLogIndex: strangersTerm, LastLogTerm: strangersTerm, LeadershipTransfer: true}, &raft.RequestVoteResponse{}))
	count(from.RequestPreVote("x", target, &raft.RequestPreVoteRequest{RPCHeader: header, Term: strangersTerm}, &raft.RequestPreVoteResponse{}))
	count(from.AppendEntries("x", target, &raft.AppendEntriesRequest{RPCHeader: header, Term: strangersTerm, LeaderCommitIndex: strangersTerm}, &raft.AppendEntriesResponse{}))
	count(from.TimeoutNow("x", target, &raft.TimeoutNowRequest{RPCHeader: header}, &raft.TimeoutNowResponse{}))
	count(from.InstallSnapshot("x", target, &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Term: strangersTerm, Leader: []byte("127.0.0.1:1"),
		LastLogIndex: strangersTerm, LastLogTerm: strangersTerm, Configuration: raft.EncodeConfiguration(members), ConfigurationIndex: 1, Size: 2}, &raft.InstallSnapshotResponse{}, bytes.NewReader([]byte("{}"))))
	t.Logf("%d of 5 calls failed for the stranger", failed)
}

// plainLayer is Raft over TCP, tlsLayer the same over a TLS that shows what it likes.
type plainLayer struct{ net.Listener }

func (plainLayer) Dial(to raft.ServerAddress, limit time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(to), limit)
}

type tlsLayer struct {
	net.Listener
	config *tls.Config
}

func (l tlsLayer) Dial(to raft.ServerAddress, limit time.Duration) (net.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: limit}, "tcp", string(to), l.config)
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// An open port does act on it, so the other tests try something.
func TestS43_AnOpenPortIsTakenOver(t *testing.T) {
	port, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, 3*time.Second, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	c := raft.DefaultConfig()
	c.LocalID, c.LogOutput = "n1", io.Discard
	store := raft.NewInmemStore()
	node, err := raft.NewRaft(c, &raft.MockFSM{}, store, store, raft.NewInmemSnapshotStore(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Shutdown()
	node.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{ID: "n1", Address: port.LocalAddr()}}})
	for end := time.Now().Add(30 * time.Second); node.State() != raft.Leader; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not lead")
		}
	}
	strangers(t, plainLayer{loopback(t)}, string(port.LocalAddr()))
	if term := node.CurrentTerm(); term < strangersTerm {
		t.Errorf("the term is %d: what is sent has no effect even on an open port", term)
	}
}

// S43: the same, sent to the port of real nodes, plain and over TLS with every
// certificate a stranger can have: nothing changes.
func TestS43_NakedRaftRPC(t *testing.T) {
	n1 := mustEnter(t, memberConfig(t.TempDir(), "n1"), Invitation{})
	n2 := mustEnter(t, memberConfig(t.TempDir(), "n2"), n1.invite(t))
	n1.sees(t, "n1", "n2")
	other, err := trust.Found(t.TempDir(), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	type at struct {
		term   uint64
		leader string
		nodes  int
	}
	look := func(m *testMember) at {
		st := m.Status()
		a := at{term: st.Term, leader: st.Leader}
		m.View(func(s *fleet.State) { a.nodes = len(s.Nodes()) })
		return a
	}
	for _, m := range []*testMember{n1, n2} {
		before := look(m)
		address := m.network.Address()
		raftOnly := []string{string(consensus.KindRaft)}
		for name, through := range map[string]func(net.Listener) raft.StreamLayer{
			"plain": func(l net.Listener) raft.StreamLayer { return plainLayer{l} },
			"TLS": func(l net.Listener) raft.StreamLayer {
				return tlsLayer{l, &tls.Config{InsecureSkipVerify: true, NextProtos: raftOnly}}
			},
			"another cluster's": func(l net.Listener) raft.StreamLayer {
				return tlsLayer{l, &tls.Config{InsecureSkipVerify: true, NextProtos: raftOnly, Certificates: []tls.Certificate{*other.Certificate()}}}
			},
			"as one that may join": func(l net.Listener) raft.StreamLayer {
				return tlsLayer{l, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{string(consensus.KindJoin)}}}
			},
		} {
			strangers(t, through(loopback(t)), address)
			if after := look(m); after != before {
				t.Errorf("%s, %s: it was %+v and is %+v", m.cfg.Name, name, before, after)
			}
		}
	}
	// Both still decide.
	inv := n2.invite(t)
	if inv.Token == "" {
		t.Error("no token is given any more")
	}
	n1.sees(t, "n1", "n2")
}
