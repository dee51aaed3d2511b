package consensus

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Restoring is a backup on its way into a directory that holds nothing yet.
type Restoring struct {
	Dir    string // the data directory to be, as Config.Dir; its parent is there
	NodeID string // of the node to be; empty: one is made
	Info   BackupInfo
	State  *fleet.State
	By     string // who restores it, for the audit
	// NewIdentity says that the cluster's keys are lost with its nodes, so that the
	// node makes new ones and others have to join anew.
	NewIdentity bool

	Logger *slog.Logger
	Rand   io.Reader

	step func(what string) error // called before each step that a crash may come before; tests set it
}

// restoringSuffix is put behind the name of a directory that is being restored.
const restoringSuffix = ".restoring"

// Restore makes a data directory for a cluster of one out of a backup. All of it
// is made under another name first: the directory is there whole or not at all,
// and a restore that was cut off is begun anew by the next. It returns the id of
// the node.
func Restore(r Restoring) (nodeID string, err error) {
	if err := CheckBare(r.Dir); err != nil {
		return "", err
	}
	if r.step == nil {
		r.step = func(string) error { return nil }
	}
	tmp := r.Dir + restoringSuffix
	if err := os.Mkdir(tmp, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("restore: %w", err)
	}
	lock, err := lockDir(tmp) // another restore may be at it
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := emptyBut(tmp, lockFile); err != nil {
		return "", fmt.Errorf("restore: %w", err)
	}
	d := &dataDir{path: tmp, lock: lock}
	if err := r.fill(d); err != nil {
		if errors.Is(err, errCrash) {
			return "", err
		}
		return "", errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(tmp))
	}
	// The name of a directory is free, or that of an empty one (rename(2)).
	if err := os.Rename(tmp, r.Dir); err != nil {
		return "", errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(tmp))
	}
	if err := syncDir(filepath.Dir(r.Dir)); err != nil {
		return "", fmt.Errorf("restore: %w", err)
	}
	return d.id, nil
}

// errCrash is what tests let a step fail with that is to be left as a crash
// would leave it.
var errCrash = errors.New("crashed")

// fill writes all that a node's directory holds.
func (r Restoring) fill(d *dataDir) error {
	steps := []struct {
		what string
		do   func() error
	}{
		{"name the node", func() error { return d.prepare(r.NodeID, r.Rand) }},
		{"note the new epoch", func() error {
			return d.putAnew(anew{By: r.By, Reason: fmt.Sprintf("restored from the backup of %s", r.Info.Created.Format("2006-01-02 15:04:05 MST")), NewIdentity: r.NewIdentity})
		}},
		{"make the log", func() error { return makeRestoredLog(d.file(dbFile), r.Info.Term) }},
		{"write the state", func() error { return r.writeState(d) }},
		{"sync", func() error { return syncDir(d.path) }},
	}
	for _, s := range steps {
		if err := r.step(s.what); err != nil {
			return err
		}
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return r.step("rename")
}

// makeRestoredLog makes a log without entries: all that was agreed on is in the
// snapshot, which is of this term.
func makeRestoredLog(path string, term uint64) error {
	bolt, err := openBolt(path)
	if err != nil {
		return err
	}
	return errors.Join(bolt.SetUint64([]byte("CurrentTerm"), max(term, 1)), bolt.Close())
}

// writeState writes the state as a snapshot of a cluster with this node alone.
func (r Restoring) writeState(d *dataDir) error {
	snaps, err := openSnapshots(d, newRaftLogger(r.Logger))
	if err != nil {
		return err
	}
	own := raft.ServerAddress(d.id)
	_, trans := raft.NewInmemTransport(own)
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: raft.ServerID(d.id), Address: own}}}
	sink, err := snaps.Create(1, max(r.State.Index(), 1), max(r.Info.Term, 1), alone, 1, trans)
	if err != nil {
		return err
	}
	return picture{r.State.Snapshot()}.Persist(sink)
}

// CheckBare refuses a data directory that holds something, with the way out.
func CheckBare(dir string) error {
	found, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(found) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	members, err := membersIn(dir)
	switch {
	case errors.Is(err, ErrInUse):
		return err
	case err != nil:
		return fmt.Errorf("%s holds a log already, and it cannot be read (%w): move it away, or restore into another directory", dir, err)
	case len(members.Servers) > 1:
		return fmt.Errorf("%s is that of node %s, one of the %d of a cluster: a backup in its place would be a second truth beside theirs. Remove the node from its cluster first (lpmos node remove %s, on another node) and move its directory away, or restore into another directory",
			dir, members.own, len(members.Servers), members.own)
	}
	return fmt.Errorf("%s is that of node %s already: move it away, or restore into another directory", dir, members.own)
}

// unfinishedRestore refuses to make a new directory where one is being restored:
// the node would begin with nothing, beside the state that was to be its own.
func unfinishedRestore(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(dir + restoringSuffix); err != nil {
		return nil
	}
	return fmt.Errorf("a restore into %s has not ended: run lpmos restore again, or remove %s to begin with nothing", dir, dir+restoringSuffix)
}

func emptyBut(dir, keep string) error {
	found, err := os.ReadDir(dir)
	for _, f := range found {
		if f.Name() != keep {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, f.Name())))
		}
	}
	return err
}
