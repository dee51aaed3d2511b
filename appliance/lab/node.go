package lab

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// restartDelay is how long a node that died by itself stays dead.
	restartDelay = time.Second
	// A node that ends this often before it is this old never gets better.
	crashLimit  = 3
	crashWithin = 3 * time.Second
	// termLimit is how long a node may take to end when asked to.
	termLimit = 10 * time.Second
)

// node keeps one "lpmos up" running over the inherited listener, at the end of
// a cable of its own.
type node struct {
	Node
	binary   string
	listener *os.File // becomes fd 3; ours stays open, so that it outlives every run
	cable    *cable
	restart  bool // start it again when it dies by itself
	say      func(format string, args ...any)
	now      func() time.Time
	hopeless func(error) // called when it keeps dying

	mu      sync.Mutex
	join    []string // token and address, until it has joined
	run     *nodeRun
	timer   *time.Timer // the restart to come
	crashes int
	cut     bool            // its cable is pulled
	lost    map[string]Node // by name, the nodes it cannot reach, nor they it
}

type nodeRun struct {
	cmd    *exec.Cmd
	since  time.Time
	wanted bool          // guarded by node.mu; false once somebody asked it to end
	paused bool          // guarded by node.mu
	gone   chan struct{} // closed when the process is reaped
}

// startWith runs the node unless it runs already; as long as it has not joined a
// cluster it does so with this token at this address. Without them it makes one
// of its own, or goes on in the one it is in.
func (n *node) startWith(join []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.join = join
	return n.startLocked()
}

func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked()
}

func (n *node) startLocked() error {
	n.cancelRestartLocked()
	if n.run != nil {
		return nil
	}
	log, err := os.OpenFile(n.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log of %s: %w", n.Name, err)
	}
	defer log.Close()
	args := []string{"up", "--config", n.config()}
	if len(n.join) > 0 && !n.hasJoined() {
		args = append(append(args, "--join"), n.join...)
	}
	run := &nodeRun{cmd: exec.Command(n.binary, args...), since: n.now(), wanted: true, gone: make(chan struct{})}
	run.cmd.Stdout, run.cmd.Stderr = log, log
	run.cmd.ExtraFiles = []*os.File{n.listener}
	run.cmd.SysProcAttr = dieWithParent()
	if err := n.cable.start(run.cmd, func(err error) { n.ended(run, err) }); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	n.run = run
	n.say("started, pid %d", run.cmd.Process.Pid)
	return nil
}

// ended decides whether the node is to live again.
func (n *node) ended(run *nodeRun, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.run = nil
	close(run.gone)
	if !run.wanted {
		n.say("ended")
		return
	}
	if err == nil {
		n.say("ended by itself")
	} else {
		n.say("died: %v: %s", err, lastLine(n.Log()))
	}
	if n.crashes++; n.now().Sub(run.since) >= crashWithin {
		n.crashes = 0
	}
	if n.crashes >= crashLimit {
		n.hopeless(fmt.Errorf("%s ended %d times right after its start: %s (all of it in %s)", n.Name, n.crashes, lastLine(n.Log()), n.Log()))
		return
	}
	if !n.restart {
		return
	}
	n.timer = time.AfterFunc(restartDelay, n.revive)
}

func (n *node) revive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer == nil {
		return // somebody changed their mind while the timer fired
	}
	n.say("starting it again")
	if err := n.startLocked(); err != nil {
		n.hopeless(err)
	}
}

func (n *node) cancelRestartLocked() {
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
}

// kill ends the node with kill -9 and leaves it dead.
func (n *node) kill() error {
	run := n.release()
	if run == nil {
		return n.notRunning()
	}
	_ = run.cmd.Process.Kill()
	<-run.gone
	return nil
}

// stop asks the node to end, and makes it when it takes too long.
func (n *node) stop() {
	run := n.release()
	if run == nil {
		return
	}
	_ = run.cmd.Process.Signal(syscall.SIGTERM)
	_ = run.cmd.Process.Signal(syscall.SIGCONT) // a paused node hears nothing
	limit := time.NewTimer(termLimit)
	defer limit.Stop()
	select {
	case <-run.gone:
	case <-limit.C:
		n.say("did not end in %s, killing it", termLimit)
		_ = run.cmd.Process.Kill()
		<-run.gone
	}
}

// release gives up the will to keep the node alive and returns what runs.
func (n *node) release() *nodeRun {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cancelRestartLocked()
	if n.run != nil {
		n.run.wanted = false
	}
	return n.run
}

// pause stops the node where it is; its host goes on.
func (n *node) pause() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return n.notRunning()
	}
	if err := n.run.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", n.Name, err)
	}
	n.run.paused = true
	n.say("paused")
	return nil
}

func (n *node) notRunning() error { return fmt.Errorf("%s is not running: %w", n.Name, errState) }

// pull takes the node off the wire.
func (n *node) pull() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.cable.pull(); err != nil {
		return err
	}
	n.cut = true
	n.say("cut off")
	return nil
}

// lose lets nothing of this node reach another.
func (n *node) lose(other Node) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.cable.lose(other.IP); err != nil {
		return err
	}
	n.lost[other.Name] = other
	n.say("cut off from %s", other.Name)
	return nil
}

// find takes lose back.
func (n *node) find(other Node) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.findLocked(other)
}

func (n *node) findLocked(other Node) error {
	if _, lost := n.lost[other.Name]; !lost {
		return nil
	}
	if err := n.cable.find(other.IP); err != nil {
		return err
	}
	delete(n.lost, other.Name)
	n.say("reaches %s again", other.Name)
	return nil
}

// heal takes everything back that was done to the node.
func (n *node) heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.lost {
		if err := n.findLocked(other); err != nil {
			return err
		}
	}
	if n.cut {
		if err := n.cable.push(); err != nil {
			return err
		}
		n.cut = false
		n.say("back on the wire")
	}
	if n.run != nil && n.run.paused {
		if err := n.run.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			return fmt.Errorf("let %s go on: %w", n.Name, err)
		}
		n.run.paused = false
		n.say("goes on")
	}
	return n.startLocked()
}

func (n *node) state() NodeState {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := NodeState{Node: n.Node, Log: n.Log(), State: NodeDead, Cut: n.cut, CutFrom: slices.Sorted(maps.Keys(n.lost))}
	if n.run != nil {
		s.PID, s.State = n.run.cmd.Process.Pid, NodeRunning
		if n.run.paused {
			s.State = NodePaused
		}
	}
	return s
}
