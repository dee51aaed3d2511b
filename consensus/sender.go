package consensus

import (
	"bytes"
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
	// under way at once: the leader's disk works on one while the followers' disks
	// work on the one before.
	maxUnderWay = 3
)

// sender gathers the commands that wait into one entry. While one is on its way
// to the disks the next fills up: few writers wait for nobody, many share.
type sender struct {
	n     *Node
	queue chan *try
	slots chan struct{}
}

// try is one attempt to get a command into the log.
type try struct {
	raw  []byte
	done chan error // holds one: nil when a majority has it
}

func newSender(n *Node) *sender {
	return &sender{n: n, queue: make(chan *try, 4*maxTogether), slots: make(chan struct{}, maxUnderWay)}
}

// send tries once. The error is always set: the outcome of the command, an
// ErrUncertain when nobody knows what became of it, or why it was not taken.
func (s *sender) send(ctx context.Context, raw []byte, told chan outcome) error {
	t := &try{raw: raw, done: make(chan error, 1)}
	select {
	case s.queue <- t:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.n.stop:
		return ErrNotReady
	}
	for {
		select {
		case o := <-told:
			return o
		case err := <-t.done:
			if err != nil {
				return err
			}
			t.done = nil // agreed on; it is applied here in a moment
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
		case <-s.n.stop: // nobody gathers tries any more
			return ErrUncertain
		}
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
			batch[0].done <- ErrNotReady
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
			err := s.n.enterLog(together(batch))
			<-s.slots
			for _, t := range batch {
				t.done <- err
			}
		})
	}
}

// together is the entry of several commands: a JSON array, or the one itself.
func together(batch []*try) []byte {
	if len(batch) == 1 {
		return batch[0].raw
	}
	raws := make([][]byte, len(batch))
	for i, t := range batch {
		raws[i] = t.raw
	}
	return append(append([]byte{'['}, bytes.Join(raws, []byte{','})...), ']')
}

// enterLog puts an entry into the log of the cluster: nil when a majority has it,
// ErrUncertain when that is not known, anything else when it was not taken.
func (n *Node) enterLog(entry []byte) error {
	id, addr, changed := n.leader.now()
	switch {
	case id == "":
		return ErrNotReady
	case string(id) == n.dir.id:
		_, err := n.append(entry)
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
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
		n.life().wire.committed(ctx, id, addr, at)
		return nil
	case errors.As(err, &said) && (said.status == http.StatusConflict || said.status == http.StatusForbidden || said.status == http.StatusBadRequest):
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	case errors.As(err, &said) && said.status == http.StatusInsufficientStorage:
		return ErrNoSpace
	}
	return fmt.Errorf("%w: %w", ErrUncertain, err)
}

// entered is where an entry stands in the log.
type entered struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

// append puts an entry into the log of the leader, which has to be this node.
func (n *Node) append(entry []byte) (entered, error) {
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
	at, err := n.append(entry)
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
