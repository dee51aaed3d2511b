package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"syscall"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"golang.org/x/sys/unix"
)

// guard stands between Raft and a disk that is full, hangs or is gone. Raft
// takes a failed write for a reason to step down, which is right for the log, and
// for a reason to panic when it is its term or vote.
type guard struct {
	dir      string
	deadline time.Duration // of one write of the log
	free     func(dir string) (uint64, error)
	failed   func(error) // told when the disk is of no use any more
	stop     <-chan struct{}

	mu      sync.Mutex
	problem error     // of the last write; nil when it went well
	at      time.Time // when that was
	writing chan struct{}
	undo    func() error // what a write that was given up may have left behind; nil: nothing
}

const (
	// roomAgain is how much has to be free before a node whose disk was full takes
	// part again at once, in bytes: bbolt grows its file by 16 MiB at a time.
	roomAgain = 32 << 20
	// With someRoom it tries again after a while: a small disk may never have more,
	// and the file need not grow. A leader that finds out that it does steps down
	// again, so it is not tried often.
	someRoom = 4 << 20
	tryAgain = 10 * time.Second
)

// errHangs says that the disk has not answered within the deadline.
var errHangs = errors.New("the disk does not answer")

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// full reports whether an error says that there is no room.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// write does one write of the log. A write that hangs is left to itself and its
// entries count as not written. Should they land after all, undo takes them away
// before the next write: Raft may put fewer in their place, and a log must not
// end with what an older leader had to say.
func (g *guard) write(f, undo func() error) error {
	if g.deadline <= 0 {
		return g.note(f())
	}
	timer := time.NewTimer(g.deadline)
	defer timer.Stop()
	g.mu.Lock()
	before := g.writing
	g.mu.Unlock()
	if before != nil {
		select {
		case <-before:
		case <-timer.C:
			return g.note(fmt.Errorf("%w for %v, with a write that began earlier", errHangs, g.deadline))
		}
	}
	done := make(chan struct{})
	var err error
	g.mu.Lock()
	g.writing = done
	left := g.undo
	g.mu.Unlock()
	go func() {
		defer close(done)
		if left != nil {
			if err = left(); err != nil {
				return
			}
		}
		err = f()
	}()
	select {
	case <-done:
		if err == nil && left != nil {
			g.mu.Lock()
			g.undo = nil
			g.mu.Unlock()
		}
		return g.note(err)
	case <-timer.C:
		g.mu.Lock()
		g.undo = func() error {
			if left != nil {
				if err := left(); err != nil {
					return err
				}
			}
			return undo()
		}
		g.mu.Unlock()
		return g.note(fmt.Errorf("%w for %v", errHangs, g.deadline))
	}
}

// settle ends what a write that was given up has begun: it waits for it and takes
// away what it left. Whoever reads the log anew must not find entries that count as
// not written, and that the next write would take away.
func (g *guard) settle() error {
	g.mu.Lock()
	writing := g.writing
	g.mu.Unlock()
	if writing != nil {
		select {
		case <-writing:
		case <-g.stop:
			return errStopping
		}
	}
	g.mu.Lock()
	left := g.undo
	g.mu.Unlock()
	if left == nil {
		return nil
	}
	if err := left(); err != nil {
		return err
	}
	g.mu.Lock()
	g.undo = nil
	g.mu.Unlock()
	return nil
}

// note remembers how a write went. What is neither full nor slow does not mend.
func (g *guard) note(err error) error {
	g.mu.Lock()
	g.problem, g.at = err, time.Now()
	g.mu.Unlock()
	if err != nil && !full(err) && !errors.Is(err, errHangs) && g.failed != nil {
		g.failed(err)
	}
	return err
}

// state is what is wrong with the disk now, nil if nothing is.
func (g *guard) state() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.problem == nil:
		return nil
	case full(g.problem):
		return ErrNoSpace
	}
	return g.problem
}

// room waits while the disk is full: an election on it would be won and lost
// again, and go on for ever. It returns when there is room or the node ends.
func (g *guard) room() bool {
	for errors.Is(g.state(), ErrNoSpace) {
		g.mu.Lock()
		waited := time.Since(g.at)
		g.mu.Unlock()
		if n, err := g.free(g.dir); err == nil && (n >= roomAgain || n >= someRoom && waited >= tryAgain) {
			g.mu.Lock()
			g.problem = nil
			g.mu.Unlock()
			return true
		}
		select {
		case <-g.stop:
			return false
		case <-time.After(500 * time.Millisecond):
		}
	}
	return true
}

// vault keeps term and vote. Its writes do not fail: they wait, and with them
// Raft, which would panic. A node that cannot write these must not vote.
type vault struct {
	*raftboltdb.BoltStore
	guard *guard
}

var errStopping = errors.New("the node is stopping")

// Raft's names in its StableStore.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"
)

func (v vault) persist(f func() error) error {
	for v.guard.room() {
		err := f()
		if err == nil {
			return nil
		}
		if !full(err) {
			v.guard.note(err) //nolint:errcheck // it is the same error
			<-v.guard.stop
			return errStopping
		}
		_ = v.guard.note(err)
	}
	return errStopping
}

// Set keeps a value.
func (v vault) Set(key, val []byte) error {
	return v.persist(func() error { return v.BoltStore.Set(key, sealed(key, val)) })
}

// Get reads a value.
func (v vault) Get(key []byte) ([]byte, error) {
	b, err := v.BoltStore.Get(key)
	if at := len(b) - sealBytes; err == nil && at >= 0 && b[at] == 0 { // else it is of the time before there were seals
		return unsealed(key, b)
	}
	return b, err
}

// GetUint64 reads a number.
func (v vault) GetUint64(key []byte) (uint64, error) {
	b, err := v.BoltStore.Get(key)
	if err == nil && len(b) != 8 { // of that time, too
		if b, err = unsealed(key, b); err == nil && len(b) != 8 {
			err = fmt.Errorf("%w: %s has %d bytes", ErrCorrupt, key, len(b))
		}
	}
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// sealBytes stand behind a value: a zero, which no address holds, and a checksum of
// key and value. A node that misremembers its vote may give a second.
const sealBytes = 5

func sealed(key, val []byte) []byte {
	out := append(slices.Clone(val), 0)
	return binary.BigEndian.AppendUint32(out, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, val))
}

func unsealed(key, b []byte) ([]byte, error) {
	at := max(0, len(b)-sealBytes)
	if !bytes.Equal(b, sealed(key, b[:at])) {
		return nil, fmt.Errorf("%w: the checksum of %s is wrong", ErrCorrupt, key)
	}
	return b[:at], nil
}

// SetUint64 keeps a number.
func (v vault) SetUint64(key []byte, val uint64) error {
	err := v.persist(func() error {
		return v.BoltStore.Set(key, sealed(key, binary.BigEndian.AppendUint64(nil, val)))
	})
	if errors.Is(err, errStopping) && string(key) == keyTerm {
		// Raft panics over this one. A term that is forgotten does no harm while no
		// vote is given in it, and none is: those are refused below.
		return nil
	}
	return err
}
