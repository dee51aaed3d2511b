package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const lockName = "lab.lock"

func socketPath(dir string) string { return filepath.Join(dir, "lab.sock") }

// lockRack makes dir a rack's home and takes it for ourselves. The lock lives
// as long as any process holds the returned file.
func lockRack(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("rack directory: %w", err)
	}
	path := filepath.Join(dir, lockName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("rack directory: %w", err)
		}
		if len(entries) > 0 {
			return nil, fmt.Errorf("%s holds %s and is no rack: choose an empty or new directory", dir, entries[0].Name())
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("rack lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("a rack is already running in %s (process %s): stop it first or choose another directory", dir, strings.TrimSpace(string(owner)))
		}
		return nil, fmt.Errorf("rack lock: %w", err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("rack lock: %w", err)
	}
	return f, nil
}

// prepare lays out the directories, the nodes' configurations and the UEFI
// variables. The caller holds the lock.
func prepare(o Options, nodes []Node, machines []Machine) error {
	if o.Reset {
		old, err := filepath.Glob(filepath.Join(o.Dir, "node-n*"))
		if err != nil {
			return fmt.Errorf("reset the rack: %w", err)
		}
		for _, path := range append(old, filepath.Join(o.Dir, "machines")) {
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("reset the rack: %w", err)
			}
		}
	}
	for _, n := range nodes {
		if err := os.MkdirAll(n.Dir, 0o755); err != nil {
			return fmt.Errorf("directory of %s: %w", n.Name, err)
		}
		config, err := nodeConfig(o, n)
		if err != nil {
			return err
		}
		if err := os.WriteFile(n.config(), config, 0o600); err != nil {
			return fmt.Errorf("configuration of %s: %w", n.Name, err)
		}
	}
	for _, m := range machines {
		if err := os.MkdirAll(m.Dir, 0o755); err != nil {
			return fmt.Errorf("machine directory: %w", err)
		}
		if m.Firmware == "uefi" {
			// Boot entries are kept in here, so a machine built before keeps its own.
			if err := copyOnce(ovmfVars, m.uefiVars()); err != nil {
				return fmt.Errorf("uefi variables of %s: %w", m.Name, err)
			}
		}
	}
	return nil
}

// makeSparse makes a file of the given size that takes no room; one that is
// already there is left alone.
func makeSparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		os.Remove(path) // or the next try would take it for an empty disk
		return err
	}
	return nil
}

func copyOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// By way of another name: half a file would be taken for a whole one next time.
	if err := os.WriteFile(to+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// lastLine is the last line of a log that says something, for an error message.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "no log: " + err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > maxLine {
		_, _ = f.Seek(-maxLine, io.SeekEnd)
	}
	tail, _ := io.ReadAll(io.LimitReader(f, maxLine))
	tail = bytes.TrimSpace(tail)
	if len(tail) == 0 {
		return "it left no message"
	}
	return string(tail[bytes.LastIndexByte(tail, '\n')+1:])
}
