package appliance

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lpmos/lpmos/consensus"
)

// raftDir is where consensus keeps its own, below the data directory.
func raftDir(dataDir string) string { return filepath.Join(dataDir, "raft") }

// takeDataDir makes the data directory and takes it for this process. Two that
// start at once on a new one would make it two nodes. The lock is on the directory
// itself, so taking it leaves no mark: a directory of a newer version is refused as
// it was.
func takeDataDir(path string) (io.Closer, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		if _, err := consensus.KeptID(raftDir(path)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	f.Close()
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	holder := "another process"
	if b, err := os.ReadFile(filepath.Join(raftDir(path), "lock")); err == nil && len(b) > 0 {
		holder = "process " + strings.TrimSpace(string(b))
	}
	return nil, fmt.Errorf("%w by %s (%s): stop it, or give this node another data directory", consensus.ErrInUse, holder, path)
}
