package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Node is one member of the cluster; today the only one.
type Node struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	random io.Reader

	dir   *dataDir
	disk  *disk
	trans raft.Transport
	raft  *raft.Raft
	// shutDown stops Raft and its transport, once; whoever calls it waits.
	shutDown func() error

	// mu guards the state and lets readers in between batches. The locks of
	// progress and feed are taken inside it, in this order.
	mu         sync.RWMutex
	state      *fleet.State
	broken     error
	restoreErr error
	progress   *progress
	feed       *feed

	failed     chan error
	brokenDown chan struct{} // closed when broken is set
	unsaved    atomic.Int64  // bytes applied since the last snapshot
	lastSaved  atomic.Int64  // bytes of that snapshot
	tooLong    chan struct{} // holds a token when a snapshot is due

	gate     sync.Mutex // guards closing and the growth of inFlight
	closing  bool
	inFlight sync.WaitGroup

	readyMu sync.Mutex
	ready   chan struct{} // closed while this node leads and has applied all

	stop      chan struct{}
	wg        sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Open opens the data directory, makes it a cluster of one if it is new, and
// starts the node. The state is complete once Ready returns.
//
// ErrInUse, ErrNewer and ErrCorrupt say why a directory cannot be opened; what it
// holds is then as it was before.
func Open(cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	// The directory first: nobody else may write what we are about to read.
	dir, err := openDir(cfg.Dir, cfg.NodeID, cfg.Rand)
	if err != nil {
		return nil, err
	}
	trans := cfg.Transport
	if trans == nil {
		_, trans = raft.NewInmemTransport(raft.ServerAddress(dir.id))
	}
	rc := cfg.raftConfig(dir.id)
	k, err := openDisk(dir, rc, trans)
	if err != nil {
		return nil, errors.Join(err, dir.close())
	}
	n := &Node{cfg: cfg, log: cfg.Logger, now: cfg.Now, random: cfg.Rand, dir: dir, disk: k, trans: trans,
		state: fleet.NewState(), progress: newProgress(), feed: newFeed(cfg.RingEvents),
		failed: make(chan error, 1), brokenDown: make(chan struct{}), tooLong: make(chan struct{}, 1),
		ready: make(chan struct{}), stop: make(chan struct{})}
	k.logs = checked{k.bolt, n.cannotStore}
	if err := n.start(rc); err != nil {
		return nil, errors.Join(err, k.bolt.Close(), dir.close())
	}
	return n, nil
}

func (n *Node) start(rc *raft.Config) error {
	cache, err := raft.NewLogCache(512, n.disk.logs)
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	n.raft, err = raft.NewRaft(rc, fsm{n}, cache, n.disk.bolt, n.disk.snaps, n.trans)
	n.mu.RLock()
	restoreErr := n.restoreErr
	n.mu.RUnlock()
	switch {
	case restoreErr != nil:
		// The library goes back to an older snapshot when one cannot be read. Its
		// checksum was right, so it is one we do not understand.
		if err == nil {
			err = n.raft.Shutdown().Error()
		}
		if errors.Is(restoreErr, fleet.ErrNewerSnapshot) {
			return errors.Join(fmt.Errorf("data directory %s was %w: %w", n.dir.path, ErrNewer, restoreErr), err)
		}
		return errors.Join(fmt.Errorf("%w: %w", ErrCorrupt, restoreErr), err)
	case err != nil:
		return fmt.Errorf("start raft: %w", err)
	}
	n.shutDown = sync.OnceValue(func() error { return n.raft.Shutdown().Error() })
	n.noteSnapshot()
	n.wg.Add(2)
	go n.lead()
	go n.flushProgress(n.cfg.ProgressInterval)
	return nil
}

// lead follows leadership: a new leader is ready once everything its
// predecessors committed is applied.
func (n *Node) lead() {
	defer n.wg.Done()
	for {
		select {
		case <-n.stop:
			return
		case <-n.brokenDown:
			n.log.Error("the node stops", "error", n.failure())
			n.feed.close()
			if err := n.shutDown(); err != nil {
				n.log.Error("raft did not stop cleanly", "error", err)
			}
			return
		case leader := <-n.raft.LeaderCh():
			if !leader {
				n.setReady(false)
			} else if err := n.raft.Barrier(0).Error(); err == nil && n.failure() == nil {
				if err := n.beginAnew(n.raft); err != nil {
					n.log.Error("the node cannot begin", "error", err)
					continue
				}
				n.setReady(true)
			}
		case <-n.tooLong:
			n.save()
		}
	}
}

func (n *Node) setReady(is bool) {
	n.readyMu.Lock()
	defer n.readyMu.Unlock()
	select {
	case <-n.ready:
		if !is {
			n.ready = make(chan struct{})
		}
	default:
		if is {
			close(n.ready)
		}
	}
}

// Ready waits until the node can take commands and its state holds every
// command that was ever acknowledged.
func (n *Node) Ready(ctx context.Context) error {
	n.readyMu.Lock()
	ready := n.ready
	n.readyMu.Unlock()
	select {
	case <-n.brokenDown:
		return n.failure()
	case <-n.stop:
		return n.whyNot()
	default:
	}
	select {
	case <-ready:
		return nil
	case <-n.brokenDown:
		return n.failure()
	case <-n.stop:
		return n.whyNot()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotReady, ctx.Err())
	}
}

// cannotStore stops the node when its log cannot be written. The library would
// stand for election on the same disk and panic over it.
func (n *Node) cannotStore(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.breakdown(fmt.Errorf("%w: %w", ErrStorage, err))
}

// Failed gives the reason if the node has to stop: an entry of a kind it does
// not know, a rule that panicked, a log that cannot be written. The program
// should end then.
func (n *Node) Failed() <-chan error { return n.failed }

func (n *Node) failure() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.broken
}

// View lets f read the state; it holds up changes, so f is to be quick and must
// not call the node. Values read may be kept and must not be written to.
func (n *Node) View(f func(s *fleet.State)) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	f(n.state)
}

// Watch follows everything after index since, which a watcher has been told
// before. ErrTooOld means to start with SnapshotAndWatch.
func (n *Node) Watch(since uint64) (*Watcher, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.feed.watch(since, n.state.Index())
}

// SnapshotAndWatch lets f read the state like View, and follows everything that
// happens after it.
func (n *Node) SnapshotAndWatch(f func(s *fleet.State)) *Watcher {
	n.mu.RLock()
	defer n.mu.RUnlock()
	// The watcher first: a live progress told while f reads is then not lost.
	w := n.feed.follow()
	f(n.state)
	return w
}

// ID is the node's id, the same at every start.
func (n *Node) ID() string { return n.dir.id }

// grown counts what was applied since the last snapshot. Entries may be large
// (a report, the progress of all installs), so their number alone does not
// bound the disk.
func (n *Node) grown(size int64) {
	if n.unsaved.Add(size) < max(n.cfg.SnapshotBytes, 2*n.lastSaved.Load()) {
		return
	}
	select {
	case n.tooLong <- struct{}{}:
	default:
	}
}

// save takes a snapshot now and lets the log before it go.
func (n *Node) save() {
	err := n.raft.Snapshot().Error()
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		n.log.Error("the log cannot be shortened", "error", err)
		return
	}
	n.noteSnapshot()
}

// noteSnapshot remembers how large the newest snapshot is: the log may always
// grow to twice that, or a large fleet would do nothing but write snapshots.
func (n *Node) noteSnapshot() {
	if list, err := n.disk.snaps.List(); err == nil && len(list) > 0 {
		n.lastSaved.Store(list[0].Size)
	}
}

// Stats are figures for the health page and for tests of tuning.
func (n *Node) Stats() map[string]any {
	n.mu.RLock()
	index := n.state.Index()
	n.mu.RUnlock()
	events, watchers := n.feed.count()
	stats := map[string]any{
		"node_id": n.dir.id, "role": n.raft.State().String(), "term": n.raft.CurrentTerm(),
		"index": index, "log_index": n.raft.LastIndex(), "ring_events": events, "watchers": watchers,
	}
	if fi, err := os.Stat(n.disk.path); err == nil {
		stats["log_bytes"] = fi.Size()
	}
	if list, err := n.disk.snaps.List(); err == nil && len(list) > 0 {
		stats["snapshot_index"], stats["snapshot_bytes"] = list[0].Index, list[0].Size
	}
	return stats
}

// Close stops the node. Everything acknowledged is on disk already; closing only
// keeps the last second of progress and lets go of the directory. A second call
// returns what the first did.
func (n *Node) Close() error {
	n.closeOnce.Do(func() { n.closeErr = n.close() })
	return n.closeErr
}

func (n *Node) close() error {
	// 1. The door: commands on their way finish, no new one comes in. Each is
	//    bounded by its own timeout.
	n.gate.Lock()
	n.closing = true
	n.gate.Unlock()
	n.inFlight.Wait()
	// 2. Our own goroutines, so that nothing proposes behind the last flush.
	close(n.stop)
	n.wg.Wait()
	// 3. The last progress, while there is still a log to put it in.
	var errs []error
	if n.failure() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
		if err := n.flush(ctx); err != nil {
			n.log.Warn("the last progress did not reach the log", "error", err)
		}
		cancel()
	}
	// 4. Raft and its wire; it applies and snapshots until then.
	errs = append(errs, n.shutDown())
	// 5. Watchers, after the last event that can come.
	n.feed.close()
	// 6. The log, and last the lock: whoever gets it finds all at rest.
	errs = append(errs, n.disk.bolt.Close(), n.dir.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close node: %w", err)
	}
	return nil
}
