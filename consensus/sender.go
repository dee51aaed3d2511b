package consensus

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Limits of what goes into one entry of the log.
const (
	maxTogether = 256     // commands
	maxEntry    = 4 << 20 // bytes, of one command and, nearly, of several
	// Entries under way at once, of those that a node sends to the leader, and of
	// those that the leader sends to the disks: its own works on one while the
	// followers' work on the one before.
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
	take  func(entry []byte) (entered, error) // puts an entry where it belongs
}

// try is one attempt to get an entry into the log.
type try struct {
	raw  []byte
	done chan attempt // holds one
}

// attempt is what came of a try; without an error a majority has it.
type attempt struct {
	at  entered
	err error
}

func newSender(underWay int, take func([]byte) (entered, error)) *sender {
	return &sender{queue: make(chan *try, 4*maxTogether), slots: make(chan struct{}, underWay), take: take}
}

// send tries once. The error is always set: the outcome of the command, an
// ErrUncertain when nobody knows what became of it, or why it was not taken.
func (s *sender) send(ctx context.Context, raw []byte, told chan outcome) error {
	t := &try{raw: raw, done: make(chan attempt, 1)}
	select {
	case s.queue <- t:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case o := <-told:
			return o
		case a := <-t.done:
			if a.err != nil {
				return a.err
			}
			t.done = nil // agreed on; it is applied here in a moment
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
		}
	}
}

// put is send for an entry that nobody here waits to see applied.
func (s *sender) put(ctx context.Context, raw []byte) (entered, error) {
	t := &try{raw: raw, done: make(chan attempt, 1)}
	select {
	case s.queue <- t:
	case <-ctx.Done():
		return entered{}, ErrNotReady
	}
	select {
	case a := <-t.done:
		return a.at, a.err
	case <-ctx.Done():
		return entered{}, fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
	}
}

// run gathers until the node closes.
func (s *sender) run(stop <-chan struct{}) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		var batch []*try
		select {
		case <-stop:
			return
		case t := <-s.queue:
			batch = append(batch, t)
		}
		select {
		case <-stop:
			batch[0].done <- attempt{err: ErrNotReady}
			return
		case s.slots <- struct{}{}:
		}
		size := len(batch[0].raw)
	gather:
		for len(batch) < maxTogether && size < maxEntry/2 {
			select {
			case t := <-s.queue:
				batch = append(batch, t)
				size += len(t.raw)
			default:
				break gather
			}
		}
		wg.Go(func() {
			raws := make([][]byte, len(batch))
			for i, t := range batch {
				raws[i] = t.raw
			}
			var a attempt
			entry, err := fleet.JoinEntries(raws...)
			if a.err = err; err == nil {
				a.at, a.err = s.take(entry)
			}
			<-s.slots
			for _, t := range batch {
				t.done <- a
			}
		})
	}
}

// enterLog puts an entry into the log of the cluster. The error is ErrUncertain
// when it is not known whether a majority has it, anything else when it was not
// taken.
func (n *Node) enterLog(entry []byte) (entered, error) {
	id, addr, changed := n.leader.now()
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	switch {
	case id == "":
		return entered{}, ErrNotReady
	case string(id) == n.dir.id:
		return n.inbox.put(ctx, entry)
	}
	go func() { // a leader that is none any more is not waited for
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	var at entered
	err := n.ask(ctx, http.MethodPost, string(addr), "/propose", entry, &at)
	var said *callError
	switch {
	case err == nil:
		n.life().wire.committed(id, addr, at.Index, at.Term)
		return at, nil
	case errors.As(err, &said) && said.status == http.StatusConflict:
		return at, fmt.Errorf("%w: %w", ErrNotReady, err)
	case errors.As(err, &said) && said.status == http.StatusInsufficientStorage:
		return at, ErrNoSpace
	}
	return at, fmt.Errorf("%w: %w", ErrUncertain, err)
}

// entered is where an entry stands in the log.
type entered struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

// append puts an entry into the log of the leader, which has to be this node.
func (n *Node) append(entry []byte) (entered, error) {
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
	if full(err) { // the disk refused it before anybody else was asked
		return entered{}, ErrNoSpace
	}
	return entered{}, fmt.Errorf("%w: %w", ErrUncertain, err)
}

// answerPropose takes an entry of another node. What cannot be decoded here would
// stop every node that applies it.
func (n *Node) answerPropose(w http.ResponseWriter, r *http.Request) {
	entry, err := readAll(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, err := fleet.DecodeEntry(entry); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !n.enter() {
		http.Error(w, n.whyNot().Error(), http.StatusConflict)
		return
	}
	defer n.inFlight.Done()
	at, err := n.inbox.put(r.Context(), entry)
	switch {
	case err == nil:
		reply(w, at)
	case errors.Is(err, ErrNotReady):
		http.Error(w, err.Error(), http.StatusConflict)
	case errors.Is(err, ErrNoSpace):
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
	default:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
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
