package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// disk is the log and the snapshots of one node.
type disk struct {
	path  string // of the log
	bolt  *raftboltdb.BoltStore
	logs  raft.LogStore
	snaps *snapshots
	// joining says that nothing has come from the others yet.
	joining bool
}

// keepSnapshots is how many are kept: should the newest turn out unreadable,
// the one before serves if the log still reaches back to it.
const keepSnapshots = 2

// openDisk opens the log and the snapshots. A directory without a log is given
// one in which this node is the only voter; it takes its name when it is
// complete, so that a half-made one is never mistaken for a node's memory.
//
// A node that is to join others gets an empty log: what it holds will come from
// them.
func openDisk(d *dataDir, c Config) (*disk, error) {
	rc := c.raftConfig(d.id, c.Heartbeat)
	snaps, err := openSnapshots(d, rc.Logger)
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	path := d.file(dbFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := makeLog(d, rc, snaps, c); err != nil {
			return nil, fmt.Errorf("make a new log: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := checkBolt(path); err != nil {
		return nil, unreadable(path, err)
	}
	bolt, err := openBolt(path)
	if err != nil {
		return nil, err
	}
	k := &disk{path: path, bolt: bolt, logs: checked{bolt: bolt}, snaps: snaps, joining: d.has(joiningFile)}
	if err := k.verify(); err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	return k, nil
}

// makeLog makes a new log: empty for a node that joins, else one in which this
// node is the only voter.
func makeLog(d *dataDir, rc *raft.Config, snaps *snapshots, c Config) error {
	if list, err := snaps.List(); err != nil || len(list) > 0 {
		return fmt.Errorf("%w: %s holds snapshots but no log", ErrCorrupt, d.path)
	}
	tmp := d.file(dbFile + ".new")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if c.Join {
		if err := d.write(joiningFile, "waiting for the others"); err != nil {
			return err
		}
	}
	bolt, err := openBolt(tmp)
	if err != nil {
		return err
	}
	if !c.Join {
		own := raft.ServerAddress(d.id)
		if c.Network != nil {
			own = raft.ServerAddress(c.Network.Address())
		}
		_, trans := raft.NewInmemTransport(own)
		only := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: rc.LocalID, Address: own}}}
		err = raft.BootstrapCluster(rc, checked{bolt: bolt}, bolt, snaps, trans, only)
	}
	if err = errors.Join(err, bolt.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, d.file(dbFile)); err != nil {
		return err
	}
	return syncDir(d.path)
}

func openBolt(path string) (store *raftboltdb.BoltStore, err error) {
	defer damaged(&err, path)
	store, err = raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout: time.Second, // the lock file has settled already who may open it
			// The list of free pages is rebuilt at start instead of written with
			// every entry, and the map keeps its cost flat after truncations.
			NoFreelistSync:  true,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: 256 << 20, // growing the map stops all readers
		},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, unreadable(path, err)
	}
	return store, nil
}

// unreadable tells damage from a file that the system would not give us.
func unreadable(path string, err error) error {
	var system *fs.PathError
	if errors.As(err, &system) && !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("open log: %w", err)
	}
	return fmt.Errorf("%w: read %s: %w", ErrCorrupt, path, err)
}

// verify reads the whole log once, so that damage is found now and told in one
// sentence, not met later in the middle of an install. The log is short (see
// Config.SnapshotBytes), so this costs a fraction of a second.
func (k *disk) verify() (err error) {
	defer damaged(&err, k.path)
	first, err := k.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, k.path, err)
	}
	last, err := k.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, k.path, err)
	}
	base, err := k.newestSnapshot()
	if err != nil {
		return err
	}
	var l raft.Log
	for i := first; i <= last && i > 0; i++ {
		var one raft.Log
		err := k.logs.GetLog(i, &one)
		if errors.Is(err, raft.ErrLogNotFound) && i <= base {
			continue // the leader sent a snapshot in the place of what came between
		}
		if err != nil {
			return fmt.Errorf("%w: %s: entry %d: %w", ErrCorrupt, k.path, i, err)
		}
		l = one
	}
	// The term is written before any entry of it. Reading panics if it is cut.
	promises := vault{BoltStore: k.bolt}
	term, err := promises.GetUint64([]byte(keyTerm))
	if k.joining && last == 0 && (err == nil || errors.Is(err, raftboltdb.ErrKeyNotFound)) {
		return nil
	}
	if err != nil || term < l.Term {
		return fmt.Errorf("%w: %s: term %d behind a log of term %d (%v)", ErrCorrupt, k.path, term, l.Term, err)
	}
	_, errTerm := promises.GetUint64([]byte(keyVoteTerm))
	_, errCand := promises.Get([]byte(keyVoteCand))
	for _, err := range []error{errTerm, errCand} {
		if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return fmt.Errorf("%w: %s: last vote: %w", ErrCorrupt, k.path, err)
		}
	}
	if last > base && (first == 0 || first > base+1) {
		return fmt.Errorf("%w: the log begins at entry %d but the newest readable snapshot ends at %d", ErrCorrupt, first, base)
	}
	if last == 0 && base == 0 {
		return fmt.Errorf("%w: %s is empty", ErrCorrupt, k.path)
	}
	return nil
}

// newestSnapshot is the index of the newest snapshot whose checksum is right, 0
// if there never was one.
func (k *disk) newestSnapshot() (uint64, error) {
	list, err := k.snaps.List()
	if err != nil {
		return 0, fmt.Errorf("%w: list snapshots: %w", ErrCorrupt, err)
	}
	var bad error
	for _, meta := range list {
		_, r, err := k.snaps.Open(meta.ID)
		if err == nil {
			return meta.Index, r.Close()
		}
		bad = err
	}
	if bad != nil {
		return 0, fmt.Errorf("%w: no snapshot can be read: %w", ErrCorrupt, bad)
	}
	return 0, nil
}

// damaged turns a panic inside the database code, which trusts its file, into
// an error.
func damaged(err *error, path string) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: read %s: %v", ErrCorrupt, path, r)
	}
}
