package consensus

import (
	"context"
	"net"
)

// Kind says what is spoken on a connection between two nodes.
type Kind string

// The kinds. Each is an application protocol of its own in the TLS handshake.
const (
	KindRaft Kind = "lpmos-raft/1" // Raft itself
	KindCall Kind = "lpmos-call/1" // HTTP between nodes: progress, status, chunks; entries once upgraded
)

// Network connects the nodes of a cluster. Whoever is connected has proven which
// node it is. Two implementations are real: mutual TLS, and one in memory that
// tests cut, delay and heal.
type Network interface {
	// Address is where other nodes reach this one.
	Address() string
	// Dial connects to the node at address, whoever that is. The error of a peer
	// that is not of this cluster says so.
	Dial(ctx context.Context, address string, kind Kind) (net.Conn, error)
	// Accept waits for the next connection of a kind. peer is the id of the node
	// on the other end; whether it is a member is for the caller to judge. After
	// Close it returns net.ErrClosed.
	Accept(kind Kind) (conn net.Conn, peer string, err error)
	// Close ends all connections and calls of Accept.
	Close() error
}
