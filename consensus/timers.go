package consensus

import (
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// The heartbeat timeout follows the round trips between nodes, in steps, so that
// it does not change with every breath. Too short, and a follower mistakes a slow
// wire or a busy machine for a dead leader; too long, and people wait for one.
var timerSteps = []time.Duration{leastTimer, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

const (
	leastTimer = 250 * time.Millisecond
	// tripsPerTimer is how many of the long round trips lately have to fit into
	// the timeout: a heartbeat is sent every tenth of it, and waits for the answer
	// to the one before.
	tripsPerTimer = 6
	// A longer timer is taken soon, a shorter one when it would have done for long.
	lengthenAfter = 2 * time.Second
	shortenAfter  = 2 * time.Minute
)

// timerFor is the step that suits the longest round trip.
func timerFor(trip time.Duration) time.Duration {
	for _, step := range timerSteps {
		if tripsPerTimer*trip <= step {
			return step
		}
	}
	return timerSteps[len(timerSteps)-1]
}

// firstTimer is what the node starts with: what it had last.
func (n *Node) firstTimer() time.Duration {
	if n.cfg.Heartbeat > 0 {
		return n.cfg.Heartbeat
	}
	b, err := os.ReadFile(n.dir.file(timerFile))
	if err != nil {
		return leastTimer
	}
	ms, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return leastTimer
	}
	return timerFor(time.Duration(ms) * time.Millisecond / tripsPerTimer)
}

func (n *Node) heartbeat() time.Duration {
	if l := n.life(); l != nil {
		return l.timer
	}
	return leastTimer
}

// tuner decides when to start Raft with other timers.
type tuner struct {
	want  time.Duration
	since time.Time
}

// due says whether to change from one timer to the wanted, which has to hold for
// a while.
func (t *tuner) due(has, want time.Duration, now time.Time) bool {
	if want != t.want {
		t.want, t.since = want, now
	}
	switch held := now.Sub(t.since); {
	case want > has:
		return held >= lengthenAfter
	case want < has:
		return held >= shortenAfter
	}
	return false
}

// retime starts Raft anew with another timer, unless the node is ending.
func (n *Node) retime(to time.Duration) {
	defer n.reborn.take()()
	if n.isEnding() {
		return
	}
	old := n.life()
	n.log.Info("the round trips between nodes call for another election timeout", slog.Duration("was", old.timer), slog.Duration("is", to))
	if err := n.dir.write(timerFile, strconv.Itoa(int(to/time.Millisecond))); err != nil {
		n.log.Warn("the election timeout is not remembered", "error", err)
	}
	if err := n.die(old); err != nil {
		n.log.Warn("raft did not stop cleanly", "error", err)
	}
	if n.isEnding() { // it was asked to while Raft was stopping: nobody would end another life
		return
	}
	if _, err := n.born(to); err != nil && !n.isEnding() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.breakdown(err)
	}
}

func (n *Node) isEnding() bool {
	select {
	case <-n.ending:
		return true
	case <-n.brokenDown:
		return true
	default:
		return false
	}
}
