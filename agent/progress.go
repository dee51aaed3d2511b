package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// progressEvery is the least time between two posts, and consoleEvery between
// two lines on the console.
const (
	progressEvery = 250 * time.Millisecond
	consoleEvery  = 5 * time.Second
)

// errRevoked stops an install whose task the node has taken back.
var errRevoked = errors.New("the node has taken this install back")

// progress carries progress from the writer, which must never wait, to the node,
// which may be away. Values of one stage replace each other; the last value of
// each stage is delivered, in order.
type progress struct {
	taskID string
	gen    uint64
	now    func() time.Time

	mu      sync.Mutex
	pending []wire.Progress // one for each stage at most
	last    wire.Progress
	shown   time.Time
	wake    chan struct{} // holds one signal
	done    chan struct{} // closed when nothing more comes
}

func newProgress(taskID string, gen uint64, now func() time.Time) *progress {
	return &progress{taskID: taskID, gen: gen, now: now, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// put takes a value. It returns the value with its percentage kept from going
// back, and whether it is time to show it on the console.
func (p *progress) put(v wire.Progress) (_ wire.Progress, show bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v.Percentage = min(max(v.Percentage, p.last.Percentage), 100)
	newStage := v.Stage != p.last.Stage
	p.last = v
	if n := len(p.pending); n > 0 && p.pending[n-1].Stage == v.Stage {
		p.pending[n-1] = v
	} else {
		p.pending = append(p.pending, v)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	if now := p.now(); newStage || now.Sub(p.shown) >= consoleEvery {
		p.shown, show = now, true
	}
	return v, show
}

// take removes the oldest value.
func (p *progress) take() (wire.Progress, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) == 0 {
		return wire.Progress{}, false
	}
	v := p.pending[0]
	p.pending = p.pending[1:]
	return v, true
}

// close says that no more values come. send returns when all are delivered.
func (p *progress) close() { close(p.done) }

// send posts values until close, and then what is left. post tries for as long
// as the node is away; a refusal means the task is no longer this agent's, and
// revoke is called with the reason.
func (p *progress) send(ctx context.Context, post func(context.Context, wire.ProgressRequest) error, sleep func(context.Context, time.Duration) error, revoke context.CancelCauseFunc) {
	for {
		v, ok := p.take()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-p.wake:
				continue
			case <-p.done:
				if v, ok = p.take(); !ok {
					return
				}
			}
		}
		err := post(ctx, wire.ProgressRequest{TaskID: p.taskID, Generation: p.gen, Progress: v})
		if isRevoked(err) {
			revoke(errors.Join(errRevoked, err))
			return
		}
		select {
		case <-p.done: // the end of the task waits for this: no pause
		default:
			if sleep(ctx, progressEvery) != nil {
				return
			}
		}
	}
}
