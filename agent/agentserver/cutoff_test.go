package agentserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// cut separates the node from the others, or joins it again.
func (r *rig) cut(off bool) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.cut = off
}

// rejoin proposes what was kept, in its order, as the cluster does.
func (r *rig) rejoin() {
	r.t.Helper()
	r.cut(false)
	kept := r.c.deferred
	r.c.deferred = nil
	for _, b := range kept {
		r.propose(b)
	}
}

// A node that cannot reach the others lets an install that was allowed to begin
// go on to its end, keeps that, and tells it later; nothing new begins there.
func TestAnInstallGoesOnWithoutTheOtherNodes(t *testing.T) {
	r := newRig(t)
	session, g := r.installing()
	r.post(session, "/api/v1/agent/progress", progressOf(wire.StageDownloading, 30))
	r.cut(true)
	for _, p := range []wire.ProgressRequest{progressOf(wire.StageDownloading, 43), progressOf(wire.StageInstalling, 70), progressOf(wire.StageConfiguring, 95)} {
		if code, body := r.post(session, "/api/v1/agent/progress", p); code != 204 {
			t.Fatalf("progress %v: %d %s", p.Percentage, code, body)
		}
	}
	if p := r.c.latest["t-1"]; p.Percentage != 95 {
		t.Errorf("people see %v %%", p.Percentage)
	}
	if code, body := r.post(session, "/api/v1/agent/next", wire.NextRequest{TaskID: "t-1", Image: g.Plan.Image.Digest, Need: []int{3}}); code != 200 {
		t.Errorf("next: %d %s", code, body)
	}
	done := wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusCompleted, Progress: &wire.Progress{Stage: wire.StageConfiguring, Percentage: 100}}
	if code, body := r.post(session, "/api/v1/agent/status", done); code != 503 || !strings.Contains(body, "cannot reach the other nodes") || len(r.c.deferred) > 0 {
		t.Errorf("completed, before another node was asked: %d %s, %d kept", code, body, len(r.c.deferred))
	}
	done.Keep = true
	for range 2 { // also when the answer is lost
		if code, body := r.post(session, "/api/v1/agent/status", done); code != 204 {
			t.Fatalf("completed: %d %s", code, body)
		}
	}
	if v := r.poll(session); v.Verdict != wire.VerdictReboot || !strings.Contains(v.Reason, "is told to the other nodes") {
		t.Errorf("its agent is told %s: %s", v.Verdict, v.Reason)
	}
	if code, body := r.raw("POST", "", "/up/token-1", []byte("hostname=web-1")); code != 204 {
		t.Errorf("up: %d %s", code, body)
	}
	if got := r.task("t-1"); got.Status != wire.StatusInstalling {
		t.Errorf("task is %s by this node's word alone", got.Status)
	}
	r.rejoin()
	if got := r.task("t-1"); got.Status != wire.StatusCompleted || got.CameUp == nil || got.CameUp.Hostname != "web-1" {
		t.Errorf("with the others again the task is %s, came up: %+v", got.Status, got.CameUp)
	}
}

// The system may come up between the return of the others and the news of its
// install.
func TestASystemThatComesUpBeforeItsInstallIsToldIsKept(t *testing.T) {
	r := newRig(t)
	session, _ := r.installing()
	r.cut(true)
	r.post(session, "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusCompleted, Keep: true,
		Progress: &wire.Progress{Stage: wire.StageConfiguring, Percentage: 100}})
	r.cut(false)
	if code, body := r.raw("POST", "", "/up/token-1", nil); code != 204 {
		t.Fatalf("up: %d %s", code, body)
	}
	r.rejoin()
	if got := r.task("t-1"); got.CameUp == nil {
		t.Errorf("task is %s and its system never came up", got.Status)
	}
}

// The node that was told of the last stage is gone, and had nobody to tell.
func TestAnEndTellsOfTheStageThatWasReached(t *testing.T) {
	r := newRig(t)
	session, _ := r.installing()
	done := wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusCompleted, Progress: &wire.Progress{Stage: wire.StageInstalling, Percentage: 90}}
	if code, body := r.post(session, "/api/v1/agent/status", done); code != 409 {
		t.Errorf("an install that was never made to boot is complete: %d %s", code, body)
	}
	done.Progress = &wire.Progress{Stage: wire.StageConfiguring, Percentage: 100, Message: "installed\x1b"}
	if code, body := r.post(session, "/api/v1/agent/status", done); code != 204 {
		t.Errorf("completed: %d %s", code, body)
	}
	if got := r.task("t-1"); got.Status != wire.StatusCompleted {
		t.Errorf("task is %s", got.Status)
	}
}

func TestAFailureIsKeptToo(t *testing.T) {
	r := newRig(t)
	session, _ := r.installing()
	r.cut(true)
	code, body := r.post(session, "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusFailed, Keep: true,
		Error: &wire.TaskError{Code: wire.CodeDiskError, Message: "disk is broken"}})
	if code != 204 {
		t.Fatalf("failed: %d %s", code, body)
	}
	r.rejoin()
	if got := r.task("t-1"); got.Status != wire.StatusFailed || got.Error.Message != "disk is broken" {
		t.Errorf("task is %s, %v", got.Status, got.Error)
	}
}

func TestNothingNewIsErasedWithoutTheOtherNodes(t *testing.T) {
	r := newRig(t)
	r.s.cfg.PollHold = time.Minute // whoever is sent elsewhere is not held
	session, g := r.approved()
	r.cut(true)
	start := wire.StatusRequest{TaskID: g.TaskID, Generation: g.Generation, Status: wire.StatusInstalling, PlanHash: g.PlanHash, Keep: true}
	if code, body := r.post(session, "/api/v1/agent/status", start); code != 503 || !strings.Contains(body, "nothing new may be erased") || len(r.c.deferred) > 0 {
		t.Errorf("installing: %d %s, %d kept", code, body, len(r.c.deferred))
	}
	for name, s := range map[string]string{"an approved machine": session, "one that is not known here": "made-up"} {
		if v := r.poll(s); v.Verdict != wire.VerdictWait || !v.Elsewhere || v.SignedGrant != nil || !strings.Contains(v.Reason, "nothing new may be erased") {
			t.Errorf("%s is told %+v", name, v)
		}
	}
	if code, _ := r.post("", "/api/v1/agent/report", machineReport()); code != 503 {
		t.Errorf("a report is answered %d", code)
	}
	if code, _ := r.post("made-up", "/api/v1/agent/progress", progressOf(wire.StageDownloading, 30)); code != 503 {
		t.Errorf("progress of a machine that is not known here is answered %d: another node may know it", code)
	}
	r.cut(false)
	if v := r.poll(session); v.Verdict != wire.VerdictInstall || v.Elsewhere {
		t.Errorf("with the others again it is told %+v", v)
	}
}

func TestAMachineIsLetGoWithoutTheOtherNodes(t *testing.T) {
	r := newRig(t)
	withOS := machineReport()
	withOS.Inventory.Disks[0].Contents = wire.Contents{Table: "gpt", OS: "Debian 12"}
	session := r.report(withOS)
	r.c.now = r.c.now.Add(10 * time.Minute)
	r.cut(true)
	if v := r.poll(session); v.Verdict != wire.VerdictReboot {
		t.Errorf("told %s: %s", v.Verdict, v.Reason)
	}
	r.rejoin()
	r.c.View(func(s *fleet.State) {
		if m := s.MachineByMAC(mac); !m.AgentDone {
			t.Error("a task for it would wait for an agent that has left")
		}
	})
}

// A node that has not heard yet what was decided elsewhere asks before it tells an
// agent that its session, its task or its install is no more.
func TestANodeThatLagsBehindAsksFirst(t *testing.T) {
	r := newRig(t)
	session, g := r.installing()
	ahead := r.c.state
	lag := func() {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		r.c.state = fleet.NewState()
		r.c.behind = func() {
			r.c.mu.Lock()
			defer r.c.mu.Unlock()
			r.c.state = ahead
		}
	}
	for _, ask := range []struct {
		name string
		f    func() (int, string)
	}{
		{"progress", func() (int, string) {
			return r.post(session, "/api/v1/agent/progress", progressOf(wire.StageConfiguring, 95))
		}},
		{"next", func() (int, string) {
			return r.post(session, "/api/v1/agent/next", wire.NextRequest{TaskID: "t-1", Image: g.Plan.Image.Digest, Need: []int{3}})
		}},
		{"a poll", func() (int, string) { return r.raw("GET", session, "/api/v1/agent/approval/"+mac, nil) }},
		{"completed", func() (int, string) {
			return r.post(session, "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusCompleted})
		}},
	} {
		lag()
		if code, body := ask.f(); code/100 != 2 || strings.Contains(body, "report") {
			t.Errorf("%s: %d %s", ask.name, code, body)
		}
	}
	if v := r.poll("made-up"); v.Verdict != wire.VerdictReport {
		t.Errorf("a stranger is told %s", v.Verdict)
	}
}

// Between the look at an approval and the permission, somebody may have cancelled
// the task on another node.
func TestAGrantIsGivenByTheLastWord(t *testing.T) {
	r := newRig(t)
	session, _ := r.approved()
	r.c.behind = func() {
		if r.task("t-1").Status == wire.StatusApproved {
			r.propose(fleet.CancelTask{TaskID: "t-1", By: "anna"})
		}
	}
	if v := r.poll(session); v.Verdict != wire.VerdictWait || v.SignedGrant != nil {
		t.Errorf("told %+v", v)
	}
}

func TestTheAgentLearnsOfOtherNodes(t *testing.T) {
	r := newRig(t)
	r.s.cfg.Nodes = func(own string) []string {
		if own != r.url {
			t.Errorf("asked for the neighbours of %s", own)
		}
		return []string{"https://10.77.0.2:80", own, "ftp://no", "https://10.77.0.3:80", "https://10.77.0.4:80"}
	}
	want := []string{r.url, "https://10.77.0.2:80", "https://10.77.0.3:80"}
	session := r.caller("").Session()
	code, body := r.post(session, "/api/v1/agent/report", machineReport())
	var res wire.ReportResponse
	if err := json.Unmarshal([]byte(body), &res); err != nil || code != 200 || !slices.Equal(res.Nodes, want) {
		t.Errorf("%d %s", code, body)
	}
	if v := r.poll(session); !slices.Equal(v.Nodes, want) {
		t.Errorf("a waiting agent is told of %v", v.Nodes)
	}
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "token-1"})
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: r.task("t-1").PlanHash, By: "anna"})
	g := granted(t, r.poll(session))
	if g.PhoneHome != wire.PlainURL(r.url)+"/up/token-1" || !slices.Equal(g.PhoneAlso, []string{"http://10.77.0.2:80/up/token-1", "http://10.77.0.3:80/up/token-1"}) {
		t.Errorf("the installed system is to report to %+v", g)
	}
}

func TestContactsOfOtherNodes(t *testing.T) {
	r := newRig(t)
	begin := r.c.now
	r.report(machineReport())
	var id string
	r.c.View(func(s *fleet.State) { id = s.MachineByMAC(mac).ID })
	r.s.Touched(id, begin.Add(-time.Minute))
	if got := r.s.LastContact(id); !got.Equal(begin) {
		t.Errorf("older news of another node count: %v", got)
	}
	r.s.Touched(id, begin.Add(time.Minute))
	r.s.Touched(id, begin.Add(30*time.Second)) // late
	r.s.Touched("m-other", begin)
	if got := r.s.LastContact(id); !got.Equal(begin.Add(time.Minute)) {
		t.Errorf("last contact %v", got)
	}
	if got := r.s.Contacts(begin.Add(-time.Second)); len(got) != 1 || !got[id].Equal(begin) {
		t.Errorf("others are told %v: what they told is not ours to tell", got)
	}
	if got := r.s.Contacts(begin); len(got) != 0 {
		t.Errorf("others are told again %v", got)
	}
}
