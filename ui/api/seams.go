package api

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Cluster is what the API and the dashboard's socket need of the consensus node.
type Cluster interface {
	// Propose returns when the command is committed, or with the *fleet.Error of
	// the rule that refused it.
	Propose(ctx context.Context, body fleet.Body) (any, error)
	// View runs f under a read lock; the values it finds may be kept. f calls
	// nothing else of the cluster.
	View(f func(s *fleet.State))
	// Watch follows the events after an index, or fails when they are not kept any more.
	Watch(since uint64) (Watcher, error)
	// SnapshotAndWatch runs f on the state and watches from that very index on.
	SnapshotAndWatch(f func(s *fleet.State)) Watcher
	// Latest is the newest progress of a task, which may be ahead of the log.
	Latest(taskID string) (wire.Progress, bool)
	// ID of this node.
	ID() string
}

// Watcher gives the events of the fleet in order.
type Watcher interface {
	// Next waits for events. Any error but the context's ends the watcher.
	Next(ctx context.Context) ([]fleet.Event, error)
	Close()
}

// Images is the node's store of OS images. A *Problem or *fleet.Error is told as
// it is; any other error of an import is told as the fault of the image (400).
type Images interface {
	// Import reads a disk image, packed or not, to its end. On an error nothing
	// is kept.
	Import(ctx context.Context, r io.Reader, opts ImportOptions) (ImportedImage, error)
	// Fetch imports what a URL gives.
	Fetch(ctx context.Context, url string, opts ImportOptions) (ImportedImage, error)
	// Delete forgets a manifest and the chunks no other uses.
	Delete(digest string) error
}

// ImportOptions are the conditions of an import.
type ImportOptions struct {
	// SHA256 of the file as sent or of the disk inside; empty to take any.
	SHA256 string
	// FileBytes is how much will come, or 0 if nobody knows.
	FileBytes uint64
	// Progress, if set, is called as bytes arrive.
	Progress func(bytesRead uint64)
}

// ImportedImage is what an import made.
type ImportedImage struct {
	Digest      string
	SizeBytes   uint64 // of the disk
	StoredBytes uint64 // of its chunks, compressed
	SectorBytes int
}

// Sightings is what machines did on the wire, from netboot.
type Sightings interface {
	// Of returns what is remembered of one hardware address, oldest first.
	Of(mac string) []Sighting
	// Recent returns up to n sightings of all machines, newest first.
	Recent(n int) []Sighting
	// Subscribe calls f with every new one until cancel is called; f must not block.
	Subscribe(f func(Sighting)) (cancel func())
	// Counters since the start, by name.
	Counters() map[string]uint64
	// Interfaces the node boots machines on.
	Interfaces() []Interface
	// Alarms is what is wrong on their networks now, in sentences.
	Alarms() []string
}

// Sighting is one thing a machine did on the wire.
type Sighting struct {
	At   time.Time `json:"at"`
	MAC  string    `json:"mac"`
	Kind string    `json:"kind"`
	Text string    `json:"text"` // a sentence
}

// Interface is a network the node boots machines on.
type Interface struct {
	Name    string `json:"name"`
	Mode    string `json:"mode"` // "dhcp", "proxy" or "off"
	Address string `json:"address,omitempty"`
	Range   string `json:"range,omitempty"` // of the addresses given out
}

// Contact tells when agents last spoke, from the agents' server.
type Contact interface {
	// LastContact is when the machine's agent last said anything; zero when it
	// has not since this node started.
	LastContact(machineID string) time.Time
}

// Config is what a Server is made of. All but Membership, OnImport and Logger
// must be set.
type Config struct {
	Cluster   Cluster
	Images    Images
	Sightings Sightings
	Contact   Contact
	// Membership, if set, is who is of the cluster.
	Membership Membership

	Name    string // of this node
	Region  string // of this node; the region of a task that names none
	Version string

	Now      func() time.Time
	NewID    func() string // a task's id: sortable by time, unique
	NewToken func() string // a secret of 128 bits in hex

	// OnImport, if set, hears how an image import goes.
	OnImport func(ImportProgress)
	Logger   *slog.Logger

	// Examine, if set, looks for what keeps machines from booting off this node's host.
	Examine func(context.Context) Examination
}

// ImportProgress is how far an import has come.
type ImportProgress struct {
	Name      string `json:"name"`
	BytesRead uint64 `json:"bytes_read"`
	Done      bool   `json:"done"`
	Error     string `json:"error,omitempty"`
}
