package main

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// watchersKey finds the "lpmos task watch" of a script, by the names it gave
// them, among the values of its environment.
type watchersKey struct{}

// watcher keeps what one of them has printed.
type watcher struct {
	mu    sync.Mutex
	lines []string
	ended bool
	more  chan struct{} // closed and made anew at every line and at the end
}

// startWatch goes on when the first line has come: what happens from then on
// has to be told.
func startWatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: watch NAME FLAGS…")
	}
	begin(ts, args[0], append([]string{"task", "watch"}, args[1:]...))
}

// startWatchMachine is the same for "lpmos watch".
func startWatchMachine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: watch-machine NAME MAC FLAGS…")
	}
	begin(ts, args[0], append([]string{"watch"}, args[1:]...))
}

func begin(ts *testscript.TestScript, name string, args []string) {
	lpmos, err := exec.LookPath("lpmos")
	ts.Check(err)
	cmd := exec.Command(lpmos, args...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), append(os.Environ(), "LPMOS_DATA_DIR="+ts.Getenv("LPMOS_DATA_DIR"))
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	w := &watcher{more: make(chan struct{})}
	ts.Value(watchersKey{}).(map[string]*watcher)[name] = w
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			w.add(lines.Text())
		}
		w.end()
		_ = cmd.Wait() // it is killed when the script ends
	}()
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	w.await(ts, regexp.MustCompile(""))
}

func watched(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] watched NAME PATTERN")
	}
	w := ts.Value(watchersKey{}).(map[string]*watcher)[args[0]]
	if w == nil {
		ts.Fatalf("nothing named %s watches", args[0])
	}
	pattern := regexp.MustCompile(args[1])
	if !neg {
		w.await(ts, pattern)
		return
	}
	if found, _, _ := w.find(pattern); found {
		ts.Fatalf("a line like %s was printed:\n%s", pattern, w.text())
	}
}

func (w *watcher) add(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, line)
	close(w.more)
	w.more = make(chan struct{})
}

func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	close(w.more)
	w.more = make(chan struct{})
}

func (w *watcher) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n")
}

// find says whether a line is there, whether no more will come, and what to wait
// for otherwise.
func (w *watcher) find(pattern *regexp.Regexp) (found, ended bool, more chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.lines {
		if pattern.MatchString(line) {
			return true, w.ended, w.more
		}
	}
	return false, w.ended, w.more
}

func (w *watcher) await(ts *testscript.TestScript, pattern *regexp.Regexp) {
	limit := time.NewTimer(nodePatience)
	defer limit.Stop()
	for {
		found, ended, more := w.find(pattern)
		if found {
			return
		}
		if ended {
			ts.Fatalf("it ended before it printed %s:\n%s", pattern, w.text())
		}
		select {
		case <-more:
		case <-limit.C:
			ts.Fatalf("no line like %s was printed:\n%s", pattern, w.text())
		}
	}
}
