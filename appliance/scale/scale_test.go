//go:build scale

// Package scale measures a node that knows 10,000 machines and 100,000 tasks
// that are past, as `make bench-scale` prints it. It runs the program itself, so
// that what is measured is what people run.
package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/client"
)

const (
	machines = 10_000
	installs = 10 // of each machine
)

// figures collects what is printed.
type figures struct {
	t     *testing.T
	lines []string
}

// add takes a figure that may be at most so large; a limit of 0 only tells.
func (f *figures) add(what string, got, limit float64, unit string) {
	verdict := ""
	switch {
	case limit == 0:
	case got <= limit:
		verdict = fmt.Sprintf("below %g %s", limit, unit)
	default:
		verdict = fmt.Sprintf("OVER %g %s", limit, unit)
		f.t.Errorf("%s: %.1f %s, more than %g", what, got, unit, limit)
	}
	f.lines = append(f.lines, fmt.Sprintf("%-58s %9.1f %-3s %s", what, got, unit, verdict))
}

func (f *figures) seconds(what string, d time.Duration, limit float64) {
	f.add(what, d.Seconds(), limit, "s")
}

// TestScale makes the data directory of such a node and measures it. The budgets
// are those of the closing note; the machine is meant to do nothing else.
func TestScale(t *testing.T) {
	dir := t.TempDir()
	f := &figures{t: t}
	t.Cleanup(func() { fmt.Println(strings.Join(f.lines, "\n")) })

	// The fleet comes to be by the same commands as in life, without the waiting,
	// and lies in a backup.
	began := time.Now()
	s := consensustest.Fleet(t, machines, installs)
	t.Logf("the fleet was made in %.1f s", time.Since(began).Seconds())
	source := filepath.Join(dir, "source")
	if _, err := consensus.Restore(consensus.Restoring{Dir: source, Info: consensus.BackupInfo{Term: 1, Created: time.Now()},
		State: s, Logger: slog.New(slog.DiscardHandler), Rand: strings.NewReader(strings.Repeat("x", 64))}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "backup")
	backUp(t, source, file)
	if fi, err := os.Stat(file); err == nil {
		f.add("backup file", float64(fi.Size())/1e6, 0, "MB")
	}
	s = nil

	// Restore, with the program.
	data := filepath.Join(dir, "data")
	began = time.Now()
	lpmos(t, "restore", file, "--unencrypted", "--data-dir", data)
	f.seconds("lpmos restore", time.Since(began), 10)

	// The first start raises the epoch; what counts are those after it.
	n := start(t, data)
	n.figure(f, "first start", 0)
	passphrase := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(passphrase, []byte("four words that rhyme\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	n.lpmos("backup", filepath.Join(dir, "backup-2"), "--passphrase-file", passphrase)
	f.seconds("lpmos backup", time.Since(began), 10)
	n.kill()
	for range 3 {
		n.kill()
		n = start(t, data)
		n.figure(f, "restart, nothing in the log behind the snapshot", 3)
	}
	n.settled(f)

	// Lists.
	n.measure(f, "GET /api/v1/machines, first page", "/api/v1/machines", 50)
	n.measure(f, "GET /api/v1/machines?phase=installed, first page", "/api/v1/machines?phase=installed", 50)
	n.measure(f, "GET /api/v1/tasks, first page", "/api/v1/tasks", 50)
	n.measure(f, "GET /api/v1/tasks?machine_id=…, its only page", "/api/v1/tasks?machine_id="+consensustest.MachineID(machines/2), 50)
	n.measure(f, "GET /api/v1/stats", "/api/v1/stats", 50)
	n.settled(f)
	n.kill()

	// A log as long as it gets: one report short of a snapshot.
	entries, bytes := lengthen(t, filepath.Join(data, "raft"))
	n = start(t, data)
	n.figure(f, fmt.Sprintf("restart with a log of %d entries, %.0f MB", entries, float64(bytes)/1e6), 3)
	n.settled(f)
	n.kill()
}

// backUp opens the directory as a node and has it make a backup.
func backUp(t *testing.T, dir, file string) {
	t.Helper()
	n := consensustest.Open(t, consensustest.Config(dir))
	defer n.Close()
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Backup(context.Background(), out); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// lengthen has machines report until the log is as long as a node lets it get
// before it makes a snapshot (consensus.Config.SnapshotBytes).
func lengthen(t *testing.T, dir string) (entries int, bytes int64) {
	t.Helper()
	cfg := consensustest.Config(dir)
	cfg.SnapshotEntries, cfg.SnapshotBytes = 1<<40, 1<<40
	n := consensustest.Open(t, cfg)
	defer n.Close()
	limit := int64(16 << 20)
	if size, ok := n.Stats()["snapshot_bytes"].(int64); ok {
		limit = max(limit, size)
	}
	limit -= limit / 20 // a snapshot is not due yet
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for {
				mu.Lock()
				i, full := entries, bytes >= limit
				entries++
				mu.Unlock()
				if full {
					return
				}
				consensustest.Server(i%machines, func(b fleet.Body) any {
					raw, err := json.Marshal(b)
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					bytes += int64(len(raw))
					mu.Unlock()
					result, err := n.Propose(context.Background(), b)
					if err != nil {
						t.Error(err)
					}
					return result
				})
			}
		})
	}
	wg.Wait()
	return entries, bytes
}

// node is the program, running.
type node struct {
	t     *testing.T
	cmd   *exec.Cmd
	data  string
	http  *http.Client  // by the node's own socket
	after time.Duration // from its start to its first answer
	cpu   float64       // seconds of all cores until then
}

func program() string { return filepath.Join("..", "..", "bin", "lpmos") }

func lpmos(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(program(), args...).CombinedOutput(); err != nil {
		t.Fatalf("lpmos %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// lpmos runs the command line against the node.
func (n *node) lpmos(args ...string) {
	n.t.Helper()
	n.t.Setenv("LPMOS_DATA_DIR", n.data)
	lpmos(n.t, args...)
}

func start(t *testing.T, data string) *node {
	t.Helper()
	n := &node{t: t, data: data, http: &http.Client{Transport: &http.Transport{DialContext: client.DialAtTheNode(data)}}}
	address := consensustest.Address(t)
	n.cmd = exec.Command(program(), "up", "--user", "root", "--data-dir", data, "--listen", address, "--cluster-listen", consensustest.Address(t))
	var log strings.Builder
	n.cmd.Stderr = &log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // should the test be killed
	began := time.Now()
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.kill)
	for deadline := began.Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		res, err := n.http.Get("http://localhost/api/v1/health")
		if err == nil {
			res.Body.Close()
			n.after, n.cpu = time.Since(began), n.cores()
			return n
		}
		if time.Now().After(deadline) {
			n.kill()
			t.Fatalf("the node does not answer:\n%s", log.String())
		}
	}
}

// figure tells how long the node took to start.
func (n *node) figure(f *figures, what string, limit float64) {
	f.seconds(what, n.after, limit)
	f.add("    time of a core it took", n.cpu, 0, "s")
}

// kill ends the program without a word, as a power cut would.
func (n *node) kill() {
	if n.cmd.ProcessState == nil {
		n.cmd.Process.Kill() //nolint:errcheck // Wait says what became of it
		n.cmd.Wait()         //nolint:errcheck // it was killed
	}
}

// settled tells the memory of the node once it does not shrink any more.
func (n *node) settled(f *figures) {
	n.t.Helper()
	now := n.memory("VmRSS")
	for before, tries := now+1, 0; now < before && tries < 20; tries++ {
		time.Sleep(500 * time.Millisecond)
		before, now = now, n.memory("VmRSS")
	}
	f.add("    memory then (VmRSS)", now, 300, "MB")
	f.add("    memory at most until then (VmHWM)", n.memory("VmHWM"), 0, "MB")
}

// memory is a line of /proc/PID/status, in MB.
func (n *node) memory(line string) float64 {
	n.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(l, line+":"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return kb * 1024 / 1e6
		}
	}
	n.t.Fatalf("there is no line %s", line)
	return 0
}

// cores is how much time of a core the program has had so far, in seconds: what
// tells more than the clock when the machine does something else, too.
func (n *node) cores() float64 {
	n.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ") // behind its name, which may hold anything
	var ticks float64
	for _, field := range strings.Fields(rest)[11:13] {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			n.t.Fatal(err)
		}
		ticks += v
	}
	return ticks / 100
}

// measure asks 40 times and tells the median and the slowest of them.
func (n *node) measure(f *figures, what, path string, limit float64) {
	n.t.Helper()
	var took []time.Duration
	size := int64(0)
	for range 40 {
		began := time.Now()
		res, err := n.http.Get("http://localhost" + path)
		if err != nil {
			n.t.Fatal(err)
		}
		size, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			n.t.Fatalf("%s: status %d, %v", path, res.StatusCode, err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	f.add(fmt.Sprintf("%s (%d kB), median", what, size/1000), ms(took[len(took)/2]), limit, "ms")
	f.add("    slowest of 40", ms(took[len(took)-1]), 0, "ms")
}
