package consensus

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// A backup is one file: a line of JSON that says what it is (BackupInfo), the
// state as fleet.Snapshot writes it, packed, and a last line with the length and
// the SHA-256 of all that stands before it. The last line is always of the same
// length, so that whatever is cut off, altered or written behind is noticed.

// BackupInfo is what a backup says of itself.
type BackupInfo struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	Cluster  string    `json:"cluster,omitempty"` // id
	Node     string    `json:"node"`              // id of the node that made it
	Index    uint64    `json:"index"`             // of the state
	Term     uint64    `json:"term"`
	Epoch    uint64    `json:"epoch"`
	Created  time.Time `json:"created"`
	Machines int       `json:"machines"`
	Tasks    int       `json:"tasks"`
	Packing  string    `json:"packing"`
	// Encryption names how the state inside is encrypted, and is empty: a backup is
	// sealed as a whole, by who keeps it. Any name is one of a version to come.
	Encryption string `json:"encryption"`

	// What is known once all of it was read, and does not stand in the file.
	Bytes       int64  `json:"bytes,omitempty"`
	SHA256      string `json:"sha256,omitempty"`       // of the file, as sha256sum prints it
	StateSHA256 string `json:"state_sha256,omitempty"` // of the state, as it was before it was packed
}

const (
	backupFormat  = "lpmos-backup"
	backupVersion = 1
	backupPacking = "zstd"
)

// ErrBackup says that a file is no backup that could be restored here.
var ErrBackup = errors.New("the backup cannot be used")

// backupEnd is the last line. Its length is the same for every backup.
func backupEnd(length int64, sum []byte) string {
	return fmt.Sprintf("%s-end %020d %x\n", backupFormat, length, sum)
}

var backupEndBytes = int64(len(backupEnd(0, make([]byte, sha256.Size))))

// Backup writes the state to w: all of it that was acknowledged on any node
// before the call, at one index. What w has been given is a backup only if there
// is no error.
func (n *Node) Backup(ctx context.Context, w io.Writer) (BackupInfo, error) {
	if err := n.Verify(ctx); err != nil {
		return BackupInfo{}, err
	}
	info := BackupInfo{Node: n.dir.id, Term: n.life().raft.CurrentTerm(), Created: n.now().UTC()}
	var picture *fleet.Snapshot
	n.View(func(s *fleet.State) {
		picture = s.Snapshot()
		info.describe(s)
	})
	return writeBackup(w, info, picture)
}

// describe takes from the state what a backup says of it.
func (i *BackupInfo) describe(s *fleet.State) {
	i.Index, i.Machines, i.Tasks = s.Index(), len(s.Machines()), 0
	for _, n := range s.TaskCounts() {
		i.Tasks += n
	}
	if c := s.Cluster(); c != nil {
		i.Cluster, i.Epoch = c.ID, c.Epoch
	}
}

func writeBackup(w io.Writer, info BackupInfo, picture *fleet.Snapshot) (BackupInfo, error) {
	info.Format, info.Version, info.Packing = backupFormat, backupVersion, backupPacking
	sum, length := sha256.New(), counter(0)
	out := io.MultiWriter(w, sum, &length)
	if err := json.NewEncoder(out).Encode(info); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	packed, err := packer(out)
	if err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	state := sha256.New()
	if err := errors.Join(picture.Write(io.MultiWriter(packed, state)), packed.Close()); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	if _, err := io.WriteString(out, backupEnd(int64(length), sum.Sum(nil))); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	info.Bytes, info.SHA256, info.StateSHA256 = int64(length), fmt.Sprintf("%x", sum.Sum(nil)), fmt.Sprintf("%x", state.Sum(nil))
	return info, nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
