package consensus

import (
	"context"
)

// until CORE lands
func (n *Node) Verify(ctx context.Context) error {
	if err := n.Ready(ctx); err != nil {
		return err
	}
	return n.raft.Barrier(proposeTimeout).Error()
}
func (n *Node) term() uint64 { return n.raft.CurrentTerm() }
