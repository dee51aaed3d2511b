package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"syscall"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/confine"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/netboot"
)

// Confine takes from this process what a node does not need, before it serves
// anybody. It is for a process that does nothing else from then on than to be a
// node: none of it comes back.
func Confine(cfg config.Config, log *slog.Logger) error {
	// Whatever the node writes is its owner's alone, also where somebody forgot to
	// say so. Directories above its own are made before, and are for all to pass.
	defer syscall.Umask(0o077)
	u, err := confine.Find(cfg.User)
	if err != nil {
		return err
	}
	own := confine.Current()
	switch {
	case own.Root() && u.Root():
		log.Warn("this node runs as root, because it is told to (user): whoever takes it over has the whole host")
	case own.Root():
		// Only root may go before others; the threads to come have it from these.
		if err := consensus.GoFirst(); err != nil {
			log.Debug("this node runs as any other process", "reason", err)
		}
		if err := CheckDataDir(cfg.DataDir); err != nil {
			return err
		}
		if err := handOver(cfg.DataDir, u); err != nil {
			return err
		}
		if err := confine.Become(u); err != nil {
			return err
		}
		if err := confine.Passable(cfg.DataDir, u); err != nil {
			return err
		}
		log.Info("this node has given up root", "user", u.UID, "capabilities", "net_bind_service,net_raw")
	case cfg.User != "" && own.UID != u.UID:
		return fmt.Errorf("user: this process runs as user %d and cannot become %s: start it as root or as that user, or leave user out", own.UID, u)
	default:
		if err := confine.Passable(cfg.DataDir, own); err != nil {
			return err
		}
		if err := confine.CloseMemory(); err != nil {
			return err
		}
	}
	if err := confine.ForbidExec(); err != nil {
		log.Warn("this node could be made to start programs", "reason", err)
	}
	return nil
}

// handOver gives the directory to the user the node is to be. One that a node runs
// on is left alone: it would lose its files, and could not come back.
func handOver(dir string, u confine.User) error {
	if _, err := os.Lstat(dir); err == nil {
		held, err := takeDataDir(dir)
		if err != nil {
			return err
		}
		defer held.Close()
	}
	return confine.HandOver(dir, u)
}

// CheckDataDir refuses to give away a directory that is not a node's: data_dir may
// have been mistyped, and all of what it names would be another user's.
func CheckDataDir(dir string) error {
	found, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory: %w", err)
	}
	stranger := ""
	for _, f := range found {
		switch name := f.Name(); {
		case slices.Contains([]string{"raft", "raft.restoring", "trust", "trust.new", "trust.joining"}, name):
			return nil // a node's, whatever else somebody keeps there
		case !slices.Contains([]string{"images", "leases.db", netboot.BootFilesDir, "lost+found"}, name):
			stranger = name
		}
	}
	if stranger != "" {
		return fmt.Errorf("data directory %s is not empty, and no node's: it holds %q, and all of it would be given to another user; choose a directory of its own", dir, stranger)
	}
	return nil
}

// ownerOf notes whose a data directory is, and gives what root has written there
// in the meantime to that user: a node that is not root could not open it.
func ownerOf(dir string) (giveBack func() error) {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return func() error { return nil }
	}
	owner := info.Sys().(*syscall.Stat_t)
	u := confine.User{UID: int(owner.Uid), GID: int(owner.Gid)}
	if u.Root() {
		return func() error { return nil }
	}
	return func() error { return confine.HandOver(dir, u) }
}
