package consensus

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/oklog/ulid/v2"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// format is the version of the data directory's layout. It is raised when an
// older node could not read the directory rightly.
const format = 2

const (
	formatFile = "format"
	lockFile   = "lock"
	idFile     = "node-id"
	dbFile     = "raft.db"
	// joiningFile is there until something has come from the cluster that is joined.
	joiningFile = "joining"
	timerFile   = "heartbeat"
)

// dataDir is a data directory that this process alone has open.
type dataDir struct {
	path string
	id   string
	lock *os.File
}

// openDir makes or opens the directory. One of a newer version is not touched.
func openDir(path, wantID string, random io.Reader) (*dataDir, error) {
	if err := unfinishedRestore(path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if _, err := readFormat(path); err != nil {
		return nil, err
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.prepare(wantID, random); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// prepare writes what a new directory lacks. The format is read again: another
// process may have raised it before the lock was ours.
func (d *dataDir) prepare(wantID string, random io.Reader) error {
	have, err := readFormat(d.path)
	if err != nil {
		return err
	}
	if have == 0 {
		if _, err := os.Stat(d.file(dbFile)); err == nil {
			return fmt.Errorf("%w: %s holds a log but no file %q", ErrCorrupt, d.path, formatFile)
		}
		if err := d.write(formatFile, strconv.Itoa(format)); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(d.file(idFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(d.file(dbFile)); err == nil {
			return fmt.Errorf("%w: %s holds a log but no file %q", ErrCorrupt, d.path, idFile)
		}
		d.id = wantID
		if d.id == "" {
			u, err := ulid.New(ulid.Now(), random)
			if err != nil {
				return fmt.Errorf("make node id: %w", err)
			}
			d.id = strings.ToLower(u.String())
		}
		return d.write(idFile, d.id)
	case err != nil:
		return fmt.Errorf("read node id: %w", err)
	}
	d.id = strings.TrimSpace(string(b))
	if d.id == "" {
		return fmt.Errorf("%w: %s is empty", ErrCorrupt, d.file(idFile))
	}
	if wantID != "" && wantID != d.id {
		return fmt.Errorf("data directory %s belongs to node %s, not to %s", d.path, d.id, wantID)
	}
	return nil
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// write puts a small file in place so that it is there whole or not at all,
// even after a power cut.
func (d *dataDir) write(name, content string) error {
	tmp, err := os.OpenFile(d.file(name+".new"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = tmp.WriteString(content + "\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), d.file(name))
	}
	if err == nil {
		err = syncDir(d.path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.file(name), err)
	}
	return nil
}

func (d *dataDir) has(name string) bool {
	_, err := os.Stat(d.file(name))
	return err == nil
}

// remove takes a small file away, for good.
func (d *dataDir) remove(name string) error {
	if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return syncDir(d.path)
}

// notUnderstood words why a snapshot whose checksum is right cannot be read.
func (d *dataDir) notUnderstood(err error) error {
	if errors.Is(err, fleet.ErrNewerSnapshot) {
		return fmt.Errorf("data directory %s was %w: %w", d.path, ErrNewer, err)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

func (d *dataDir) close() error { return d.lock.Close() }

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// CheckDir refuses a data directory that a newer version has written, without
// touching it.
func CheckDir(path string) error {
	_, err := readFormat(path)
	return err
}

// readFormat gives the version of the directory, 0 for one that is new.
func readFormat(path string) (int, error) {
	name := filepath.Join(path, formatFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read data directory: %w", err)
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || v < 1 {
		return 0, fmt.Errorf("%w: %s holds no version number", ErrCorrupt, name)
	}
	if v > format {
		return 0, fmt.Errorf("data directory %s was %w (format %d); upgrade this node", path, ErrNewer, v)
	}
	if v < format {
		return 0, fmt.Errorf("data directory %s was written by an lpmos older than any release (format %d): take a backup with it, and restore that with this one into another directory", path, v)
	}
	return v, nil
}

// lockDir takes the directory for this process. The kernel lets go of the lock
// when the process ends, however it ends; the number inside is for people.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data directory %s: %w", path, err)
		}
		holder := "another process"
		if b, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && len(b) > 0 {
			holder = "process " + strings.TrimSpace(string(b))
		}
		return nil, fmt.Errorf("%w by %s (%s): stop it, or give this node another data directory", ErrInUse, holder, path)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock data directory %s: %w", path, err), f.Close())
	}
	return f, nil
}
