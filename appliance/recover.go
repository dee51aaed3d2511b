package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/lpmos/lpmos/consensus"
)

// Recover is a node that is to go on alone because the majority of its cluster is
// lost for ever.
type Recover struct {
	DataDir string
	Force   bool // also while another node of the cluster answers
	By      string
	// Confirm is told what is about to be lost, and says no with an error.
	Confirm func(s *consensus.Survivor) error
	Log     *slog.Logger
}

// ErrAlone says that a node has no others to be recovered from.
var ErrAlone = errors.New("is a cluster of its own already; nothing was changed")

// Run makes the node a cluster of its own. The node must have stopped, and starts
// as usual afterwards.
func (r Recover) Run(ctx context.Context) (nodeID string, index uint64, err error) {
	if _, err := os.Stat(r.DataDir); errors.Is(err, fs.ErrNotExist) {
		return "", 0, fmt.Errorf("data directory: %w", err)
	}
	giveBack := ownerOf(r.DataDir)
	dir, err := takeDataDir(r.DataDir)
	if err != nil {
		return "", 0, err
	}
	defer dir.Close()
	defer func() { err = errors.Join(err, giveBack()) }()
	s, err := consensus.OpenSurvivor(raftDir(r.DataDir), r.Log)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if len(s.Others()) == 0 {
		return "", 0, fmt.Errorf("node %s %w", s.Node, ErrAlone)
	}
	if !r.Force {
		err := checkGone(ctx, s.Others(), "the cluster is not lost", "start the nodes that are left and take those that are gone out with lpmos node remove")
		if err != nil {
			return "", 0, err
		}
	}
	if err := r.Confirm(s); err != nil {
		return "", 0, err
	}
	err = s.Recover(r.By, fmt.Sprintf("the majority was lost, and node %s goes on alone from entry %d", s.Node, s.Last))
	return s.Node, s.Last, err
}
