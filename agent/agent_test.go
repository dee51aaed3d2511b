package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/grant/granttest"
	"github.com/lpmos/lpmos/agent/wire"
)

func TestAMachineNobodyWantsBootsItsOwnDisk(t *testing.T) {
	r := newRig(t)
	wait := wire.ApprovalResponse{Verdict: wire.VerdictWait, Reason: "nobody has approved task t1 yet"}
	r.verdicts = []wire.ApprovalResponse{wait, wait, {Verdict: wire.VerdictWait, Reason: "the task was cancelled"}}
	if out := r.run(r.config()); out != OutcomeOwnDisk {
		t.Fatalf("outcome %q", out)
	}
	r.told("report")
	if q := r.reports[0]; q.MAC != "52:54:00:aa:bb:01" || q.BootMAC != "52:54:00:aa:bb:02" || q.IP != "10.77.0.100" || q.BootID == "" || q.Inventory.System.Serial != "SN1" {
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
	for name, spoil := range map[string]func(*rig){
		"another disk": func(r *rig) { r.inv.Disks[0].Serial = "D2" },
		"a disk more":  func(r *rig) { r.inv.Disks = append(r.inv.Disks, wire.Disk{Serial: "D2"}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			spoil(r)
			r.verdicts = []wire.ApprovalResponse{install()}
			r.run(r.config())
			r.told("report", "failed t1/2 plan_mismatch", "report")
		})
	}
}

// S33: what is not the cluster's grant for this machine is nobody's word: nothing is
// asked of the node and nothing is written.
func TestS33_AGrantThatIsNotTheClustersBeginsNothing(t *testing.T) {
	altered := func(change func(*wire.SignedGrant)) wire.ApprovalResponse {
		v := install()
		change(v.SignedGrant)
		return v
	}
	other := approved()
	other.Plan.MachineID = "m2"
	other.PlanHash = other.Plan.Hash()
	unfit := approved()
	unfit.Plan.Erase.Serial = "D2"
	foreign := granttest.New(t, time.Now)
	for name, v := range map[string]wire.ApprovalResponse{
		"nothing":       {Verdict: wire.VerdictInstall},
		"not signed":    altered(func(s *wire.SignedGrant) { s.Signature = nil }),
		"altered":       altered(func(s *wire.SignedGrant) { s.Payload[len(s.Payload)/2] ^= 1 }),
		"other machine": installing(other),
		"a plan unfit":  installing(unfit),
		"other cluster": altered(func(s *wire.SignedGrant) { *s = foreign.Sign(foreign.Fill(approved())) }),
		"expired": altered(func(s *wire.SignedGrant) {
			g := authority().Fill(approved())
			g.Issued -= 3600
			*s = authority().Sign(g)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.verdicts = []wire.ApprovalResponse{v}
			r.run(r.config())
			r.told("report")
			if !strings.Contains(r.console.String(), "REFUSED: ") {
				t.Errorf("the console does not say so:\n%s", r.console.String())
			}
		})
	}
}

// A grant that ends while the image is waited for is no failure: another is asked for.
func TestAGrantThatEndsIsAskedForAgain(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install(), install()}
	good, tries := r.installs, 0
	r.installs = func(ctx context.Context, g wire.Grant, src Source, report func(wire.Progress)) error {
		if tries++; tries == 1 {
			return fmt.Errorf("%w 15m0s after it was received", grant.ErrEnded)
		}
		return good(ctx, g, src, report)
	}
	if out := r.run(r.config()); out != OutcomeInstalled {
		t.Fatalf("outcome %q", out)
	}
	if got := strings.Count(strings.Join(r.story, " "), "failed"); got > 0 || tries != 2 {
		t.Errorf("%d tries, the node was told %v", tries, r.story)
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
		// The second report shows what lies on the disks now: a retry plans by it.
		r.told("report", "installing t1/2", "install", "failed t1/2 "+want, "report")
	}
}

func TestANodeThatForgetsIsToldAgainInTheMiddle(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	r.installs = func(ctx context.Context, _ wire.Grant, src Source, report func(wire.Progress)) error {
		r.mu.Lock()
		r.known = "" // the session is void now
		r.mu.Unlock()
		report(wire.Progress{Stage: wire.StageDownloading, Percentage: 30})
		return nil
	}
	if out := r.run(r.config()); out != OutcomeInstalled {
		t.Fatalf("outcome %q", out)
	}
	r.told("report", "installing t1/2", "install", "report", "downloading 30", "completed t1/2")
	if a, b := r.reports[0].BootID, r.reports[1].BootID; a != b {
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
	cfg, reported := r.config(), []string(nil)
	cfg.Reported = func(id string) { reported = append(reported, id) }
	r.run(cfg)
	r.told("report", "report")
	if !slices.Equal(reported, []string{"m1", "m1"}) {
		t.Errorf("whoever runs the agent is told of the reports of %v", reported)
	}
	if !slices.Equal(r.slept, []time.Duration{refusedPause}) {
		t.Errorf("pauses %v: two machines with the same ids would fight without rest", r.slept)
	}
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
	for _, status := range []int{400, 409, 413} {
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
	gone := r.cluster.Server(http.NotFoundHandler())
	gone.Close()
	babble := r.cluster.Server(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
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
	for _, status := range []int{403, 404, 409, 410} { // another machine's, deleted, cancelled
		r := newRig(t)
		r.verdicts = []wire.ApprovalResponse{install()}
		r.refuse = func(path string) int {
			if path == "progress" {
				return status
			}
			return 0
		}
		r.installs = func(ctx context.Context, _ wire.Grant, _ Source, report func(wire.Progress)) error {
			report(wire.Progress{Stage: wire.StagePartitioning, Percentage: 1})
			<-ctx.Done()
			return ctx.Err()
		}
		if out := r.run(r.config()); out != OutcomeOwnDisk {
			t.Fatalf("%d: outcome %q", status, out)
		}
		r.told("report", "installing t1/2", "install", "report")
		if !strings.Contains(r.console.String(), "taken this install back") {
			t.Errorf("%d: console:\n%s", status, r.console.String())
		}
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
		"no node":           func(c *Config) { c.Nodes = nil },
		"nobody to believe": func(c *Config) { c.Trust = nil },
		"no MAC":            func(c *Config) { c.MAC = "" },
		"no inventory":      func(c *Config) { c.Collect = nil },
		"no installer":      func(c *Config) { c.Installer = nil },
	} {
		c := good
		spoil(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
