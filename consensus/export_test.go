package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// ApplyRaw puts bytes in the log as they are.
func (n *Node) ApplyRaw(b []byte) error { return n.life().raft.Apply(b, time.Minute).Error() }

// SwapState puts another state in place; a nil one makes the next rule panic.
func (n *Node) SwapState(s *fleet.State) *fleet.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.state
	n.state = s
	return old
}

// CheckBolt judges a database file of that size.
func CheckBolt(f io.ReaderAt, size int64) error { return checkPages(f, size) }

// CloseLog takes the log away, so that nothing can be written any more.
func (n *Node) CloseLog() error { return n.disk.bolt.Close() }

// Save takes a snapshot now.
func (n *Node) Save() { n.save() }

// Barrier puts an entry into the log that is no command.
func (n *Node) Barrier() error { return n.life().raft.Barrier(time.Minute).Error() }

// Verified is the index that a node which leads names to who verifies.
func (n *Node) Verified(ctx context.Context) (uint64, error) {
	at, err := n.verifyHere(ctx)
	return at.Index, err
}

// Retime starts Raft anew.
func (n *Node) Retime(to time.Duration) { n.retime(to) }

// Promises opens what a stopped node keeps, as it would itself, and gives its term
// and vote.
func Promises(cfg Config) (string, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return "", err
	}
	d, err := openDir(cfg.Dir, cfg.NodeID, cfg.Rand)
	if err != nil {
		return "", err
	}
	defer d.close()
	k, err := openDisk(d, cfg)
	if err != nil {
		return "", err
	}
	defer k.bolt.Close()
	v := vault{BoltStore: k.bolt}
	term, errTerm := v.GetUint64([]byte(keyTerm))
	voteTerm, errVote := v.GetUint64([]byte(keyVoteTerm))
	cand, errCand := v.Get([]byte(keyVoteCand))
	return fmt.Sprint(term, voteTerm, string(cand)), errors.Join(errTerm, errVote, errCand)
}
