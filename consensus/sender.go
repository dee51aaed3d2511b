package consensus

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Limits of what goes into one entry of the log.
const (
	maxTogether = 256     // commands
	maxEntry    = 4 << 20 // bytes, of one command and, nearly, of several
	// Entries under way at once, of those that a node sends to the leader, and of
	// those that the leader sends to the disks. What comes meanwhile makes the next
	// one fuller, and a full one costs little more than a small one.
	onTheWay  = 2
	onTheDisk = 1
)

// sender gathers the commands that wait into one entry. While one is on its way
// to the disks the next fills up: few writers wait for nobody, many share. A node
// has two: what is proposed on it goes through the first, to the leader; the
// leader's second gathers what the first ones of all nodes bring.
type sender struct {
	queue chan *try
	slots chan struct{}
	take  func(entry []byte, commands int) (entered, error) // puts an entry where it belongs
	pace  pace
	stop  <-chan struct{} // closed when nobody gathers any more
}

// try is one attempt to get an entry into the log.
type try struct {
	raw      []byte
	commands int          // in it
	done     chan attempt // holds one
	// applied says that who waits is told by the state machine: that a majority has
	// the entry is no news to wake anybody for.
	applied bool
}

// attempt is what came of a try; without an error a majority has it.
type attempt struct {
	at  entered
	err error
}

func newSender(underWay int, stop <-chan struct{}, take func(entry []byte, commands int) (entered, error)) *sender {
	return &sender{stop: stop, queue: make(chan *try, 4*maxTogether), slots: make(chan struct{}, underWay), take: take}
}

// send tries once. The error is always set: the outcome of the command, an
// ErrUncertain when nobody knows what became of it, or why it was not taken.
func (s *sender) send(ctx context.Context, raw []byte, told chan outcome) error {
	t := &try{raw: raw, commands: 1, done: make(chan attempt, 1), applied: true}
	select {
	case s.queue <- t:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stop:
		return ErrNotReady
	}
	select {
	case o := <-told:
		return o
	case a := <-t.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
	case <-s.stop: // nobody gathers tries any more
		return ErrUncertain
	}
}

// put is send for an entry of some commands that nobody here waits to see applied.
func (s *sender) put(ctx context.Context, raw []byte, commands int) (entered, error) {
	t := &try{raw: raw, commands: commands, done: make(chan attempt, 1)}
	select {
	case s.queue <- t:
	case <-ctx.Done():
		return entered{}, ErrNotReady
	case <-s.stop:
		return entered{}, ErrNotReady
	}
	select {
	case a := <-t.done:
		return a.at, a.err
	case <-s.stop:
		return entered{}, ErrUncertain
	case <-ctx.Done():
		return entered{}, fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
	}
}

// run gathers until the node closes.
func (s *sender) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		var batch []*try
		select {
		case <-s.stop:
			return
		case t := <-s.queue:
			batch = append(batch, t)
		}
		select {
		case <-s.stop:
			batch[0].done <- attempt{err: ErrNotReady}
			return
		case s.slots <- struct{}{}:
		}
		batch = s.gather(batch)
		wg.Go(func() { s.carry(batch) })
	}
}

// gather adds what waits to the first of a batch. When many write, those who were
// answered with the last entry come back within a fraction of the time an entry
// takes: one that leaves without them makes everybody wait for two.
func (s *sender) gather(batch []*try) []*try {
	count, size := batch[0].commands, len(batch[0].raw)
	crowd, patience := s.pace.expect()
	var late <-chan time.Time
	for count < maxTogether && size < maxEntry/2 {
		var t *try
		select {
		case t = <-s.queue:
		default:
			if count >= crowd {
				return batch
			}
			if late == nil {
				timer := time.NewTimer(patience)
				defer timer.Stop()
				late = timer.C
			}
			select {
			case t = <-s.queue:
			case <-late:
				return batch
			}
		}
		batch = append(batch, t)
		count += t.commands
		size += len(t.raw)
	}
	return batch
}

// carry takes a batch where it belongs, as one entry.
func (s *sender) carry(batch []*try) {
	began := time.Now()
	raws, count := make([][]byte, len(batch)), 0
	for i, t := range batch {
		raws[i] = t.raw
		count += t.commands
	}
	var a attempt
	entry, err := fleet.JoinEntries(raws...)
	if a.err = err; err == nil {
		a.at, a.err = s.take(entry, count)
	}
	s.pace.note(count, len(s.queue), time.Since(began))
	<-s.slots
	for _, t := range batch {
		if a.err != nil || !t.applied {
			t.done <- a
		}
	}
}

// pace remembers how many commands there are to wait for, and how long one may.
type pace struct {
	mu    sync.Mutex
	crowd int
	took  time.Duration // of the last entry
}

// longestWait bounds how long an entry is kept back for others.
const longestWait = 2 * time.Millisecond

// note takes in that an entry of so many commands has been agreed on while others
// came to wait. A crowd that gets smaller is forgotten over some entries.
func (p *pace) note(commands, waiting int, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crowd, p.took = max(commands+waiting, p.crowd*7/8), took
}

func (p *pace) expect() (crowd int, patience time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crowd, min(p.took/2, longestWait)
}

// enterLog puts an entry into the log of the cluster. The error is ErrUncertain
// when it is not known whether a majority has it, anything else when it was not
// taken.
func (n *Node) enterLog(entry []byte, commands int) (entered, error) {
	id, addr, changed := n.leader.now()
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	switch {
	case id == "":
		return entered{}, ErrNotReady
	case string(id) == n.dir.id:
		return n.inbox.put(ctx, entry, commands)
	}
	go func() { // a leader that is none any more is not waited for
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	at, err := n.forward(ctx, string(addr), entry)
	if err == nil {
		n.life().wire.committed(ctx, id, addr, at)
	}
	return at, err
}

// entered is where an entry stands in the log.
type entered struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

// append puts an entry into the log of the leader, which has to be this node.
func (n *Node) append(entry []byte, _ int) (entered, error) {
	if n.anew.Load() {
		return entered{}, ErrNotReady
	}
	l := n.life()
	f := l.raft.Apply(entry, proposeTimeout)
	err := n.await(l, f)
	switch {
	case err == nil:
		at, _ := f.Response().(entered)
		return at, nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return entered{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	// The disk refused it before anybody else was asked. Raft's cache of the log
	// gives the error on as text.
	if full(err) || strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return entered{}, ErrNoSpace
	}
	return entered{}, fmt.Errorf("%w: %w", ErrUncertain, err)
}

// Verify returns when this node's state holds everything that was acknowledged
// anywhere before the call. It needs a majority; ErrNotReady says that there was
// none to ask.
func (n *Node) Verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	for {
		id, addr, changed := n.leader.now()
		var at entered
		err := ErrNotReady
		switch {
		case id == "":
		case string(id) == n.dir.id:
			at, err = n.verifyHere(ctx)
		default:
			err = n.ask(ctx, http.MethodPost, string(addr), "/verify", nil, &at)
		}
		if err == nil {
			if err = n.applied(ctx, at.Index); err == nil {
				n.caughtUp()
			}
			return err
		}
		if failed := n.failure(); failed != nil {
			return failed
		}
		if off := n.cutOff(); off != nil {
			return off
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, errors.Join(err, ctx.Err()))
		}
		n.leader.wait(ctx, changed, retryPause)
	}
}

// verifyHere finds, on the leader, the newest command that is agreed on, and
// makes sure that this node leads still. A leader that has not applied its
// predecessors' tail yet does not know what was acknowledged: it has to be ready.
func (n *Node) verifyHere(ctx context.Context) (entered, error) {
	l := n.life()
	if !n.Leads() {
		return entered{}, ErrNotReady
	}
	newest := l.raft.CommitIndex()
	if err := n.await(l, l.raft.VerifyLeader()); err != nil {
		return entered{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	// The state counts commands only; what Raft writes for itself lies between.
	for ; newest > 0; newest-- {
		var e raft.Log
		if err := l.logs.GetLog(newest, &e); err != nil {
			break
		}
		if e.Type == raft.LogCommand {
			return entered{Index: newest}, nil
		}
	}
	// The newest command lies behind a snapshot, so it is applied here.
	n.mu.RLock()
	defer n.mu.RUnlock()
	return entered{Index: n.machine().Index()}, nil
}

func (n *Node) answerVerify(w http.ResponseWriter, r *http.Request) {
	at, err := n.verifyHere(r.Context())
	if err == nil {
		err = n.applied(r.Context(), at.Index)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	reply(w, at)
}

// applied waits until the state has reached an index.
func (n *Node) applied(ctx context.Context, index uint64) error {
	for {
		n.mu.RLock()
		have, moved := n.machine().Index(), n.moved
		n.mu.RUnlock()
		if have >= index {
			return nil
		}
		select {
		case <-moved:
		case <-n.brokenDown:
			return n.failure()
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNotReady, ctx.Err())
		case <-time.After(proposeTimeout):
			return ErrNotReady
		}
	}
}
