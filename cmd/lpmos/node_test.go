package main

import (
	"bufio"
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// nodeKey finds a script's node among the values of its environment.
type nodeKey struct{}

// testNode is the node of a script, if it runs.
type testNode struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process has ended
	err  error         // how it ended, after gone
	log  bytes.Buffer  // after gone

	mu    sync.Mutex
	begun []string // what it had said when it was ready
}

// said puts what the pattern's group finds in what the node said until it was ready
// into a variable.
func (n *testNode) said(ts *testscript.TestScript, neg bool, pattern, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, line := range n.begun {
		if found := regexp.MustCompile(pattern).FindStringSubmatch(line); found != nil {
			if neg {
				ts.Fatalf("the node said %s", line)
			}
			ts.Setenv(name, found[1])
			return
		}
	}
	if !neg {
		ts.Fatalf("the node said nothing like %s:\n%s", pattern, strings.Join(n.begun, "\n"))
	}
}

// A node has this long to become ready, and to end: far more than it needs even
// on a machine that is busy with other tests.
const nodePatience = time.Minute

func up(ts *testscript.TestScript, neg bool, args []string) {
	n := ts.Value(nodeKey{}).(*testNode)
	switch {
	case len(args) == 3 && args[0] == "log":
		n.said(ts, neg, args[1], args[2])
	case neg:
		ts.Fatalf("a node that has to fail: exits 1 lpmos up FLAGS…")
	case len(args) == 1 && args[0] == "stop":
		n.stop(ts)
	case n.cmd != nil:
		ts.Fatalf("the node runs already")
	default:
		n.start(ts, args)
	}
}

func (n *testNode) start(ts *testscript.TestScript, flags []string) {
	lpmos, err := exec.LookPath("lpmos") // testscript puts it on this process's path, too
	ts.Check(err)
	n.cmd = exec.Command(lpmos, append([]string{"up"}, flags...)...)
	n.cmd.Dir = ts.MkAbs(".")
	n.cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + ts.Getenv("TMPDIR"), "LPMOS_USER=" + ts.Getenv("LPMOS_USER")}
	out, err := n.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(n.cmd.Start())
	ready, gone := make(chan struct{}), make(chan struct{})
	n.gone, n.err = gone, nil
	n.log.Reset()
	n.begun = nil
	go func() {
		defer close(gone)
		told := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			n.log.WriteString(lines.Text() + "\n")
			if !told {
				n.mu.Lock()
				n.begun = append(n.begun, lines.Text())
				n.mu.Unlock()
			}
			if !told && strings.Contains(lines.Text(), "node is ready") {
				told = true
				close(ready)
			}
		}
		n.err = n.cmd.Wait()
	}()
	ts.Defer(func() {
		if n.cmd != nil {
			n.kill()
		}
	})
	select {
	case <-ready:
	case <-gone:
		n.cmd = nil
		ts.Fatalf("the node ended (%v):\n%s", n.err, n.log.String())
	case <-time.After(nodePatience):
		n.kill()
		ts.Fatalf("the node did not become ready:\n%s", n.log.String())
	}
}

// kill ends the process whatever it does; an error says that it has ended.
func (n *testNode) kill() {
	_ = n.cmd.Process.Kill()
	<-n.gone
	n.cmd = nil
}

func (n *testNode) stop(ts *testscript.TestScript) {
	if n.cmd == nil {
		ts.Fatalf("no node runs")
	}
	ts.Check(n.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-n.gone:
		n.cmd = nil
		if n.err != nil {
			ts.Fatalf("the node did not end well (%v):\n%s", n.err, n.log.String())
		}
	case <-time.After(nodePatience):
		n.kill()
		ts.Fatalf("the node did not end when it was told to:\n%s", n.log.String())
	}
}
