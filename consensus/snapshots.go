package consensus

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// snapshots are the library's, with a checksum of their own for what it has none
// for: the description beside each, which says where in the log it belongs and who
// the members are. A flipped bit there would make this node believe in other
// members than the rest does, and tell them when it leads.
type snapshots struct {
	*raft.FileSnapshotStore
	dir string
}

const (
	metaFile = "meta.json" // the library's
	sealFile = "meta.sum"
)

func openSnapshots(d *dataDir, log hclog.Logger) (*snapshots, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(d.path, keepSnapshots, log)
	if err != nil {
		return nil, err
	}
	return &snapshots{FileSnapshotStore: files, dir: d.file("snapshots")}, nil
}

// Create begins a snapshot.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	inner, err := s.FileSnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	return &sealing{SnapshotSink: inner, of: s}, nil
}

// sealing is a snapshot that is being written.
type sealing struct {
	raft.SnapshotSink
	of        *snapshots
	cancelled bool
}

func (s *sealing) Cancel() error {
	s.cancelled = true
	return s.SnapshotSink.Cancel()
}

// Close completes the snapshot and seals it. After a crash in between it counts as
// one of the time before there were seals.
func (s *sealing) Close() error {
	if err := s.SnapshotSink.Close(); err != nil || s.cancelled {
		return err
	}
	sum, err := s.of.sum(s.ID())
	if err != nil {
		return err
	}
	d := dataDir{path: filepath.Join(s.of.dir, s.ID())}
	return d.write(sealFile, sum)
}

func (s *snapshots) sum(id string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, id, metaFile))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)), nil
}

// Open gives a snapshot whose seal is whole, and none of another.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	seal, err := os.ReadFile(filepath.Join(s.dir, id, sealFile))
	if err != nil && !os.IsNotExist(err) {
		return nil, nil, err
	}
	if err == nil {
		sum, err := s.sum(id)
		if err != nil {
			return nil, nil, err
		}
		if strings.TrimSpace(string(seal)) != sum {
			return nil, nil, fmt.Errorf("the checksum of the description of snapshot %s is wrong", id)
		}
	}
	return s.FileSnapshotStore.Open(id)
}
