package api

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
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
	// ImportFile keeps a file as it is, whatever it holds.
	ImportFile(ctx context.Context, r io.Reader, opts ImportOptions) (digest string, size uint64, err error)
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
	// MaxBytes is how much is taken, for ImportFile; 0 for as much as an image.
	MaxBytes uint64
	// Progress, if set, is called as bytes arrive.
	Progress func(bytesRead uint64)
}

// ImportedImage is what an import made.
type ImportedImage struct {
	Digest      string
	SizeBytes   uint64 // of the disk
	StoredBytes uint64 // of its chunks, compressed
	SectorBytes int
	Arch        string // GOARCH that it is for; empty when it does not say
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
	// Transfers is how the boot files over HTTP stand now.
	Transfers() Transfers
	// Interfaces the node boots machines on.
	Interfaces() []Interface
	// Alarms is what is wrong on their networks now, in sentences.
	Alarms() []string
	// Stall is why the machine with a hardware address does not go on; nil if it does.
	Stall(mac string) *Stall
	// OnWire are the machines that were seen last, up to n, newest first, and those
	// that do not go on.
	OnWire(n int) []OnWire
}

// Leases are the addresses this node lends to machines the fleet does not know.
type Leases interface {
	// Leases are all in the node's book, those that have ended, too.
	Leases() []Lease
	// Release ends a lease or the rest of an address, and says what it was; false if
	// there is none.
	Release(addr netip.Addr) (Lease, bool, error)
	// Objection says what the node knows against giving an address to a machine, in
	// words that follow the address; empty if that is nothing.
	Objection(addr netip.Addr, macs, ids []string) string
}

// Sighting is one thing a machine did on the wire.
type Sighting struct {
	At    time.Time `json:"at"`
	MAC   string    `json:"mac"`
	Kind  string    `json:"kind"`
	Text  string    `json:"text"` // a sentence
	Step  string    `json:"step,omitempty" doc:"How far it shows the machine to be: offer, ack, asked, served, stopped, missing, script, stalled, goes-on and others"`
	Stage string    `json:"stage,omitempty" doc:"What asked: pxe, http, ipxe or system"`
	File  string    `json:"file,omitempty"`
	Stall string    `json:"stall,omitempty" doc:"Id of the stall that begins or ends"`
	Hint  string    `json:"hint,omitempty" doc:"What to do about it"`
	Node  string    `json:"node,omitempty" doc:"The node that saw it, if that is another"`
}

// Stall is why a machine does not go on, as far as that can be told from outside.
type Stall struct {
	ID    string    `json:"id" doc:"As loader-silent; netboot/STALLS.md has them all"`
	Text  string    `json:"text" doc:"The reason in a sentence"`
	Hint  string    `json:"hint" doc:"What to do"`
	Since time.Time `json:"since" doc:"When it did its last step"`
	At    time.Time `json:"at" doc:"When it was named"`
	Node  string    `json:"node,omitempty" doc:"The node that named it, if that is another"`
}

// OnWire is a machine as the wire shows it, known or not.
type OnWire struct {
	MAC       string    `json:"mac"`
	Address   string    `json:"address,omitempty"`
	MachineID string    `json:"machine_id,omitempty" doc:"If its agent has reported"`
	Name      string    `json:"name,omitempty"`
	At        time.Time `json:"at"`
	Text      string    `json:"text" doc:"The last that it did"`
	Stall     *Stall    `json:"stall,omitempty"`
	Node      string    `json:"node,omitempty" doc:"The node that saw it, if that is another"`
}

// Transfers is how the kernels and initramfs that machines boot from stand now.
type Transfers struct {
	Places  int `json:"places" doc:"So many are sent at once"`
	Running int `json:"running"`
	Waiting int `json:"waiting" doc:"For their turn"`
}

// Interface is a network the node boots machines on.
type Interface struct {
	Name    string `json:"name"`
	Mode    string `json:"mode"` // "dhcp", "proxy", "observe" or "off"
	Address string `json:"address,omitempty"`
	Range   string `json:"range,omitempty"` // of the addresses given out
	// BehindRelays is the network, if its machines are not on the wire itself.
	BehindRelays string `json:"behind_relays,omitempty"`
}

// Contact tells when agents last spoke, from the agents' server.
type Contact interface {
	// LastContact is when the machine's agent last said anything; zero when it
	// has not since this node started.
	LastContact(machineID string) time.Time
}

// Config is what a Server is made of. All but Membership, Leases, OnImport and
// Logger must be set.
type Config struct {
	Cluster   Cluster
	Images    Images
	Sightings Sightings
	Contact   Contact
	// Membership, if set, is who is of the cluster.
	Membership Membership
	// Leases, if set, is the node's book of them.
	Leases Leases

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
