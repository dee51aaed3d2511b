package consensus

import (
	"errors"
	"fmt"
	"io"
	"strings"

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
// with it. A node that votes alone needs none: it finds out at once what is agreed
// on.
func (n *Node) replay() error {
	base, config, err := n.baseSnapshot()
	if err != nil {
		return err
	}
	defer base.Close() //nolint:errcheck // it was only read
	first, err := n.disk.logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := n.disk.logs.LastIndex()
	if err != nil {
		return err
	}
	first = max(first, base.index+1, 1)
	if err := n.entries(first, last, func(l *raft.Log) bool {
		if l.Type == raft.LogConfiguration {
			config = raft.DecodeConfiguration(l.Data)
		}
		return true
	}); err != nil || n.votesAlone(config) {
		return err
	}
	s := fleet.NewState()
	if base.index > 0 {
		if s, err = unpackState(base); err != nil {
			return n.dir.notUnderstood(err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if base.newest {
		// The state machine begins with the same, and need not read it again.
		n.next, n.restored = s.Clone(), base.index
	} else {
		n.next = fleet.NewState()
	}
	whole := true
	err = n.entries(first, last, func(l *raft.Log) bool {
		if l.Type != raft.LogCommand {
			return true
		}
		cmds, err := fleet.DecodeEntry(l.Data)
		if err != nil {
			return false // the state machine will meet it, and stop with the reason
		}
		whole = applies(s, l.Index, cmds) // or as above, and s is shown to nobody
		return whole
	})
	if err != nil || !whole || s.Index() == 0 {
		n.next, n.restored = nil, 0
		return err
	}
	n.state = s
	n.feed.reset(s.Index())
	return nil
}

// base is the snapshot that a state begins with.
type base struct {
	io.ReadCloser
	index  uint64 // 0: there is none
	newest bool   // of all, also those that cannot be read
}

// baseSnapshot finds the newest snapshot that can be read, and who the members
// were then.
func (n *Node) baseSnapshot() (b base, config raft.Configuration, err error) {
	list, err := n.disk.snaps.List()
	if err != nil {
		return b, config, fmt.Errorf("%w: list snapshots: %w", ErrCorrupt, err)
	}
	for i, meta := range list {
		_, r, err := n.disk.snaps.Open(meta.ID)
		if err != nil {
			continue // openDisk has made sure that one can be read
		}
		return base{r, meta.Index, i == 0}, meta.Configuration, nil
	}
	return base{ReadCloser: io.NopCloser(strings.NewReader(""))}, config, nil
}

// entries reads the log from one entry to another, until f says no.
func (n *Node) entries(first, last uint64, f func(l *raft.Log) bool) error {
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := n.disk.logs.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			continue
		} else if err != nil {
			return err
		}
		if !f(&l) {
			return nil
		}
	}
	return nil
}

func (n *Node) votesAlone(c raft.Configuration) bool {
	alone := false
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			alone = string(s.ID) == n.dir.id
			if !alone {
				return false
			}
		}
	}
	return alone
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
