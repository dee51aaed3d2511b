package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Node is one member of the cluster.
type Node struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	random io.Reader

	dir   *dataDir
	disk  *disk
	guard *guard
	lives atomic.Pointer[life]
	// reborn is held while one life takes another's place.
	reborn turn

	// mu guards the state and lets readers in between batches. The locks of
	// progress and feed are taken inside it, in this order.
	mu         sync.RWMutex
	state      *fleet.State  // what readers see
	restored   uint64        // index of the snapshot that replay took next from
	next       *fleet.State  // of the state machine while readers see an older one (replay.go); nil: the same
	moved      chan struct{} // closed and made anew whenever the state machine moves
	broken     error
	restoreErr error
	progress   *progress
	feed       *feed

	failed     chan error
	brokenDown chan struct{} // closed when broken is set
	unsaved    atomic.Int64  // bytes applied since the last snapshot
	lastSaved  atomic.Int64  // bytes of that snapshot
	tooLong    chan struct{} // holds a token when a snapshot is due
	tail       *tail         // sizes of the newest entries

	gate     sync.Mutex // guards closing and the growth of inFlight
	closing  bool
	inFlight sync.WaitGroup
	waiters  waiters
	sender   *sender // of what is proposed here
	inbox    *sender // of a leader

	leader  *leaderView
	joining atomic.Bool   // what the others have has not all come yet
	anew    atomic.Bool   // a new epoch is due, and nothing may go before it (anew.go)
	leading atomic.Uint64 // the term in which this node leads and has applied what came before

	readyMu sync.Mutex
	ready   chan struct{} // closed while this node has a state that holds all

	caller     *http.Client // to other nodes; nil: there are none
	lanes      lanes        // to the leader
	callServer atomic.Pointer[http.Server]
	raftConns  chan net.Conn
	conns      conns
	peers      *peers
	order      turn // held by the leader while it changes the members
	news       news
	deferred   *deferred
	figures    figures

	stop      chan struct{}
	ending    chan struct{} // closed when nothing more will be written
	endOnce   sync.Once
	wg        sync.WaitGroup
	watching  sync.WaitGroup // what a leader does beside leading
	closeOnce sync.Once
	closeErr  error
}

// Open opens the data directory, makes it a cluster of one if it is new and
// Config.Join does not say otherwise, and starts the node. The state is complete
// once Ready returns; until then readers see the newest that this node has.
//
// ErrInUse, ErrNewer and ErrCorrupt say why a directory cannot be opened; what it
// holds is then as it was before. A member of a cluster whose log is damaged puts
// it aside and is filled again by the others (see quarantine.go).
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
	n := &Node{cfg: cfg, log: cfg.Logger, now: cfg.Now, random: cfg.Rand, dir: dir,
		state: fleet.NewState(), moved: make(chan struct{}), progress: newProgress(), feed: newFeed(cfg.RingEvents),
		failed: make(chan error, 1), brokenDown: make(chan struct{}), tooLong: make(chan struct{}, 1), tail: newTail(cfg.TrailingEntries),
		ready: make(chan struct{}), stop: make(chan struct{}), ending: make(chan struct{}),
		leader: newLeaderView(time.Now()), raftConns: make(chan net.Conn), peers: newPeers()}
	n.reborn, n.order = make(turn, 1), make(turn, 1)
	n.sender = newSender(onTheWay, n.stop, n.enterLog)
	n.inbox = newSender(onTheDisk, n.stop, n.append)
	n.guard = &guard{dir: dir.path, deadline: cfg.WriteDeadline, free: freeBytes, failed: n.cannotStore, stop: n.ending}
	if cfg.Network != nil {
		n.caller = newCaller(cfg.Network)
	}
	if err := n.start(); err != nil {
		if n.disk != nil {
			err = errors.Join(err, n.disk.bolt.Close())
		}
		return nil, errors.Join(err, dir.close())
	}
	return n, nil
}

// turn is a lock for what takes long: Raft, disks and other nodes are waited for
// while it is held. Make it with room for one.
type turn chan struct{}

// take waits for the turn; what it returns gives it back.
func (t turn) take() (done func()) {
	t <- struct{}{}
	return func() { <-t }
}

func (n *Node) start() (err error) {
	if n.disk, err = n.openOrRefill(); err != nil {
		return err
	}
	n.disk.logs = checked{n.disk.bolt, n.guard, &n.figures.fsync, n.corrupted}
	n.joining.Store(n.disk.joining)
	n.anew.Store(n.dir.has(anewFile))
	if n.deferred, err = openDeferred(n.dir); err != nil {
		return err
	}
	heartbeat := n.firstTimer()
	if n.cfg.Network != nil {
		// What was agreed on last is of use before anybody can be asked.
		if err := n.replay(); err != nil {
			return err
		}
		// The first life needs its members' connections.
		n.wg.Add(2)
		go n.acceptRaft()
		go n.serveCalls()
	}
	if _, err := n.born(heartbeat); err != nil {
		n.endOnce.Do(func() { close(n.ending) })
		close(n.stop)
		return err
	}
	n.noteSnapshot()
	n.wg.Add(5)
	go n.live()
	go n.flushProgress(n.cfg.ProgressInterval)
	go func() { defer n.wg.Done(); n.sender.run() }()
	go func() { defer n.wg.Done(); n.inbox.run() }()
	go n.carryDeferred()
	if n.cfg.Network != nil {
		n.wg.Add(2)
		go n.watchPeers()
		go n.tellPeers()
	}
	return nil
}

// live does what is due from time to time, and ends Raft when the node has
// broken down.
func (n *Node) live() {
	defer n.wg.Done()
	for {
		select {
		case <-n.stop:
			return
		case <-n.brokenDown:
			err := n.failure()
			n.log.Error("the node stops", "error", err)
			n.endOnce.Do(func() { close(n.ending) })
			n.feed.close()
			n.waiters.failed(fmt.Errorf("%w: %w", ErrUncertain, err))
			if err := n.cutLast(); err != nil {
				n.log.Error("raft did not stop cleanly", "error", err)
			}
			return
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

// corrupted stops the node over an entry that is not what was written, and keeps
// the caller, which is Raft: over an error it would panic. At its next start the
// node puts its log aside and is filled again by the others.
func (n *Node) corrupted(err error) {
	n.mu.Lock()
	n.breakdown(err)
	n.mu.Unlock()
	select {}
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
	if n.unsaved.Add(size) < max(n.cfg.SnapshotBytes, n.lastSaved.Load()) {
		return
	}
	select {
	case n.tooLong <- struct{}{}:
	default:
	}
}

// save takes a snapshot now and lets the log before it go.
func (n *Node) save() {
	l := n.life()
	// Enough to reach back to the snapshot before, should this one be damaged.
	keep := l.raft.ReloadableConfig()
	keep.TrailingLogs = n.tail.within(2 * max(n.cfg.SnapshotBytes, n.lastSaved.Load()))
	if err := l.raft.ReloadConfig(keep); err != nil {
		n.log.Error("the log keeps its length behind a snapshot", "error", err)
	}
	err := n.await(l, l.raft.Snapshot())
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		n.log.Error("the log cannot be shortened", "error", err)
		return
	}
	n.noteSnapshot()
}

// noteSnapshot remembers how large the newest snapshot is: the log may always
// grow to as much, or a large fleet would do nothing but write snapshots.
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
		"node_id": n.dir.id, "role": n.life().raft.State().String(), "term": n.life().raft.CurrentTerm(),
		"index": index, "log_index": n.life().raft.LastIndex(), "ring_events": events, "watchers": watchers,
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
	// 2. The last progress, while there is still a log to put it in.
	var errs []error
	if n.failure() == nil && n.cutOff() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		if err := n.flush(ctx); err != nil {
			n.log.Warn("the last progress did not reach the log", "error", err)
		}
		cancel()
	}
	// 3. Leadership goes to somebody else while this node can still answer.
	if l := n.life(); n.failure() == nil && l.raft.State() == raft.Leader && n.hasOtherVoters(l) {
		if err := n.handOver(l, ""); err != nil {
			n.log.Info("leadership was not handed over", "reason", err)
		}
	}
	// 4. Our own goroutines, and other nodes' calls.
	close(n.stop)
	if n.cfg.Network != nil {
		errs = append(errs, n.cfg.Network.Close()) // the server below waits for its listener
	}
	if srv := n.callServer.Load(); srv != nil {
		srv.Close()
	}
	// 5. Raft and its wire; it applies and snapshots until then.
	n.endOnce.Do(func() { close(n.ending) })
	errs = append(errs, n.cutLast())
	n.wg.Wait()
	n.watching.Wait()
	if n.caller != nil {
		n.caller.CloseIdleConnections()
		n.lanes.close()
	}
	// 6. Watchers, after the last event that can come.
	n.feed.close()
	// 7. The log, and last the lock: whoever gets it finds all at rest.
	errs = append(errs, n.disk.bolt.Close(), n.dir.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close node: %w", err)
	}
	return nil
}

// lastWords is how long a node that closes may take for its last entry.
const lastWords = 3 * time.Second
