package consensus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// ApplyRaw puts bytes in the log as they are.
func (n *Node) ApplyRaw(b []byte) error { return n.life().raft.Apply(b, time.Minute).Error() }

// SwapState puts another state in place; an empty one makes the next rule panic.
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

// WriteBackup writes a backup of a state that no node has.
func WriteBackup(w io.Writer, info BackupInfo, s *fleet.State) (BackupInfo, error) {
	info.describe(s)
	return writeBackup(w, info, s.Snapshot())
}

// SealBackup gives the bytes a last line that fits them.
func SealBackup(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, backupEnd(int64(len(b)), sum[:])...)
}

// BackupEndBytes is how long the last line is.
var BackupEndBytes = int(backupEndBytes)

// CrashAt lets a restore stop before the step, leaving everything as it is.
func (r *Restoring) CrashAt(step int) {
	r.step = func(string) error {
		if step--; step < 0 {
			return errCrash
		}
		return nil
	}
}

// FailAt lets a step fail as it would on a bad disk.
func (r *Restoring) FailAt(step int, err error) {
	r.step = func(string) error {
		if step--; step < 0 {
			return err
		}
		return nil
	}
}

// StoredState is the state of a stopped node.
func StoredState(dir string, log *slog.Logger) (*fleet.State, error) {
	s, err := OpenSurvivor(dir, log)
	if err != nil {
		return nil, err
	}
	return s.state, s.Close()
}

// AddEntry puts an entry at the end of the log of a stopped node.
func AddEntry(dir string, kind raft.LogType, data []byte) error {
	d, k, err := openStopped(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	last, err := k.logs.LastIndex()
	if err != nil {
		return err
	}
	term, err := k.bolt.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return err
	}
	if err := k.bolt.Close(); err != nil {
		return err
	}
	w, err := openBolt(k.path)
	if err != nil {
		return err
	}
	err = checked{bolt: w}.StoreLog(&raft.Log{Index: last + 1, Term: term, Type: kind, Data: data})
	return errors.Join(err, w.Close(), d.close())
}

// LockDir holds a directory as a process does that works in it.
func LockDir(path string) (release func() error, err error) {
	f, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}

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

// AnswerLive takes the news of another node.
func (n *Node) AnswerLive(w http.ResponseWriter, r *http.Request) { n.answerLive(w, r) }

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

// The form of snapshots on disk.
var (
	PackState   = packState
	UnpackState = unpackState
)
