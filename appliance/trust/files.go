package trust

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// The files of an identity, below the data directory.
const (
	dirName     = "trust"         // whole, or not there
	foundName   = "trust.new"     // an identity being made; worthless until it is renamed
	joiningName = "trust.joining" // the key of a node that is about to join

	caFile      = "ca.pem"
	certFile    = "node.pem"
	keyFile     = "node.key"
	secretFile  = "secret"
	clusterFile = "cluster"
	// sealedFile is there only until the log of a new cluster holds what is in it.
	sealedFile = "ca.sealed"
)

// disk writes files so that they are there whole or not at all, even after a
// power cut. Before each step that a crash could part from the next it calls
// step, which only tests set.
type disk struct{ step func(what string) error }

func (d disk) at(what string) error {
	if d.step == nil {
		return nil
	}
	return d.step(what)
}

func (d disk) mkdir(path string) error {
	if err := d.at("mkdir " + path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o700)
}

func (d disk) write(path string, content []byte) error {
	if err := d.at("create " + path); err != nil {
		return err
	}
	tmp, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return d.rename(path+".tmp", path)
}

func (d disk) rename(from, to string) error {
	if err := d.at("rename " + from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return d.sync(filepath.Dir(to))
}

func (d disk) remove(path string) error {
	if err := d.at("remove " + path); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return d.sync(filepath.Dir(path))
}

func (d disk) sync(dir string) error {
	if err := d.at("sync " + dir); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// maxFile is far more than any file of an identity has.
const maxFile = 64 << 10

// read gives what a file holds that nobody but the node's user may read.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	case mode.Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s is open to other users of this host (mode %04o): close it with chmod 600, and think about who may have read it", path, mode.Perm())
	case mode.Perm()&0o400 == 0:
		return nil, fmt.Errorf("%s may not be read by its owner (mode %04o): chmod 600 gives it back", path, mode.Perm())
	case info.Size() == 0:
		return nil, fmt.Errorf("%s is empty", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than any key", path)
	}
	return b, err
}

// exists says whether something has that name; what cannot be looked at counts.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// decodePEM reads a file that holds one block of this kind and nothing else.
func decodePEM(kind string, b []byte) ([]byte, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("it does not hold one %s", kind)
	}
	return block.Bytes, nil
}
