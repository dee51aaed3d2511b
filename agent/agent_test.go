package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// rig is one agent with its node, its machine and its installer.
type rig struct {
	t   *testing.T
	srv *httptest.Server

	mu       sync.Mutex
	story    []string // what the node was told, in order
	reports  []wire.ReportRequest
	progress []wire.Progress
	logs     []string
	verdicts []wire.ApprovalResponse // given one after the other; the last is "reboot"
	refuse   func(path string) int   // status to answer with; 0 serves
	inv      wire.Inventory
	slept    []time.Duration
	installs func(ctx context.Context, g wire.Grant, src Source, report func(wire.Progress)) error
	console  bytes.Buffer
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, inv: machine()}
	r.installs = func(_ context.Context, _ wire.Grant, _ Source, report func(wire.Progress)) error {
		for _, s := range wire.Stages {
			_, to, _ := s.Span()
			report(wire.Progress{Stage: s, Percentage: to})
		}
		return nil
	}
	r.srv = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.srv.Close)
	return r
}

func machine() wire.Inventory {
	return wire.Inventory{
		System: wire.System{Serial: "SN1"},
		Disks:  []wire.Disk{{Name: "sda", Serial: "D1", SizeBytes: 1 << 30}},
		NICs:   []wire.NIC{{Name: "eth0", MAC: "52:54:00:aa:bb:01"}},
	}
}

// grant is what an approval of the rig's machine gives.
func grant() *wire.Grant {
	p := wire.Plan{MachineID: "m1", InventoryHash: machine().Hash(), Image: wire.PlanImage{Name: "debian-12"},
		Erase: wire.PlanDisk{DiskID: wire.DiskID{Serial: "D1", SizeBytes: 1 << 30}}}
	return &wire.Grant{TaskID: "t1", Generation: 2, Plan: p, PlanHash: p.Hash()}
}

func (r *rig) tell(format string, args ...any) {
	r.story = append(r.story, fmt.Sprintf(format, args...))
}

// serve is the node.
func (r *rig) serve(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := strings.TrimPrefix(q.URL.Path, "/api/v1/agent/")
	if r.refuse != nil {
		if status := r.refuse(path); status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"title":"no","detail":"the node says no"}`)
			return
		}
	}
	if path != "report" && q.Header.Get("Authorization") != fmt.Sprintf("Bearer s%d", len(r.reports)) {
		w.WriteHeader(401)
		return
	}
	var err error
	switch path {
	case "report":
		var req wire.ReportRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		r.reports = append(r.reports, req)
		r.tell("report")
		_ = json.NewEncoder(w).Encode(wire.ReportResponse{MachineID: "m1", Session: fmt.Sprintf("s%d", len(r.reports))})
	case "approval/52:54:00:aa:bb:01":
		v := wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: "that is all"}
		if len(r.verdicts) > 0 {
			v, r.verdicts = r.verdicts[0], r.verdicts[1:]
		}
		_ = json.NewEncoder(w).Encode(v)
	case "status":
		var req wire.StatusRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		code := ""
		if req.Error != nil {
			code = " " + req.Error.Code
		}
		r.tell("%s %s/%d%s", req.Status, req.TaskID, req.Generation, code)
		w.WriteHeader(204)
	case "progress":
		var req wire.ProgressRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		r.progress = append(r.progress, req.Progress)
		r.tell("%s %.0f", req.Stage, req.Percentage)
		w.WriteHeader(204)
	case "log":
		var req wire.LogRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		r.logs = append(r.logs, req.Lines...)
		w.WriteHeader(204)
	default:
		r.t.Errorf("the agent asks for %s", q.URL.Path)
		w.WriteHeader(404)
	}
	if err != nil {
		r.t.Errorf("%s: %v", path, err)
	}
}

// Install is the installer.
func (r *rig) Install(ctx context.Context, g wire.Grant, src Source, report func(wire.Progress)) error {
	r.mu.Lock()
	r.tell("install")
	f := r.installs
	r.mu.Unlock()
	return f(ctx, g, src, report)
}

func (r *rig) config() Config {
	return Config{
		Nodes: []string{r.srv.URL}, MAC: "52:54:00:aa:bb:01", IP: "10.77.0.100", Version: "test",
		Collect: func() wire.Inventory {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.inv
		},
		Installer: r, Console: NewConsole(&r.console, time.Now),
		Sleep: func(ctx context.Context, d time.Duration) error {
			r.mu.Lock()
			if d != logEvery && d != progressEvery {
				r.slept = append(r.slept, d)
			}
			r.mu.Unlock()
			return sleep(ctx, time.Millisecond)
		},
	}
}

func (r *rig) run(cfg Config) Outcome {
	r.t.Helper()
	a, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := a.Run(ctx)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.console.String())
	}
	return out
}

func (r *rig) told(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.story, want) {
		r.t.Errorf("the node was told\n  %s\nwant\n  %s", strings.Join(r.story, ", "), strings.Join(want, ", "))
	}
}

func install() wire.ApprovalResponse {
	return wire.ApprovalResponse{Verdict: wire.VerdictInstall, Grant: grant()}
}

func TestAMachineNobodyWantsBootsItsOwnDisk(t *testing.T) {
	r := newRig(t)
	wait := wire.ApprovalResponse{Verdict: wire.VerdictWait, Reason: "nobody has approved task t1 yet"}
	r.verdicts = []wire.ApprovalResponse{wait, wait, {Verdict: wire.VerdictWait, Reason: "the task was cancelled"}}
	if out := r.run(r.config()); out != OutcomeOwnDisk {
		t.Fatalf("outcome %q", out)
	}
	r.told("report")
	if q := r.reports[0]; q.MAC != "52:54:00:aa:bb:01" || q.IP != "10.77.0.100" || q.BootID == "" || q.Inventory.System.Serial != "SN1" {
		t.Errorf("%+v", q)
	}
	text := r.console.String()
	if strings.Count(text, "waiting: nobody has approved task t1 yet") != 1 || !strings.Contains(text, "waiting: the task was cancelled") {
		t.Errorf("console:\n%s", text)
	}
	if got := strings.Join(r.logs, "\n"); !strings.Contains(got, "that is all") {
		t.Errorf("the node did not get the last line: %s", got)
	}
}

func TestAnInstallIsToldInOrder(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	if out := r.run(r.config()); out != OutcomeInstalled {
		t.Fatalf("outcome %q", out)
	}
	var order []string // progress may come at any time between the two
	for _, s := range r.story {
		stage, rest, _ := strings.Cut(s, " ")
		if slices.Contains(wire.Stages, wire.Stage(stage)) && !strings.HasPrefix(rest, "t1") {
			continue
		}
		order = append(order, s)
	}
	if want := []string{"report", "installing t1/2", "install", "completed t1/2"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
	if n := len(r.story); r.story[n-2] != "configuring 100" || r.story[n-1] != "completed t1/2" {
		t.Errorf("the end: %v", r.story)
	}
	for i, s := range wire.Stages {
		if i >= len(r.progress) || r.progress[i].Stage != s {
			t.Fatalf("progress %+v", r.progress)
		}
	}
}

func TestNothingIsWrittenWhenTheNodeDoesNotAgree(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install(), {Verdict: wire.VerdictInstall}}
	r.refuse = func(path string) int {
		if path == "status" {
			return 409
		}
		return 0
	}
	r.run(r.config())
	r.told("report")
	if !strings.Contains(r.console.String(), "the node says no") {
		t.Errorf("console:\n%s", r.console.String())
	}
}

func TestAMachineThatChangedIsNotWritten(t *testing.T) {
	for name, spoil := range map[string]func(*rig, *wire.Grant){
		"another disk":     func(r *rig, _ *wire.Grant) { r.inv.Disks[0].Serial = "D2" },
		"a disk more":      func(r *rig, _ *wire.Grant) { r.inv.Disks = append(r.inv.Disks, wire.Disk{Serial: "D2"}) },
		"a plan not whole": func(_ *rig, g *wire.Grant) { g.Plan.Erase.Serial = "D2" },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			v := install()
			spoil(r, v.Grant)
			r.verdicts = []wire.ApprovalResponse{v}
			r.run(r.config())
			r.told("report", "failed t1/2 plan_mismatch", "report")
		})
	}
}

func TestAFailedInstallIsToldAndTheMachineStays(t *testing.T) {
	for want, err := range map[string]error{
		wire.CodeDiskError: fmt.Errorf("write: %w", &wire.TaskError{Code: wire.CodeDiskError, Message: "bad sector"}),
		wire.CodeInternal:  errors.New("something else"),
	} {
		r := newRig(t)
		r.installs = func(context.Context, wire.Grant, Source, func(wire.Progress)) error { return err }
		r.verdicts = []wire.ApprovalResponse{install(), {Verdict: wire.VerdictWait, Reason: "the task failed"}}
		if out := r.run(r.config()); out != OutcomeOwnDisk {
			t.Fatalf("outcome %q", out)
		}
		r.told("report", "installing t1/2", "install", "failed t1/2 "+want)
	}
}

func TestANodeThatForgetsIsToldAgainInTheMiddle(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	r.installs = func(ctx context.Context, _ wire.Grant, src Source, report func(wire.Progress)) error {
		r.mu.Lock()
		r.reports = append(r.reports, wire.ReportRequest{BootID: r.reports[0].BootID}) // the session is void now
		r.mu.Unlock()
		report(wire.Progress{Stage: wire.StageDownloading, Percentage: 30})
		return nil
	}
	if out := r.run(r.config()); out != OutcomeInstalled {
		t.Fatalf("outcome %q", out)
	}
	r.told("report", "installing t1/2", "install", "report", "downloading 30", "completed t1/2")
	if a, b := r.reports[0].BootID, r.reports[2].BootID; a != b {
		t.Errorf("boot ids %s and %s", a, b)
	}
}

func TestADiskThatComesUpLateIsReported(t *testing.T) {
	r := newRig(t)
	wait := wire.ApprovalResponse{Verdict: wire.VerdictWait}
	r.verdicts = []wire.ApprovalResponse{wait, wait, wait}
	looks := 0
	cfg := r.config()
	cfg.Collect = func() wire.Inventory {
		inv := machine()
		if looks++; looks > 2 {
			inv.Disks = append(inv.Disks, wire.Disk{Serial: "D2", SizeBytes: 1 << 30})
		}
		return inv
	}
	r.run(cfg)
	r.told("report", "report")
	if n := len(r.reports[1].Inventory.Disks); n != 2 {
		t.Errorf("%d disks in the second report", n)
	}
}

func TestTheNodeMayAskForANewReport(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{{Verdict: wire.VerdictReport}}
	r.run(r.config())
	r.told("report", "report")
}

func TestABrokenNodeIsTriedUntilItIsWell(t *testing.T) {
	r := newRig(t)
	bad := 0
	r.refuse = func(path string) int {
		if path == "report" && bad < 7 {
			bad++
			return []int{500, 503, 429, 502}[bad%4]
		}
		return 0
	}
	cfg := r.config()
	cfg.Rand = func() float64 { return 1 } // a quarter longer
	r.run(cfg)
	r.told("report")
	want := []time.Duration{625, 1250, 2500, 5000, 10000, 12500, 12500}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(r.slept, want) {
		t.Errorf("pauses %v, want %v", r.slept, want)
	}
}

func TestARefusedReportIsTriedAgain(t *testing.T) {
	for _, status := range []int{400, 401, 413} {
		r := newRig(t)
		bad := 0
		r.refuse = func(path string) int {
			if path == "report" && bad < 3 {
				bad++
				return status
			}
			return 0
		}
		r.run(r.config())
		r.told("report")
	}
}

func TestTheNextNodeTakesOver(t *testing.T) {
	r := newRig(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	babble := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	defer babble.Close()
	cfg := r.config()
	cfg.Nodes = []string{gone.URL, babble.URL, r.srv.URL}
	cfg.Rand = func() float64 { return 1 }
	r.run(cfg)
	r.told("report")
	if want := []time.Duration{625 * time.Millisecond, 625 * time.Millisecond}; !slices.Equal(r.slept, want) {
		t.Errorf("pauses %v: every node has a turn before they grow", r.slept)
	}
}

func TestAnInstallTakenBackStops(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	r.refuse = func(path string) int {
		if path == "progress" {
			return 409
		}
		return 0
	}
	r.installs = func(ctx context.Context, _ wire.Grant, _ Source, report func(wire.Progress)) error {
		report(wire.Progress{Stage: wire.StagePartitioning, Percentage: 1})
		<-ctx.Done()
		return ctx.Err()
	}
	if out := r.run(r.config()); out != OutcomeOwnDisk {
		t.Fatalf("outcome %q", out)
	}
	r.told("report", "installing t1/2", "install")
	if !strings.Contains(r.console.String(), "taken this install back") {
		t.Errorf("console:\n%s", r.console.String())
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(context.Background())
	r.verdicts = []wire.ApprovalResponse{install()}
	r.installs = func(ctx context.Context, _ wire.Grant, _ Source, _ func(wire.Progress)) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	a, err := New(r.config())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	r.told("report", "installing t1/2", "install")
}

func TestWhatAnAgentCannotDoWithout(t *testing.T) {
	good := newRig(t).config()
	for name, spoil := range map[string]func(*Config){
		"no node":      func(c *Config) { c.Nodes = nil },
		"no MAC":       func(c *Config) { c.MAC = "" },
		"no inventory": func(c *Config) { c.Collect = nil },
		"no installer": func(c *Config) { c.Installer = nil },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
