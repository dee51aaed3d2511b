package consensus

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// life is one run of Raft. A node has several: Raft takes some of its timers at
// its start only, so it is started anew when the round trips call for others. The
// state machine, the log and the network stay.
type life struct {
	raft  *raft.Raft
	wire  *carrier // nil: this node has no peers
	logs  *raft.LogCache
	timer time.Duration // the heartbeat timeout it runs with

	over     chan struct{} // closed when this life is to end
	dead     chan struct{} // closed when it has ended
	end      sync.Once
	watching sync.WaitGroup
}

func (n *Node) life() *life { return n.lives.Load() }

// born starts Raft.
func (n *Node) born(heartbeat time.Duration) (*life, error) {
	rc := n.cfg.raftConfig(n.dir.id, heartbeat)
	l := &life{timer: heartbeat, over: make(chan struct{}), dead: make(chan struct{})}
	err := n.guard.settle()
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	if l.logs, err = raft.NewLogCache(512, n.disk.logs); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	var trans raft.Transport
	if n.cfg.Network != nil {
		l.wire = newCarrier(n, rc)
		trans = l.wire
	} else {
		_, trans = raft.NewInmemTransport(raft.ServerAddress(n.dir.id))
	}
	// In a later life the state machine has its state already, unless the one before
	// ended when a snapshot of the leader's was on disk and not yet taken over.
	snaps, err := n.disk.snaps.List()
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	n.mu.RLock()
	has := max(n.machine().Index(), n.restored)
	n.mu.RUnlock()
	rc.NoSnapshotRestoreOnStart = has > 0 && (len(snaps) == 0 || snaps[0].Index <= has)
	l.raft, err = raft.NewRaft(rc, fsm{n}, l.logs, vault{n.disk.bolt, n.guard}, n.disk.snaps, trans)
	n.mu.RLock()
	restoreErr := n.restoreErr
	n.mu.RUnlock()
	if restoreErr != nil {
		// The library goes back to an older snapshot when one cannot be read. Its
		// checksum was right, so it is one we do not understand.
		if err == nil {
			err = l.raft.Shutdown().Error()
		}
		return nil, errors.Join(n.dir.notUnderstood(restoreErr), err)
	}
	if err != nil {
		if l.wire != nil {
			l.wire.Close()
		}
		return nil, fmt.Errorf("start raft: %w", err)
	}
	n.lives.Store(l)
	seen := make(chan raft.Observation, 16)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, is := o.Data.(raft.LeaderObservation)
		return is
	})
	l.raft.RegisterObserver(observer)
	l.watching.Go(func() { n.watchLeader(l, seen) })
	l.watching.Go(func() { n.lead(l) })
	return l, nil
}

// die ends Raft and waits for it. A leader hands over first, so that nobody has
// to notice that it is gone.
func (n *Node) die(l *life) error {
	if l.raft.State() == raft.Leader && n.hasOtherVoters(l) {
		if err := n.handOver(l, ""); err != nil {
			n.log.Info("leadership was not handed over", "reason", err)
		}
	}
	return n.cut(l)
}

// cutLast ends the last life: none begins any more. The node is ending by now.
func (n *Node) cutLast() error {
	defer n.reborn.take()()
	return n.cut(n.life())
}

// cut ends Raft without ceremony.
func (n *Node) cut(l *life) error {
	first := false
	l.end.Do(func() { first = true; close(l.over) })
	if !first { // a node that has broken down has done so
		return nil
	}
	done := make(chan error, 1)
	go func() {
		done <- l.raft.Shutdown().Error()
		close(l.dead)
	}()
	var err error
	select {
	case err = <-done:
	case <-n.brokenDown:
		// A part of Raft may be held back for good (see corrupted); the process ends.
		select {
		case err = <-done:
		case <-time.After(lastWords):
		}
	}
	l.watching.Wait()
	n.leader.set("", "", time.Now())
	return err
}

// handOver makes another node the leader: the named one, or any that has caught
// up. The library gives it one election's time, which may pass on a busy machine.
func (n *Node) handOver(l *life, id string) (err error) {
	for range 3 {
		var f raft.Future
		if id == "" {
			f = l.raft.LeadershipTransfer()
		} else {
			s, ok := n.server(id)
			if !ok {
				return fmt.Errorf("%s is no member of the cluster", id)
			}
			f = l.raft.LeadershipTransferToServer(s.ID, s.Address)
		}
		if err = n.await(l, f); err == nil || l.raft.State() != raft.Leader {
			return nil
		}
	}
	return err
}

// watchLeader keeps what this node knows of the leader.
func (n *Node) watchLeader(l *life, seen <-chan raft.Observation) {
	// An observation may be lost when many come at once; a look now and then finds
	// out.
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.over:
			return
		case <-seen:
		case <-tick.C:
		}
		address, id := l.raft.LeaderWithID()
		n.leader.set(id, address, time.Now())
	}
}

// lead follows leadership: a new leader is ready once everything its
// predecessors committed is applied.
func (n *Node) lead(l *life) {
	for {
		select {
		case <-l.over:
			return
		case leader := <-l.raft.LeaderCh():
			if !leader {
				n.setReady(false)
				continue
			}
			// Read first: should the barrier be passed in a later term, that one's own
			// turn comes.
			term := l.raft.CurrentTerm()
			if err := n.await(l, l.raft.Barrier(0)); err != nil || n.failure() != nil {
				continue
			}
			if !n.beganAnew(l) {
				continue
			}
			n.leading.Store(term)
			n.caughtUp()
			n.log.Info("this node leads the cluster", slog.Uint64("term", term))
			n.watching.Go(func() { n.tookOffice(l, term) })
		}
	}
}

// beganAnew tries for as long as this node leads: it takes no command before, and
// one that is alone is not elected again.
func (n *Node) beganAnew(l *life) bool {
	for {
		err := n.beginAnew(l)
		if err == nil {
			return true
		}
		n.log.Error("this node cannot lead yet", "error", err)
		select {
		case <-l.over:
			return false
		case <-n.brokenDown:
			return false
		case <-time.After(time.Second):
		}
		if l.raft.State() != raft.Leader {
			return false
		}
	}
}

// Leads reports whether this node leads and has applied all that was agreed on
// before it did.
func (n *Node) Leads() bool {
	// The term tells: Raft leads a moment before lead hears of it, maybe after
	// others have led.
	r := n.life().raft
	return r.State() == raft.Leader && r.CurrentTerm() == n.leading.Load()
}

// await waits for Raft to answer. Raft may never do so: what comes to it while it
// ends is left lying, and a part of it is held back for good in a node that has
// broken down (see corrupted).
func (n *Node) await(l *life, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-l.dead:
		return raft.ErrRaftShutdown
	case <-n.brokenDown:
		return n.failure()
	}
}
