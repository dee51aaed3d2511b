package fleet

import "time"

// What nodes ask about their cluster, as against machines.
type (
	// PutCluster gives the cluster its identity. The first wins; the same again is
	// no error, another is refused. The result is a *Cluster.
	PutCluster struct{ Cluster Cluster }

	// RaiseEpoch begins a new age after a majority was lost: what was approved
	// before has to be approved again. The result is a *Cluster.
	//
	// With NewIdentity the cluster's keys are lost with its nodes, so the identity
	// is forgotten too, and the join tokens for it: the next PutCluster gives another.
	RaiseEpoch struct {
		Reason      string
		By          string
		NewIdentity bool `json:",omitempty"`
	}

	// CreateToken makes a join token known by the hash of its secret. The result
	// is a *Token.
	CreateToken struct {
		ID         string
		SecretHash string
		ExpiresAt  time.Time
		By         string
	}

	// RedeemToken is the compare-and-set by which a token is used once. The same
	// node may repeat it. The result is a *Token.
	RedeemToken struct {
		ID         string
		SecretHash string
		NodeID     string
	}

	// SeatNode records whether a person wants a node to have a vote. The result is
	// a *Node.
	SeatNode struct {
		ID       string
		StandsBy bool
		By       string
	}

	// RemoveNode forgets a node; addresses it may have lent stay its own for a while.
	// One that is Gone lends none any more, so that it is a short one.
	RemoveNode struct {
		ID   string
		By   string
		Gone bool `json:",omitempty"` // a person says that it will never run again
	}

	// NoteLeader records who leads, once a term.
	NoteLeader struct {
		NodeID string
		Name   string
		Term   uint64
	}

	// ClaimPool says which range of a network a node lends addresses of, and asks
	// for its share. The result is a *Pool.
	ClaimPool struct {
		NodeID  string
		Network string // "10.0.0.0/24"
		First   string
		Last    string
	}

	// YieldPool gives blocks to the node that wants them. Places that are not the
	// node's or that nobody wants are passed over, so it may be repeated. The
	// result is a *Pool.
	YieldPool struct {
		NodeID  string
		Network string
		Blocks  []int // places in Pool.Blocks
	}

	// TakePool takes blocks nobody has lent from for long enough. The result is a *Pool.
	TakePool struct {
		NodeID  string
		Network string
		Blocks  []int // places in Pool.Blocks
	}
)

func (PutCluster) commandType() string  { return "put_cluster" }
func (RaiseEpoch) commandType() string  { return "raise_epoch" }
func (CreateToken) commandType() string { return "create_token" }
func (RedeemToken) commandType() string { return "redeem_token" }
func (SeatNode) commandType() string    { return "seat_node" }
func (RemoveNode) commandType() string  { return "remove_node" }
func (NoteLeader) commandType() string  { return "note_leader" }
func (ClaimPool) commandType() string   { return "claim_pool" }
func (YieldPool) commandType() string   { return "yield_pool" }
func (TakePool) commandType() string    { return "take_pool" }
