package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Survivor is a node that has stopped, whose cluster has lost its majority for
// ever. It holds the directory: nobody else can open it until it is closed.
type Survivor struct {
	Node    string   // id
	Members []Member // of the cluster as this node last knew it; this node first
	// Snapshot is an index up to which everything was agreed on for sure. Last is
	// that of the newest entry here, LastAt when that was proposed. Between the two
	// may be entries that nobody was told are done.
	Snapshot, Last uint64
	LastAt         time.Time

	dir   *dataDir
	disk  *disk
	log   *slog.Logger
	state *fleet.State
	index uint64 // of the newest entry of any kind
	found raft.Configuration
}

// OpenSurvivor reads what a stopped node holds. Nothing is changed.
func OpenSurvivor(path string, log *slog.Logger) (*Survivor, error) {
	if found, err := os.ReadDir(path); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	} else if len(found) == 0 {
		return nil, fmt.Errorf("recover: %s is empty: it is no node's data directory", path)
	}
	d, k, err := openStopped(path, log)
	if err != nil {
		return nil, err
	}
	s := &Survivor{Node: d.id, dir: d, disk: k, log: log}
	if err := s.read(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close lets go of the directory.
func (s *Survivor) Close() error { return errors.Join(s.disk.bolt.Close(), s.dir.close()) }

// openStopped opens a directory that holds a log, and changes nothing in it.
func openStopped(path string, log *slog.Logger) (*dataDir, *disk, error) {
	for _, name := range []string{formatFile, idFile, dbFile} {
		if _, err := os.Stat((&dataDir{path: path}).file(name)); err != nil {
			return nil, nil, fmt.Errorf("%s is no node's data directory: %w", path, err)
		}
	}
	d, err := openDir(path, "", strings.NewReader(""))
	if err != nil {
		return nil, nil, err
	}
	k, err := readLog(d, log)
	if err != nil {
		return nil, nil, errors.Join(err, d.close())
	}
	return d, k, nil
}

// readLog opens a log to be read. Opened to be written, bbolt would write to it
// at once.
func readLog(d *dataDir, log *slog.Logger) (k *disk, err error) {
	path := d.file(dbFile)
	defer damaged(&err, path)
	snaps, err := openSnapshots(d, newRaftLogger(log))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if err := checkBolt(path); err != nil {
		return nil, unreadable(path, err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, MsgpackUseNewTimeFormat: true,
		BoltOptions: &bbolt.Options{Timeout: time.Second, ReadOnly: true}})
	if err != nil {
		return nil, unreadable(path, err)
	}
	k = &disk{path: path, bolt: bolt, logs: checked{bolt: bolt}, snaps: snaps}
	if err := k.verify(); err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	return k, nil
}

// read works out the state and who the members are.
func (s *Survivor) read() error {
	replay := &replayed{state: fleet.NewState()}
	config, err := s.disk.walk(replay)
	if err != nil {
		return err
	}
	s.state, s.index, s.found = replay.state, replay.index, config
	s.Snapshot, s.Last, s.LastAt = replay.base, replay.state.Index(), replay.at
	for _, server := range config.Servers {
		m := Member{ID: string(server.ID), Address: string(server.Address), Voter: server.Suffrage == raft.Voter}
		if node := s.state.Node(m.ID); node != nil {
			m.Name, m.Region = node.Name, node.RegionID
		}
		s.Members = append(s.Members, m)
	}
	slices.SortStableFunc(s.Members, func(a, b Member) int { return first(b.ID == s.Node) - first(a.ID == s.Node) })
	return nil
}

func first(is bool) int {
	if is {
		return 1
	}
	return 0
}

// Others are all members but the survivor itself.
func (s *Survivor) Others() []Member {
	return slices.DeleteFunc(slices.Clone(s.Members), func(m Member) bool { return m.ID == s.Node })
}

// Answering returns those members at whose address somebody is: a cluster that
// lives must not be parted in two.
func Answering(ctx context.Context, members []Member, dial func(ctx context.Context, network, address string) (net.Conn, error)) []Member {
	answers := make([]bool, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			if conn, err := dial(ctx, "tcp", m.Address); err == nil {
				conn.Close()
				answers[i] = true
			}
		})
	}
	wg.Wait()
	var out []Member
	for i, m := range members {
		if answers[i] {
			out = append(out, m)
		}
	}
	return out
}

// Recover makes the node a cluster of its own: the only voter, with every entry
// it has, whether the others had agreed on it or not. At its next start it
// begins a new epoch, for the audit by whom and why. A crash in between is mended by another call.
func (s *Survivor) Recover(by, reason string) error {
	if len(s.Members) == 1 && s.Members[0].ID == s.Node && s.Members[0].Voter {
		return fmt.Errorf("node %s is a cluster of its own already: start it with lpmos up", s.Node)
	}
	own := raft.ServerAddress(s.Node)
	if s.Members[0].ID == s.Node {
		own = raft.ServerAddress(s.Members[0].Address)
	}
	// The note first. Should the rest not come about, the node is still one of its
	// old cluster, and if it ever leads that, another epoch does no harm.
	if err := s.dir.putAnew(anew{By: by, Reason: reason}); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(s.Node)
	rc.Logger = newRaftLogger(s.log)
	_, trans := raft.NewInmemTransport(own)
	alone := raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: rc.LocalID, Address: own}}}
	if err := s.writable(); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := raft.RecoverCluster(rc, &replayed{state: fleet.NewState()}, s.disk.logs, s.disk.bolt, s.disk.snaps, trans, alone); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// writable opens the log anew, to be written.
func (s *Survivor) writable() error {
	if err := s.disk.bolt.Close(); err != nil {
		return err
	}
	bolt, err := openBolt(s.disk.path)
	if err != nil {
		return err
	}
	s.disk.bolt, s.disk.logs = bolt, checked{bolt: bolt}
	return nil
}

// replayed is a state machine that is filled from a directory and then read, or
// written as a snapshot.
type replayed struct {
	state *fleet.State
	base  uint64    // index of the snapshot it began with
	index uint64    // of the newest entry
	at    time.Time // when the newest command was proposed
	err   error     // of the first entry that was not understood
}

// Apply takes an entry. What cannot be understood is not left out: Snapshot
// refuses then, before anything is written.
func (r *replayed) Apply(l *raft.Log) any {
	r.index = l.Index
	if l.Type != raft.LogCommand || r.err != nil {
		return nil
	}
	cmds, err := fleet.DecodeEntry(l.Data)
	if err != nil {
		r.err = fmt.Errorf("%w (entry %d): %w", ErrApply, l.Index, err)
		return nil
	}
	for _, c := range cmds {
		r.state.Apply(l.Index, c) //nolint:errcheck // a refusal is an outcome like another
		r.at = c.At
	}
	return nil
}

// Restore begins with a snapshot.
func (r *replayed) Restore(in io.ReadCloser) error {
	s, err := unpackState(in)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	r.state = s
	return in.Close()
}

// Snapshot is what the state has become.
func (r *replayed) Snapshot() (raft.FSMSnapshot, error) {
	if r.err != nil {
		return nil, r.err
	}
	return picture{r.state.Snapshot()}, nil
}

// walk reads the newest snapshot and the log behind it into a state machine, and
// gives the configuration they end with.
func (k *disk) walk(into *replayed) (raft.Configuration, error) {
	var config raft.Configuration
	list, err := k.snaps.List()
	if err != nil {
		return config, fmt.Errorf("%w: list snapshots: %w", ErrCorrupt, err)
	}
	for _, meta := range list {
		_, r, err := k.snaps.Open(meta.ID)
		if err != nil {
			continue // verify has made sure that one can be read
		}
		if err := into.Restore(r); err != nil {
			if errors.Is(err, fleet.ErrNewerSnapshot) {
				return config, fmt.Errorf("the snapshot was %w: %w", ErrNewer, err)
			}
			return config, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		config, into.base, into.index = meta.Configuration, meta.Index, meta.Index
		break
	}
	last, err := k.logs.LastIndex()
	if err != nil {
		return config, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for i := into.base + 1; i <= last; i++ {
		var l raft.Log
		if err := k.logs.GetLog(i, &l); err != nil {
			return config, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if l.Type == raft.LogConfiguration {
			config = raft.DecodeConfiguration(l.Data)
		}
		into.Apply(&l)
	}
	return config, into.err
}

// membersIn reads who the members are in the directory of a stopped node.
func membersIn(path string) (m struct {
	raft.Configuration
	own string
}, err error) {
	s, err := OpenSurvivor(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return m, err
	}
	m.Configuration, m.own = s.found, s.Node
	return m, s.Close()
}
