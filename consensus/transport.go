package consensus

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// rpcTime bounds one call of Raft to another node; sending a snapshot may take
// longer, by its size.
const rpcTime = 5 * time.Second

// carrier is Raft's transport over a Network. Every life of Raft (see timers.go)
// has one of its own, the Network under it stays.
type carrier struct {
	*raft.NetworkTransport
	rpcs chan raft.RPC // what the transport receives, and what tell puts there
	stop chan struct{}
}

func newCarrier(n *Node, rc *raft.Config) *carrier {
	w := &carrier{rpcs: make(chan raft.RPC), stop: make(chan struct{})}
	w.NetworkTransport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: &stream{n: n, stop: w.stop}, MaxPool: 3, Timeout: rpcTime, Logger: rc.Logger,
		// With pipelining a follower that was hit by connection faults can stay
		// behind for good (hashicorp/raft issue 612), and a leader whose disk hangs
		// never steps down (issue 503).
		MaxRPCsInFlight: 1, MsgpackUseNewTimeFormat: true,
	})
	go func() {
		for {
			select {
			case <-w.stop:
				return
			case rpc := <-w.NetworkTransport.Consumer():
				if asksForVote(rpc) && n.joining.Load() {
					// It may have voted and acknowledged entries before it lost its
					// log: it has no say before it has all of that again.
					rpc.Respond(nil, errors.New("this node is being filled and does not vote"))
					continue
				}
				w.put(rpc)
			}
		}
	}()
	return w
}

func asksForVote(rpc raft.RPC) bool {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest, *raft.TimeoutNowRequest:
		return true
	}
	return false
}

func (w *carrier) put(rpc raft.RPC) {
	select {
	case w.rpcs <- rpc:
	case <-w.stop:
	}
}

// Consumer gives Raft what came for it.
func (w *carrier) Consumer() <-chan raft.RPC { return w.rpcs }

// Close ends this life's connections.
func (w *carrier) Close() error {
	select {
	case <-w.stop:
		return nil
	default:
	}
	close(w.stop)
	return w.NetworkTransport.Close()
}

// committed hands Raft the leader's word that an entry is committed, which came
// by the answer to a forwarded proposal. It is the very message that the leader
// would send a little later (up to twice CommitTimeout): an AppendEntries without
// entries that names the entry before it, so Raft checks that its log holds that
// entry. A node that has not got it yet refuses, and waits for the leader.
func (w *carrier) committed(ctx context.Context, leader raft.ServerID, address raft.ServerAddress, at entered) {
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{RespChan: answer, Command: &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: w.EncodePeer(leader, address)},
		Term:      at.Term, PrevLogEntry: at.Index, PrevLogTerm: at.Term, LeaderCommitIndex: at.Index,
	}}
	// Raft may be held back by its disk, or for good in a node that has broken down.
	select {
	case w.rpcs <- rpc:
	case <-w.stop:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-answer:
	case <-w.stop:
	case <-ctx.Done():
	}
}

// stream is the Network as Raft's transport uses it.
type stream struct {
	n    *Node
	stop chan struct{}
}

// Accept gives the next connection of a member. Whoever has a certificate of the
// cluster but is no member (any more) is turned away here: removing a node needs
// no list of revoked certificates.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.n.raftConns:
		return c, nil
	case <-s.stop:
		return nil, net.ErrClosed
	}
}

// Close leaves the Network open for the next life.
func (s *stream) Close() error { return nil }

// Addr is where this node is reached.
func (s *stream) Addr() net.Addr { return address(s.n.cfg.Network.Address()) }

// Dial connects to another node.
func (s *stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := s.n.cfg.Network.Dial(ctx, string(to), KindRaft)
	if err != nil {
		return nil, err
	}
	return s.n.conns.add(string(to), c), nil
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// acceptRaft takes Raft connections from the network for as long as the node
// lives, whichever life of Raft serves them.
func (n *Node) acceptRaft() {
	defer n.wg.Done()
	for {
		c, peer, err := n.cfg.Network.Accept(KindRaft)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				n.log.Error("no more connections of other nodes are taken", "error", err)
			}
			return
		}
		if !n.mayTalk(peer) {
			n.log.Warn("a node that is no member wants to speak Raft and was turned away", slog.String("node", peer), slog.String("from", c.RemoteAddr().String()))
			c.Close()
			continue
		}
		select {
		case n.raftConns <- c:
		case <-n.stop:
			c.Close()
			return
		}
	}
}
