//go:build journey

package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/ui/api/client"
)

// patience is how long one step may take on a slow machine before the test is
// given up. It is a limit, not a wait.
const patience = 8 * time.Minute

// repository is the top of the tree.
func repository(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func tinyImage(t *testing.T) string {
	t.Helper()
	return filepath.Join(repository(t), "build/images/tiny.raw")
}

// rack is a virtual rack under test.
type rack struct {
	t   *testing.T
	ctx context.Context
	*lab.Rack
	c   *lab.Client
	dir string
}

// newRack starts a rack with the tiny image imported. Its logs are kept when the
// test fails.
func newRack(t *testing.T, o lab.Options) *rack {
	t.Helper()
	r := emptyRack(t, o)
	r.importImage("tiny", tinyImage(t))
	return r
}

// emptyRack is one without an image.
func emptyRack(t *testing.T, o lab.Options) *rack {
	t.Helper()
	dir, err := os.MkdirTemp("", "lpmos-rack-") // short: the control socket's name has a limit
	if err != nil {
		t.Fatal(err)
	}
	o.Dir, o.Binary, o.Listen = dir, filepath.Join(repository(t), "bin/lpmos"), "127.0.0.1:0"
	o.Out = testWriter{t}
	if o.MemoryMB == 0 {
		o.MemoryMB = 512
	}
	if o.DiskBytes == 0 {
		o.DiskBytes = 1 << 30
	}
	o.StartOff = true
	ctx, cancel := context.WithCancel(context.Background())
	r, err := lab.Start(ctx, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	k := &rack{t: t, ctx: ctx, Rack: r, c: r.Client(), dir: dir}
	t.Cleanup(func() {
		cancel()
		if err := r.Wait(); err != nil {
			t.Errorf("rack: %v", err)
		}
		if t.Failed() {
			k.keepLogs()
		}
		os.RemoveAll(dir)
	})
	k.await("the node is healthy", func() bool {
		code, _ := k.call("GET", "/api/v1/health", nil, nil)
		return code == 200
	})
	// The journeys install more often than one word is good for.
	k.await("one word installs any number of machines", func() bool {
		code, _ := k.call("PUT", "/api/v1/policy", map[string]any{"approval_cap": 1000, "approval_window_minutes": 1, "second_approver": "never"}, nil)
		return code == 200
	})
	return k
}

func (r *rack) keepLogs() {
	logs, _ := filepath.Glob(filepath.Join(r.dir, "machines/*/serial*.log"))
	nodeLogs, _ := filepath.Glob(filepath.Join(r.dir, "node-*/*.log"))
	for _, f := range append(logs, nodeLogs...) {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if len(b) > 6000 {
			b = b[len(b)-6000:]
		}
		r.t.Logf("the end of %s:\n%s", f, printable(b))
	}
}

func printable(b []byte) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c >= ' ' && c != 0x7f {
			return c
		}
		return -1
	}, string(b))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// await checks a condition until it holds.
func (r *rack) await(what string, holds func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited %s in vain: %s\n%s", patience, what, r.consoles())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// consoles tells what the machines said last, in short: the whole is in keepLogs.
func (r *rack) consoles() string {
	var out strings.Builder
	logs, _ := filepath.Glob(filepath.Join(r.dir, "machines/*/serial.log"))
	for _, f := range logs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		said := strings.Split(strings.TrimSpace(printable(b)), "\n")
		fmt.Fprintf(&out, "%s said last: %s\n", filepath.Base(filepath.Dir(f)), strings.Join(said[max(0, len(said)-4):], " | "))
	}
	return out.String()
}

// well is a node that nothing was done to, or else the first.
func (r *rack) well() lab.Node {
	r.t.Helper()
	for _, n := range r.state().Nodes {
		if n.Well() {
			return n.Node
		}
	}
	return r.Nodes()[0]
}

// by asks a node by its own socket, as who may read its directory.
func by(n lab.Node) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: client.DialAtTheNode(n.DataDir())}}
}

// call asks a node; one that is away gives 0.
func (r *rack) call(method, path string, in, out any) (int, string) {
	r.t.Helper()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			r.t.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(r.ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := by(r.well()).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	if out != nil && res.StatusCode/100 == 2 {
		if err := json.Unmarshal(text, out); err != nil {
			r.t.Fatalf("%s %s: %v in %.300s", method, path, err, text)
		}
	}
	return res.StatusCode, string(text)
}

func (r *rack) importImage(name, file string) {
	r.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		r.t.Fatalf("%v (make images builds it)", err)
	}
	defer f.Close()
	res, err := by(r.Nodes()[0]).Post("http://localhost/api/v1/images?name="+name+"&os_type="+name, "application/octet-stream", f)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 201 {
		text, _ := io.ReadAll(res.Body)
		r.t.Fatalf("import %s: %d %s", name, res.StatusCode, text)
	}
}

// The parts of the API's documents that the tests look at.
type task struct {
	ID         string
	Generation uint64
	MachineID  string `json:"machine_id"`
	Status     wire.Status
	Plan       *wire.Plan
	PlanHash   string `json:"plan_hash"`
	Confirm    string
	Problem    string
	Review     string
	Phase      string
	PhaseText  string `json:"phase_text"`
	Actions    []string
	Held       *struct{ Reason string }
	Progress   *wire.Progress
	Error      *wire.TaskError
	Approval   *struct{ At time.Time }
	CameUp     *struct {
		At       time.Time
		Hostname string
	} `json:"came_up"`
	ReportedAt time.Time `json:"reported_at"`
	FinishedAt time.Time `json:"finished_at"`
	Logs       []struct {
		At   time.Time
		Text string
	}
}

// approval is a person's word for the plan of the task as it was seen.
func (t task) approval() map[string]any {
	return map[string]any{"approved": true, "plan_hash": t.PlanHash, "confirm_serial": t.Confirm}
}

type machine struct {
	ID         string
	Phase      string
	Addresses  map[string]string
	ReportedAt time.Time       `json:"reported_at"`
	Inventory  *wire.Inventory `json:"inventory"`
	IDs        struct{ MACs []string }
}

// machineOf waits until the machine with this MAC has reported.
func (r *rack) machineOf(mac string) machine {
	r.t.Helper()
	var found machine
	r.await("machine "+mac+" reports", func() bool {
		var all []machine
		r.list("/api/v1/machines", "machines", &all)
		for _, m := range all {
			for _, have := range m.IDs.MACs {
				if have == mac && !m.ReportedAt.IsZero() {
					found = m
					return true
				}
			}
		}
		return false
	})
	var whole machine
	if code, text := r.call("GET", "/api/v1/machines/"+found.ID, nil, &whole); code != 200 {
		r.t.Fatalf("machine %s: %d %s", found.ID, code, text)
	}
	return whole
}

// list reads a listing, whether it stands alone or under a name.
func (r *rack) list(path, name string, out any) {
	r.t.Helper()
	code, text := r.call("GET", path, nil, nil)
	if code != 200 {
		return
	}
	raw := []byte(text)
	var under map[string]json.RawMessage
	if json.Unmarshal(raw, &under) == nil && under[name] != nil {
		raw = under[name]
	}
	if err := json.Unmarshal(raw, out); err != nil {
		r.t.Fatalf("%s: %v", path, err)
	}
}

func (r *rack) task(id string) (t task) {
	r.t.Helper()
	r.await("the node tells of task "+id, func() bool {
		code, _ := r.call("GET", "/api/v1/tasks/"+id, nil, &t)
		return code == 200
	})
	return t
}

// approve makes a task for a waiting machine and approves its plan.
func (r *rack) approve(mac, hostname, disk string) task {
	r.t.Helper()
	var made task
	code, text := r.call("POST", "/api/v1/tasks", map[string]any{
		"target_mac": mac, "os_type": "tiny",
		"disk_layout": map[string]any{"disk": disk}, "network_config": map[string]any{"hostname": hostname},
	}, &made)
	if code != 201 {
		r.t.Fatalf("make task: %d %s", code, text)
	}
	if made.Status != wire.StatusPendingApproval {
		r.t.Fatalf("task for a waiting machine is %s: %s", made.Status, made.Problem)
	}
	code, text = r.call("PUT", "/api/v1/tasks/"+made.ID+"/approve", made.approval(), nil)
	if code != 200 {
		r.t.Fatalf("approve: %d %s", code, text)
	}
	return made
}

// until waits for a task to be as wanted; a failed task ends the test.
func (r *rack) until(id, what string, holds func(task) bool) task {
	r.t.Helper()
	var t task
	r.await(fmt.Sprintf("task %s %s", id, what), func() bool {
		t = r.task(id)
		if t.Status == wire.StatusFailed && t.Error != nil && !holds(t) {
			r.t.Fatalf("task %s failed: %v", id, t.Error)
		}
		return holds(t)
	})
	return t
}

func completed(t task) bool { return t.Status == wire.StatusCompleted }
func cameUp(t task) bool    { return t.CameUp != nil }

func (r *rack) state() lab.State {
	r.t.Helper()
	s, err := r.c.State(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rack) powerOn(name string) {
	r.t.Helper()
	if err := r.c.PowerOn(r.ctx, name); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rack) waitSerial(name, pattern string, from int) lab.Match {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	m, err := r.c.WaitSerial(ctx, name, pattern, from)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}
