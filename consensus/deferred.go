package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// deferredFile keeps what machines have told a node that could not reach a
// majority: one command a line.
const deferredFile = "deferred"

// maxDeferred bounds it: more machines than a region installs at once.
const maxDeferred = 10_000

// deferred are commands that wait for a majority. They state what has happened
// (an install that is done, a system that came up), so that they can be told
// later, and twice.
type deferred struct {
	dir  *dataDir
	mu   sync.Mutex
	list []fleet.Command
}

func openDeferred(dir *dataDir) (*deferred, error) {
	d := &deferred{dir: dir}
	b, err := os.ReadFile(dir.file(deferredFile))
	if errors.Is(err, os.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what waits for a majority: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		c, err := fleet.DecodeCommand([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, dir.file(deferredFile), err)
		}
		d.list = append(d.list, c)
	}
	return d, nil
}

// save writes the list. d.mu is held.
func (d *deferred) save() error {
	if len(d.list) == 0 {
		return d.dir.remove(deferredFile)
	}
	var b strings.Builder
	for _, c := range d.list {
		raw, err := c.Encode()
		if err != nil {
			return err
		}
		b.Write(raw)
		b.WriteByte('\n')
	}
	return d.dir.write(deferredFile, strings.TrimSuffix(b.String(), "\n"))
}

// Defer keeps a command on disk and proposes it as soon as a majority is in
// reach. It is for what has happened and cannot be refused any more, such as
// fleet.FinishInstall and fleet.ReportUp, when Propose said ErrNotReady.
func (n *Node) Defer(body fleet.Body) error {
	id, err := ulid.New(ulid.Timestamp(n.now()), n.random)
	if err != nil {
		return fmt.Errorf("make command id: %w", err)
	}
	d := n.deferred
	d.mu.Lock()
	defer d.mu.Unlock()
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	for _, c := range d.list {
		if had, err := json.Marshal(c.Body); err == nil && string(had) == string(raw) {
			return nil // told twice
		}
	}
	if len(d.list) >= maxDeferred {
		return fmt.Errorf("%d reports wait for a majority already", len(d.list))
	}
	d.list = append(d.list, fleet.Command{ID: strings.ToLower(id.String()), At: n.now(), Body: body})
	if err := d.save(); err != nil {
		d.list = d.list[:len(d.list)-1]
		return err
	}
	return nil
}

// Deferred are the commands that wait for a majority, oldest first.
func (n *Node) Deferred() []fleet.Body {
	n.deferred.mu.Lock()
	defer n.deferred.mu.Unlock()
	var out []fleet.Body
	for _, c := range n.deferred.list {
		out = append(out, c.Body)
	}
	return out
}

// DeferredFor is the end of an install that waits for a majority.
func (n *Node) DeferredFor(taskID string) (fleet.FinishInstall, bool) {
	for _, b := range n.Deferred() {
		if f, ok := b.(fleet.FinishInstall); ok && f.TaskID == taskID {
			return f, true
		}
	}
	return fleet.FinishInstall{}, false
}

// carryDeferred proposes what waits until the node closes.
func (n *Node) carryDeferred() {
	defer n.wg.Done()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-n.brokenDown:
			return
		case <-tick.C:
		}
		d := n.deferred
		for {
			d.mu.Lock()
			var first *fleet.Command
			if len(d.list) > 0 {
				first = &d.list[0]
			}
			d.mu.Unlock()
			if first == nil || !n.leader.lost().IsZero() {
				break
			}
			ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
			_, err := n.Propose(ctx, first.Body)
			cancel()
			if err != nil && fleet.ErrorCode(err) == "" {
				break // the next tick
			}
			if err != nil {
				n.log.Warn("what a machine told while no majority was in reach does not fit any more", "reason", err)
			} else {
				n.log.Info("what a machine told while no majority was in reach is in the log now")
			}
			d.mu.Lock()
			d.list = d.list[1:]
			if err := d.save(); err != nil {
				n.log.Warn("a report that was taken may be told again after a restart", "error", err)
			}
			d.mu.Unlock()
		}
	}
}
