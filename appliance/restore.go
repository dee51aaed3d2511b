package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/appliance/sealed"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// Restore is a backup that is to become the state of a node.
type Restore struct {
	File string // the backup
	// Passphrase is asked for if the file is sealed with one. Unsealed says that it
	// may also be one that is not.
	Passphrase func() (sealed.Passphrase, error)
	Unsealed   bool
	DataDir    string // of a node that has no log yet
	// Secret is a file with the secret of the cluster, DIR/trust/secret of any of
	// its nodes. With it the restored cluster is the same to its nodes and machines.
	Secret string
	Force  bool // also while a node of the cluster answers
	By     string
	Log    *slog.Logger
}

// Restored is what was restored, and as what.
type Restored struct {
	consensus.BackupInfo
	NodeID string `json:"node_id"` // of the node it is restored on
	// NewIdentity says that the node begins a cluster with keys of its own, which
	// the nodes of the old one have to join anew.
	NewIdentity bool `json:"new_identity"`
}

// answerTimeout is how long a node may take to show that it is there.
const answerTimeout = 2 * time.Second

// Run restores it. Everything that can be refused is refused before anything is
// written.
func (r Restore) Run(ctx context.Context) (out Restored, err error) {
	info, state, err := r.readBackup()
	if err != nil {
		return Restored{}, err
	}
	if err := r.checkDir(); err != nil {
		return Restored{}, err
	}
	if err := r.checkGone(ctx, state); err != nil {
		return Restored{}, err
	}
	keys, err := r.keys(state.Cluster())
	if err != nil {
		return Restored{}, err
	}

	giveBack := ownerOf(r.DataDir)
	dir, err := takeDataDir(r.DataDir)
	if err != nil {
		return Restored{}, err
	}
	defer dir.Close()
	defer func() { err = errors.Join(err, giveBack()) }()
	out = Restored{BackupInfo: info, NewIdentity: keys == nil}
	if keys != nil {
		if out.NodeID, err = keys(); err != nil {
			return Restored{}, err
		}
	}
	out.NodeID, err = consensus.Restore(consensus.Restoring{Dir: raftDir(r.DataDir), NodeID: out.NodeID, Info: info, State: state,
		NewIdentity: out.NewIdentity, By: r.By, Logger: r.Log, Rand: rand.Reader})
	return out, err
}

func (r Restore) readBackup() (consensus.BackupInfo, *fleet.State, error) {
	f, err := os.Open(r.File)
	if err != nil {
		return consensus.BackupInfo{}, nil, fmt.Errorf("read backup: %w", err)
	}
	defer f.Close()
	return ReadBackup(f, r.Passphrase, r.Unsealed)
}

// keepable is what may lie in the directory already: images are known by their
// digests, boot files by their hash, leases belong to the network, a socket to a life that has ended, keys are looked at on their own, and the
// rest is what an earlier try has left.
var keepable = []string{"images", "leases.db", netboot.BootFilesDir, "lpmos.sock", newSocketDir, "trust", "trust.joining", "trust.new", "raft", "raft.restoring"}

// checkDir refuses a directory that is not a node's, or holds a state.
func (r Restore) checkDir() error {
	found, err := os.ReadDir(r.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, f := range found {
		if !slices.Contains(keepable, f.Name()) {
			return fmt.Errorf("%s is not empty, and not the data directory of a node: it holds %q; restore into a directory of its own", r.DataDir, f.Name())
		}
	}
	return consensus.CheckBare(raftDir(r.DataDir))
}

// checkGone refuses while a node of the cluster is there: it would go on erasing
// by approvals that the restored one takes up, too.
func (r Restore) checkGone(ctx context.Context, s *fleet.State) error {
	if r.Force {
		return nil
	}
	var members []consensus.Member
	for _, n := range s.Nodes() {
		if n.ClusterAddress != "" {
			members = append(members, consensus.Member{ID: n.ID, Name: n.Name, Address: n.ClusterAddress})
		}
	}
	return checkGone(ctx, members, "the cluster of the backup lives",
		"remove what it no longer needs with lpmos node remove, or join this node to it with lpmos up --join")
}

// checkGone refuses while one of the nodes answers at its address.
func checkGone(ctx context.Context, members []consensus.Member, what, instead string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if alive := consensus.Answering(ctx, members, (&net.Dialer{}).DialContext); len(alive) > 0 {
		return &StillThere{Nodes: alive, What: what, Instead: instead}
	}
	return nil
}

// StillThere says that a cluster lives that was to be replaced.
type StillThere struct {
	Nodes         []consensus.Member
	What, Instead string
}

func (e *StillThere) Error() string {
	var at []string
	for _, n := range e.Nodes {
		name := n.Name
		if name == "" {
			name = n.ID
		}
		at = append(at, fmt.Sprintf("node %s answers at %s", name, n.Address))
	}
	return fmt.Sprintf("%s: %s; two halves of one cluster would both erase disks, each by its own truth: %s", e.What, strings.Join(at, " and "), e.Instead)
}

// keys prepares the identity of the node, if the cluster's can be kept: the
// function writes it and gives the node's id. It is nil for a new identity.
func (r Restore) keys(c *fleet.Cluster) (func() (string, error), error) {
	own, err := trust.Load(r.DataDir)
	have := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if !have && r.Secret == "" {
		return nil, nil
	}
	if c == nil {
		return nil, errors.New("the backup is of a cluster without keys: restore it into a directory without any, and leave --secret out")
	}
	if have && own.Cluster != c.ID {
		return nil, fmt.Errorf("%s holds the keys of cluster %s, and the backup is of %s: restore into another directory", r.DataDir, own.Cluster, c.ID)
	}
	var secret trust.Secret
	if r.Secret != "" {
		text, err := os.ReadFile(r.Secret)
		if err != nil {
			return nil, fmt.Errorf("read the cluster's secret: %w", err)
		}
		if secret, err = trust.ParseSecret(strings.TrimSpace(string(text))); err != nil {
			return nil, fmt.Errorf("%s: %w; it is the file trust/secret of a node of the cluster", r.Secret, err)
		}
	}
	if have {
		if r.Secret != "" && secret != own.Secret {
			return nil, fmt.Errorf("%s holds another secret than %s: leave --secret out, or restore into another directory", r.DataDir, r.Secret)
		}
		return func() (string, error) { return own.Node, nil }, nil
	}
	ca, err := trust.OpenCA(c.ID, c.CACert, c.Sealed, secret)
	if err != nil {
		return nil, fmt.Errorf("%s is not the secret of cluster %s: %w", r.Secret, c.ID, err)
	}
	return func() (string, error) {
		joining, err := trust.BeginJoin(r.DataDir)
		if err != nil {
			return "", err
		}
		der, err := joining.Request()
		if err != nil {
			return "", err
		}
		request, err := trust.ParseRequest(der)
		if err != nil {
			return "", err
		}
		cert, err := ca.Certify(request, time.Now())
		if err != nil {
			return "", err
		}
		id, err := joining.Finish(ca.Certificate(), cert, secret)
		if err != nil {
			return "", err
		}
		return id.Node, nil
	}, nil
}
