package consensus

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/raft"
)

// Config is what a Node needs. Dir and Logger are required, the zero value of
// everything else means the default.
type Config struct {
	// Dir is the data directory. It is made with mode 0700 if it does not exist;
	// its parent has to.
	Dir string
	// NodeID names this node for ever. Empty means: make one at the first start
	// and keep it in Dir. One that differs from the kept one is refused.
	NodeID string

	Name    string // for people; recorded by PutNode
	Region  string
	Version string // of the program

	Logger *slog.Logger

	// Network connects this node to others. Nil means that it has no peers. The
	// node closes it.
	Network Network
	// Join says what a new directory is for: a node of a cluster that exists, which
	// fills it. Without it a new directory is made a cluster of one.
	Join bool
	// Calls answers other nodes' HTTP below /x/, and Describe says what they are
	// told of this node. Both may be nil.
	Calls    http.Handler
	Describe func() Described
	// Contacts, if set, are the machines whose agents this node has heard since
	// then, for the others; Heard is told of those that others have heard.
	Contacts func(since time.Time) map[string]time.Time
	Heard    func(machineID string, at time.Time)

	// Heartbeat is how long a follower waits for its leader before it stands for
	// election; the other Raft timers follow from it. 0, the default, lets it follow
	// the round trips to the other nodes.
	Heartbeat time.Duration

	// WriteDeadline is how long one write of the log may take before the disk
	// counts as hanging. Default 2 s.
	WriteDeadline time.Duration

	// DeadAfter is how long a node may be silent before it is taken off the
	// cluster. Default 72 h.
	DeadAfter time.Duration
	// SettleAfter is how long a node has to be in reach, or out of it, before
	// members change because of that. Default 10 s.
	SettleAfter time.Duration

	// ProgressInterval is how often progress goes into the log. Default 1 s.
	ProgressInterval time.Duration

	// RingEvents is how many events are kept for watchers that come back, and
	// how many a watcher may leave unread before it is cut. Default 16384.
	RingEvents int

	// SnapshotEntries and SnapshotBytes are how much log may grow before a
	// snapshot takes its place. Defaults 8192 and 16 MiB.
	SnapshotEntries uint64
	SnapshotBytes   int64
	// TrailingEntries are kept behind a snapshot, fewer if together they are larger
	// than twice what may grow. Default 512.
	TrailingEntries uint64

	Now  func() time.Time // default time.Now
	Rand io.Reader        // default crypto/rand
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("open node: no data directory given")
	}
	if c.Logger == nil {
		return c, errors.New("open node: no logger given")
	}
	setDefault(&c.WriteDeadline, 2*time.Second)
	setDefault(&c.DeadAfter, 72*time.Hour)
	setDefault(&c.SettleAfter, 10*time.Second)
	setDefault(&c.ProgressInterval, time.Second)
	setDefault(&c.RingEvents, 16384)
	setDefault(&c.SnapshotEntries, 8192)
	setDefault(&c.SnapshotBytes, 16<<20)
	setDefault(&c.TrailingEntries, 512)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// raftConfig derives Raft's own configuration.
func (c Config) raftConfig(id string, heartbeat time.Duration) *raft.Config {
	heartbeat = max(heartbeat, leastTimer)
	if c.Heartbeat > 0 {
		heartbeat = c.Heartbeat
	}
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(id)
	rc.HeartbeatTimeout = heartbeat
	rc.ElectionTimeout = heartbeat
	// A leader that hears nobody acknowledges nothing either, so its lease may be
	// as long as the others wait: a shorter one only makes it step down over a
	// pause that they would not have noticed.
	rc.LeaderLeaseTimeout = heartbeat
	rc.CommitTimeout = min(50*time.Millisecond, heartbeat/4)
	// Commands that wait together share one write to the disk.
	rc.BatchApplyCh = true
	rc.MaxAppendEntries = 512
	rc.SnapshotThreshold = c.SnapshotEntries
	rc.SnapshotInterval = 30 * time.Second
	rc.TrailingLogs = c.TrailingEntries
	rc.NoLegacyTelemetry = true
	rc.Logger = newRaftLogger(c.Logger)
	return rc
}
