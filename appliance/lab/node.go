package lab

import (
	"fmt"
	"os"
	"os/exec"
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

// node keeps one "lpmos serve" running over the inherited listener.
type node struct {
	binary   string
	config   string
	log      string
	listener *os.File // becomes fd 3; ours stays open, so that it outlives every node
	restart  bool     // start it again when it dies by itself
	say      func(format string, args ...any)
	now      func() time.Time
	hopeless func(error) // called when it keeps dying

	mu      sync.Mutex
	run     *nodeRun
	timer   *time.Timer // the restart to come
	crashes int
}

type nodeRun struct {
	cmd    *exec.Cmd
	since  time.Time
	wanted bool          // guarded by node.mu; false once somebody asked it to end
	gone   chan struct{} // closed when the process is reaped
}

// start runs the node unless it runs already.
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
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("node log: %w", err)
	}
	defer log.Close()
	run := &nodeRun{cmd: exec.Command(n.binary, "serve", "--config", n.config), since: n.now(), wanted: true, gone: make(chan struct{})}
	run.cmd.Stdout, run.cmd.Stderr = log, log
	run.cmd.ExtraFiles = []*os.File{n.listener}
	run.cmd.SysProcAttr = dieWithParent()
	if err := run.cmd.Start(); err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	n.run = run
	n.say("started, pid %d", run.cmd.Process.Pid)
	go n.watch(run)
	return nil
}

// watch reaps the node and decides whether it is to live again.
func (n *node) watch(run *nodeRun) {
	err := run.cmd.Wait()
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
		n.say("died: %v: %s", err, lastLine(n.log))
	}
	if n.crashes++; n.now().Sub(run.since) >= crashWithin {
		n.crashes = 0
	}
	if n.crashes >= crashLimit {
		n.hopeless(fmt.Errorf("the node ended %d times right after its start: %s (all of it in %s)", n.crashes, lastLine(n.log), n.log))
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
		return fmt.Errorf("the node is not running: %w", errState)
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

// pid of the node in the host's numbers, 0 while it is dead.
func (n *node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return 0
	}
	return n.run.cmd.Process.Pid
}
