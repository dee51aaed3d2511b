package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// HandOver gives a directory and what lies in it to the user, and closes it to
// everybody else. It is made if it is not there; so are those above it, through
// which the user has to pass.
//
// The user may have been taken over since it had the directory last, and root is
// at work here: nothing is followed that leads out, and nothing is given that has
// a second name, which may be anywhere.
func HandOver(dir string, u User) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("data directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil // a socket, which is made anew
		}
		return give(root, path, u)
	})
	if err != nil {
		return fmt.Errorf("hand the data directory %s to %s: %w", dir, u, err)
	}
	return root.Chmod(".", 0o700)
}

// give gives one file or directory to the user, unless it is the user's already.
func give(root *os.Root, path string, u User) error {
	if info, err := root.Lstat(path); err != nil {
		return err
	} else if owner := info.Sys().(*syscall.Stat_t); owner.Uid == uint32(u.UID) && owner.Gid == uint32(u.GID) {
		return nil
	}
	// What is looked at and what is given are the same from here on.
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if is := info.Sys().(*syscall.Stat_t); !info.IsDir() && (!info.Mode().IsRegular() || is.Nlink > 1) {
		return fmt.Errorf("%s is not the user's, and has another name somewhere: remove it, or make it a file of its own", path)
	}
	return f.Chown(u.UID, u.GID)
}

// Passable says why this process cannot use a directory, by the first one on the
// way to it that is closed.
func Passable(dir string, u User) error {
	whole, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for i := 1; i < len(whole); i++ {
		if whole[i] != filepath.Separator {
			continue
		}
		above := whole[:i]
		if err := unix.Faccessat(unix.AT_FDCWD, above, unix.X_OK, unix.AT_EACCESS); errors.Is(err, unix.EACCES) {
			return fmt.Errorf("data directory %s: %s may not pass through %s: open that (chmod o+x %s), or choose another data_dir, for instance /var/lib/lpmos", dir, u, above, above)
		}
	}
	if err := unix.Faccessat(unix.AT_FDCWD, whole, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS); errors.Is(err, unix.EACCES) {
		return fmt.Errorf("data directory %s is not open to %s: give it to that user (chown -R), or start the node as root, which does", dir, u)
	}
	return nil
}
