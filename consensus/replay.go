package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// A node of several does not know after its start which entries of its log are
// agreed on, and Raft applies none until a leader says so. Without a majority
// that may take for ever, and until then machines want their addresses and their
// boot answers. So readers see at first what snapshot and log give together, read
// here on the side. It may hold the last moments of a leader that did not get
// them agreed on. That harms nobody: whatever erases a disk is a compare-and-set
// in the log, which needs the majority.

// replay makes the state that readers see until the state machine has caught up
// with it.
func (n *Node) replay() error {
	s := fleet.NewState()
	list, err := n.disk.snaps.List()
	if err != nil {
		return fmt.Errorf("%w: list snapshots: %w", ErrCorrupt, err)
	}
	from := uint64(0)
	for _, meta := range list {
		_, r, err := n.disk.snaps.Open(meta.ID)
		if err != nil {
			continue // openDisk has made sure that one can be read
		}
		restored, err := fleet.Restore(r)
		r.Close()
		if err != nil {
			return n.dir.notUnderstood(err)
		}
		s, from = restored, meta.Index
		break
	}
	first, err := n.disk.bolt.FirstIndex()
	if err != nil {
		return err
	}
	last, err := n.disk.bolt.LastIndex()
	if err != nil {
		return err
	}
	for i := max(first, from+1); i <= last && i > 0; i++ {
		var l raft.Log
		if err := n.disk.logs.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if l.Type != raft.LogCommand {
			continue
		}
		cmds, err := fleet.DecodeEntry(l.Data)
		if err != nil {
			break // the state machine will meet it, and stop with the reason
		}
		if !applies(s, i, cmds) {
			return nil // as above; what came of s is shown to nobody
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.Index() > 0 {
		n.state, n.next = s, fleet.NewState()
		n.feed.reset(s.Index())
	}
	return nil
}

// applies applies an entry, unless a rule panics over it.
func applies(s *fleet.State, index uint64, cmds []fleet.Command) (ok bool) {
	defer func() { ok = recover() == nil }()
	for _, c := range cmds {
		s.Apply(index, c) //nolint:errcheck // refusals belong to a log
	}
	return true
}

// overtake lets readers see the state machine once it is as far as what they
// see. n.mu is held.
func (n *Node) overtake() {
	if n.next != nil && n.next.Index() >= n.state.Index() {
		n.show()
	}
}

// caughtUp lets readers see the state machine whatever they saw before: it holds
// all that was agreed on, and what went beyond was not.
func (n *Node) caughtUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		n.show()
	}
}

func (n *Node) show() {
	seen := n.state.Index()
	n.state, n.next = n.next, nil
	n.progress.reset()
	// Entries up to seen may have been others than those agreed on, so who has come
	// that far has to look anew, also later, when the index is reached again.
	n.feed.reset(max(n.state.Index(), seen+1))
}
