package agentserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/oklog/ulid/v2"
)

const mac = "52:54:00:aa:bb:01"

// memory is a cluster of one node without a log.
type memory struct {
	mu     sync.Mutex
	state  *fleet.State
	index  uint64
	latest map[string]wire.Progress
	told   func([]fleet.Event)
	now    time.Time

	cut      bool   // the others cannot be reached
	behind   func() // brings the state up to what was decided elsewhere; nil when it is
	checked  int    // how often that was asked for
	deferred []fleet.Body
}

func (m *memory) Verify(context.Context) error {
	m.mu.Lock()
	m.checked++
	cut, behind := m.cut, m.behind
	m.mu.Unlock()
	if cut {
		return consensus.ErrNotReady
	}
	if behind != nil {
		behind()
	}
	return nil
}

func (m *memory) Status() consensus.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return consensus.Status{Quorum: !m.cut}
}

func (m *memory) Defer(b fleet.Body) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deferred = append(m.deferred, b)
	return nil
}

func (m *memory) DeferredFor(task string) (fleet.FinishInstall, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.deferred {
		if f, ok := b.(fleet.FinishInstall); ok && f.TaskID == task {
			return f, true
		}
	}
	return fleet.FinishInstall{}, false
}

func (m *memory) Propose(_ context.Context, b fleet.Body) (any, error) {
	m.mu.Lock()
	if m.cut {
		m.mu.Unlock()
		return nil, consensus.ErrNotReady
	}
	m.index++
	res, events, err := m.state.Apply(m.index, fleet.Command{At: m.now, Body: b})
	m.mu.Unlock()
	if m.told != nil {
		m.told(events)
	}
	return res, err
}

func (m *memory) View(f func(*fleet.State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m.state)
}

func (m *memory) Progress(id string, _ uint64, p wire.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latest[id] = p
}

func (m *memory) Latest(id string) (wire.Progress, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.latest[id]
	return p, ok
}

// chunks is a scheduler that has every chunk and remembers whom it forgot.
type chunks struct{ forgot *[]string }

func (c chunks) Forget(taskID string) {
	if c.forgot != nil {
		*c.forgot = append(*c.forgot, taskID)
	}
}

func (chunks) Next(_ context.Context, base string, req wire.NextRequest) (wire.NextResponse, error) {
	return wire.NextResponse{Fetch: []wire.ChunkSource{{Index: req.Need[0], URL: base + "/chunk/x"}}}, nil
}

// unsigned stands in for the cluster's key; who believes grants is tested elsewhere.
func unsigned(g wire.Grant) (wire.SignedGrant, error) {
	payload, err := json.Marshal(g)
	return wire.SignedGrant{Payload: payload}, err
}

// granted is what an answer grants.
func granted(t *testing.T, res wire.ApprovalResponse) (g wire.Grant) {
	t.Helper()
	if res.SignedGrant == nil {
		t.Fatalf("nothing is granted: %+v", res)
	}
	if err := json.Unmarshal(res.SignedGrant.Payload, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// rig is a server with a cluster that has one image.
type rig struct {
	t   *testing.T
	c   *memory
	s   *Server
	url string

	cluster *pintest.Cluster
	callers map[string]*pintest.Caller // by their sessions

	forgot []string // tasks whose failures the scheduler was told to forget
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := &memory{state: fleet.NewState(), latest: map[string]wire.Progress{}, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s := New(Config{Cluster: c, Scheduler: chunks{}, Sign: unsigned, Region: "dc1", Dashboard: "http://node", ReleaseAfter: 10 * time.Minute,
		PollHold: 200 * time.Millisecond, Claim: readClaim, Now: func() time.Time { return c.now }, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	c.told = s.Notify
	r := &rig{t: t, c: c, s: s, cluster: pintest.New(t), callers: map[string]*pintest.Caller{}}
	r.url = r.cluster.Server(s.Handler()).URL
	s.cfg.Scheduler = chunks{&r.forgot}
	r.propose(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("ab", 32), SizeBytes: 64 << 20, Sector: 512}})
	return r
}

func (r *rig) propose(b fleet.Body) any {
	r.t.Helper()
	res, err := r.c.Propose(r.t.Context(), b)
	if err != nil {
		r.t.Fatalf("%T: %v", b, err)
	}
	return res
}

// post sends JSON and gives the status and the body.
func (r *rig) post(session, path string, v any) (int, string) {
	r.t.Helper()
	if req, ok := v.(wire.ReportRequest); ok && req.Claim == "" {
		req.Claim = r.claim(req.MAC)
		v = req
	}
	b, err := json.Marshal(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.raw("POST", session, path, b)
}

// claim is a code as this rig's cluster makes them, for a machine at this host.
func (r *rig) claim(mac string) string {
	return fmt.Sprintf("%s|%s|127.0.0.1|%d", ulid.Make(), mac, r.c.now.Add(10*time.Minute).Unix())
}

func readClaim(code string) (Claim, error) {
	part := strings.Split(code, "|")
	if len(part) != 4 {
		return Claim{}, errors.New("that is no claim code")
	}
	ip, err := netip.ParseAddr(part[2])
	if err != nil {
		return Claim{}, err
	}
	until, err := strconv.ParseInt(part[3], 10, 64)
	return Claim{ID: part[0], MAC: part[1], IP: ip, Expires: time.Unix(until, 0)}, err
}

// caller is the agent with that session, or another that nobody knows.
func (r *rig) caller(session string) *pintest.Caller {
	if a := r.callers[session]; a != nil {
		return a
	}
	a := r.cluster.Caller()
	r.callers[a.Session()] = a
	return a
}

func (r *rig) raw(method, session, path string, body []byte) (int, string) {
	r.t.Helper()
	return r.by(r.caller(session), method, path, body)
}

func (r *rig) by(a *pintest.Caller, method, path string, body []byte) (int, string) {
	r.t.Helper()
	res, err := a.Do(r.t.Context(), method, r.url+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.Status, string(text)
}

func machineReport() wire.ReportRequest {
	return wire.ReportRequest{BootID: "boot-0001", MAC: mac, IP: "10.77.0.101", Version: "t", Inventory: wire.Inventory{
		System: wire.System{UUID: "8f4d6d1e-1111-4222-8333-000000000001", Serial: "SN1"},
		NICs:   []wire.NIC{{Name: "eth0", MAC: mac}},
		Disks:  []wire.Disk{{Name: "vda", Serial: "D1", SizeBytes: 8 << 30, LogicalSector: 512}},
	}}
}

func (r *rig) report(req wire.ReportRequest) (session string) {
	r.t.Helper()
	a := r.caller("")
	code, body := r.post(a.Session(), "/api/v1/agent/report", req)
	if code != 200 {
		r.t.Fatalf("report: %d %s", code, body)
	}
	return a.Session()
}

func (r *rig) poll(session string) wire.ApprovalResponse {
	r.t.Helper()
	code, body := r.raw("GET", session, "/api/v1/agent/approval/"+mac, nil)
	var res wire.ApprovalResponse
	if err := json.Unmarshal([]byte(body), &res); err != nil || code != 200 {
		r.t.Fatalf("approval: %d %s", code, body)
	}
	return res
}

func (r *rig) task(id string) (t *fleet.Task) {
	r.c.View(func(s *fleet.State) { t = s.Task(id) })
	return t
}

// approved brings a machine to a granted task.
func (r *rig) approved() (session string, g wire.Grant) {
	r.t.Helper()
	session = r.report(machineReport())
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "token-1"})
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: r.task("t-1").PlanHash, By: "anna"})
	res := r.poll(session)
	if res.Verdict != wire.VerdictInstall {
		r.t.Fatalf("not granted: %+v", res)
	}
	return session, granted(r.t, res)
}

func (r *rig) installing() (string, wire.Grant) {
	r.t.Helper()
	session, g := r.approved()
	code, body := r.post(session, "/api/v1/agent/status", wire.StatusRequest{TaskID: g.TaskID, Generation: g.Generation, Status: wire.StatusInstalling, PlanHash: g.PlanHash})
	if code != 204 {
		r.t.Fatalf("installing: %d %s", code, body)
	}
	return session, g
}

func progressOf(stage wire.Stage, pct float64) wire.ProgressRequest {
	return wire.ProgressRequest{TaskID: "t-1", Generation: 1, Progress: wire.Progress{Stage: stage, Percentage: pct}}
}

func TestTheWholeConversation(t *testing.T) {
	r := newRig(t)
	session, g := r.installing()
	if !slices.Equal(r.forgot, []string{"t-1"}) {
		t.Errorf("failures of an earlier try were forgotten for %v", r.forgot)
	}
	if !strings.HasSuffix(g.PhoneHome, "/up/token-1") || !strings.HasPrefix(g.PhoneHome, wire.PlainURL(r.url)) {
		t.Errorf("the installed system is told to report to %q", g.PhoneHome)
	}
	for _, p := range []wire.ProgressRequest{progressOf(wire.StagePartitioning, 0), progressOf(wire.StagePartitioning, 20),
		progressOf(wire.StageDownloading, 20), progressOf(wire.StageDownloading, 43), progressOf(wire.StageInstalling, 60), progressOf(wire.StageConfiguring, 95)} {
		if code, body := r.post(session, "/api/v1/agent/progress", p); code != 204 {
			t.Fatalf("progress %v: %d %s", p.Percentage, code, body)
		}
	}
	done := wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusCompleted}
	if code, body := r.post(session, "/api/v1/agent/status", done); code != 204 {
		t.Fatalf("completed: %d %s", code, body)
	}
	if got := r.task("t-1"); got.Status != wire.StatusCompleted || got.Progress.Percentage != 100 {
		t.Errorf("task is %s at %v", got.Status, got.Progress.Percentage)
	}
	// The answer was lost: the agent repeats it, also after it was started again.
	if code, body := r.post(session, "/api/v1/agent/status", done); code != 204 {
		t.Errorf("repeated completed: %d %s", code, body)
	}
	again := r.report(machineReport())
	if code, body := r.post(again, "/api/v1/agent/status", done); code != 204 {
		t.Errorf("repeated completed: %d %s", code, body)
	}
	if v := r.poll(again); v.Verdict != wire.VerdictReboot {
		t.Errorf("an installed machine's agent is told %s", v.Verdict)
	}
	code, body := r.raw("POST", "", "/up/token-1", []byte(url.Values{"hostname": {"web-1"}}.Encode()))
	if code != 204 {
		t.Fatalf("up: %d %s", code, body)
	}
	if got := r.task("t-1").CameUp; got == nil {
		t.Error("nobody noticed that it came up")
	}
	before := r.c.index
	if code, _ := r.raw("POST", "", "/up/token-2", nil); code != 404 || r.c.index != before {
		t.Errorf("a made-up token is answered %d and costs %d entries in the log", code, r.c.index-before)
	}
}

func TestLongPollWakesWhenApproved(t *testing.T) {
	r := newRig(t)
	r.s.cfg.PollHold = time.Minute
	session := r.report(machineReport())
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "x"})
	got := make(chan wire.ApprovalResponse, 1)
	go func() { got <- r.poll(session) }()
	for { // the poll is held
		r.s.waiters.mu.Lock()
		held := len(r.s.waiters.held)
		r.s.waiters.mu.Unlock()
		if held > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: r.task("t-1").PlanHash, By: "anna"})
	select {
	case v := <-got:
		if v.Verdict != wire.VerdictInstall {
			t.Errorf("woken with %s", v.Verdict)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
	}
}

func TestVerdicts(t *testing.T) {
	withOS := machineReport()
	withOS.Inventory.Disks[0].Contents = wire.Contents{Table: "gpt", OS: "Debian 12"}
	for _, tc := range []struct {
		name    string
		prepare func(*rig) string
		want    wire.Verdict
		reason  string
	}{
		{"a stranger", func(*rig) string { return "made-up" }, wire.VerdictReport, "does not know this boot"},
		{"no session", func(*rig) string { return "" }, wire.VerdictReport, "does not know"},
		{"an older boot", func(r *rig) string {
			old := r.report(machineReport())
			next := machineReport()
			next.BootID = "boot-0002"
			r.report(next)
			return old
		}, wire.VerdictReport, "does not know"},
		{"nothing asked, blank", func(r *rig) string { return r.report(machineReport()) }, wire.VerdictWait, "choose an image"},
		{"nothing asked, a system on disk", func(r *rig) string { return r.report(withOS) }, wire.VerdictWait, "boots its own disk in 10m0s"},
		{"nothing asked for ten minutes, a system on disk", func(r *rig) string {
			s := r.report(withOS)
			r.c.now = r.c.now.Add(10 * time.Minute)
			return s
		}, wire.VerdictReboot, "nothing was asked"},
		{"to be approved", func(r *rig) string {
			s := r.report(machineReport())
			r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}})
			return s
		}, wire.VerdictWait, "nobody has approved task t-1"},
		{"rejected, a system on disk", func(r *rig) string {
			s := r.report(withOS)
			r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}})
			r.propose(fleet.DecideTask{TaskID: "t-1", By: "anna"})
			return s
		}, wire.VerdictReboot, "nothing is asked"},
		{"a look is asked for", func(r *rig) string {
			s, id := r.report(withOS), ""
			r.c.View(func(s *fleet.State) { id = s.MachineByMAC(mac).ID })
			r.propose(fleet.AskBoot{MachineID: id, Profile: "agent", ID: "b-1", Token: "token-1", By: "anna"})
			return s
		}, wire.VerdictReport, "anna asked for a look at it, once"},
		{"installing, the answer was lost", func(r *rig) string { s, _ := r.installing(); return s }, wire.VerdictInstall, "anna"},
		{"failed before the first byte, a system on disk", func(r *rig) string {
			s := refusedInstall(r, withOS)
			r.c.now = r.c.now.Add(9 * time.Minute)
			return s
		}, wire.VerdictWait, "another disk); the machine boots its own disk in 1m0s"},
		{"failed before the first byte and not retried for ten minutes", func(r *rig) string {
			s := refusedInstall(r, withOS)
			r.c.now = r.c.now.Add(10 * time.Minute)
			return s
		}, wire.VerdictReboot, "nothing is asked"},
		{"failed", func(r *rig) string {
			s, _ := r.installing()
			r.post(s, "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusFailed, Error: &wire.TaskError{Code: wire.CodeDiskError, Message: "disk is broken"}})
			return s
		}, wire.VerdictWait, "disk is broken"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			got := r.poll(tc.prepare(r))
			if got.Verdict != tc.want || !strings.Contains(got.Reason, tc.reason) {
				t.Errorf("told %s because %q", got.Verdict, got.Reason)
			}
		})
	}
}

// refusedInstall is a machine whose agent found another disk than was approved.
func refusedInstall(r *rig, req wire.ReportRequest) (session string) {
	session = r.report(req)
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "token-1"})
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: r.task("t-1").PlanHash, By: "anna"})
	code, body := r.post(session, "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusFailed,
		Error: &wire.TaskError{Code: wire.CodePlanMismatch, Message: "another disk"}})
	if code != 204 {
		r.t.Fatalf("failed: %d %s", code, body)
	}
	return session
}

func TestAnAgentThatIsSentAwayIsNotWaitedWith(t *testing.T) {
	r := newRig(t)
	withOS := machineReport()
	withOS.Inventory.Disks[0].Contents = wire.Contents{Table: "gpt", OS: "Debian 12"}
	session := r.report(withOS)
	r.c.now = r.c.now.Add(10 * time.Minute)
	if v := r.poll(session).Verdict; v != wire.VerdictReboot {
		t.Fatalf("told to %s", v)
	}
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}})
	if got := r.task("t-1").Status; got != wire.StatusReady {
		t.Errorf("a task for a machine that has left is %s", got)
	}
}

func TestS32_ForgedProgressIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		req  wire.ProgressRequest
		want int
	}{
		{"over", progressOf(wire.StageConfiguring, 101), 400},
		{"under", progressOf(wire.StagePartitioning, -1), 400},
		{"outside its stage", progressOf(wire.StagePartitioning, 30), 400},
		{"no such stage", progressOf("baking", 30), 400},
		{"a stage ahead", progressOf(wire.StageDownloading, 20), 204},
		{"another task", wire.ProgressRequest{TaskID: "t-2", Generation: 1, Progress: wire.Progress{Stage: wire.StagePartitioning}}, 403},
		{"no such task", wire.ProgressRequest{TaskID: "t-9", Generation: 1, Progress: wire.Progress{Stage: wire.StagePartitioning}}, 404},
		{"another generation", wire.ProgressRequest{TaskID: "t-1", Generation: 2, Progress: wire.Progress{Stage: wire.StagePartitioning}}, 409},
		{"zero is a number", progressOf(wire.StagePartitioning, 10), 204},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			session, _ := r.installing()
			r.propose(fleet.CreateTask{ID: "t-2", TargetMAC: "52:54:00:aa:bb:02", Spec: fleet.Spec{OSType: "tiny"}})
			if code, body := r.post(session, "/api/v1/agent/progress", progressOf(wire.StagePartitioning, 5)); code != 204 {
				t.Fatalf("setting up: %d %s", code, body)
			}
			if code, body := r.post(session, "/api/v1/agent/progress", tc.req); code != tc.want {
				t.Errorf("answered %d, want %d: %s", code, tc.want, body)
			}
		})
	}
	r := newRig(t)
	session, _ := r.installing()
	if code, _ := r.raw("POST", session, "/api/v1/agent/progress", []byte(fmt.Sprintf(`{"task_id":"t-1","generation":1,"stage":"partitioning","percentage":%v}`, math.Inf(1)))); code != 400 {
		t.Errorf("infinity is answered %d", code)
	}
	if code, _ := r.post(session, "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusCompleted}); code != 409 {
		t.Errorf("complete before anything was written is answered %d", code)
	}
}

// An agent that was started again within its boot begins at 0 % again. A refusal
// would stop its install, so a value that runs backwards is taken and forgotten.
func TestS32_ProgressThatRunsBackwardsChangesNothing(t *testing.T) {
	r := newRig(t)
	session, g := r.installing()
	send := func(stage wire.Stage, pct float64) {
		t.Helper()
		if code, body := r.post(session, "/api/v1/agent/progress", progressOf(stage, pct)); code != 204 {
			t.Fatalf("%s %v is answered %d: %s", stage, pct, code, body)
		}
	}
	reached := func() wire.Progress {
		p, _ := r.c.Latest("t-1")
		return p
	}
	send(wire.StageDownloading, 43)
	session = r.report(machineReport()) // the same boot
	if v := r.poll(session); v.Verdict != wire.VerdictInstall || granted(t, v).PlanHash != g.PlanHash {
		t.Fatalf("the agent that was started again is told %s because %q", v.Verdict, v.Reason)
	}
	start := wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusInstalling, PlanHash: g.PlanHash}
	if code, body := r.post(session, "/api/v1/agent/status", start); code != 204 {
		t.Fatalf("going on is answered %d: %s", code, body)
	}
	send(wire.StagePartitioning, 0)
	send(wire.StageDownloading, 21)
	if p := reached(); p.Stage != wire.StageDownloading || p.Percentage != 43 {
		t.Errorf("the bar ran back to %s %v", p.Stage, p.Percentage)
	}
	send(wire.StageDownloading, 44)
	if p := reached(); p.Percentage != 44 {
		t.Errorf("the bar stays at %v", p.Percentage)
	}
}

func TestNothingIsErasedWithoutApproval(t *testing.T) {
	r := newRig(t)
	session := r.report(machineReport())
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}})
	start := wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusInstalling, PlanHash: r.task("t-1").PlanHash}
	if code, _ := r.post(session, "/api/v1/agent/status", start); code != 409 {
		t.Errorf("an install began without approval: %d", code)
	}
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: start.PlanHash, By: "anna"})
	other := start
	other.PlanHash = strings.Repeat("0", 64)
	if code, _ := r.post(session, "/api/v1/agent/status", other); code != 412 {
		t.Errorf("another plan began: %d", code)
	}
	if code, _ := r.post("stolen", "/api/v1/agent/status", start); code != 401 {
		t.Errorf("a stranger began: %d", code)
	}
	if got := r.task("t-1").Status; got != wire.StatusApproved {
		t.Errorf("task is %s", got)
	}
}

func TestBadReports(t *testing.T) {
	good := machineReport()
	noMAC, noBoot := good, good
	noMAC.MAC, noBoot.BootID = "hello", "x"
	for _, tc := range []struct {
		name string
		body any
		want int
	}{
		{"no MAC", noMAC, 400}, {"no boot id", noBoot, 400}, {"null", nil, 400}, {"list", []int{}, 400}, {"number", 7, 400},
	} {
		r := newRig(t)
		if code, body := r.post("", "/api/v1/agent/report", tc.body); code != tc.want {
			t.Errorf("%s: answered %d %s", tc.name, code, body)
		}
	}
	r := newRig(t)
	if code, _ := r.raw("POST", "", "/api/v1/agent/report", bytes.Repeat([]byte(`[`), maxReport+1)); code != 413 {
		t.Errorf("an endless report is answered %d", code)
	}
	if code, _ := r.raw("POST", "", "/api/v1/agent/report", []byte(`{"boot_id":`)); code != 400 {
		t.Errorf("a cut report is answered %d", code)
	}
}

func TestABodyThatTricklesInIsGivenUp(t *testing.T) {
	r := newRig(t)
	r.s.cfg.BodyTime = 50 * time.Millisecond
	for _, path := range []string{"/api/v1/agent/report", "/up/token-1"} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(r.url, "https://"), r.cluster.Verifier().Config())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n{", path); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: the connection is still held: %v", path, err)
		}
	}
}

func TestS55_InventoryFloodIsCapped(t *testing.T) {
	r := newRig(t)
	req := machineReport()
	req.Inventory.System.Product = "a\x1b[2J\u202e" + strings.Repeat("é", 400)
	for i := range 1000 {
		req.Inventory.NICs = append(req.Inventory.NICs, wire.NIC{Name: "x", MAC: fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)})
		req.Inventory.Disks = append(req.Inventory.Disks, wire.Disk{Name: "d", Serial: fmt.Sprint(i)})
	}
	r.report(req)
	var inv *wire.Inventory
	r.c.View(func(s *fleet.State) { inv = s.MachineByMAC(mac).Inventory })
	if len(inv.NICs) != maxNICs || len(inv.Disks) != maxDisks || !inv.Truncated {
		t.Errorf("kept %d NICs, %d disks, truncated %v", len(inv.NICs), len(inv.Disks), inv.Truncated)
	}
	if p := inv.System.Product; len(p) > maxString || strings.ContainsAny(p, "\x1b\u202e") || !strings.HasPrefix(p, "a[2Jé") {
		t.Errorf("kept product %q", p)
	}
}

func TestTheCardTheFirmwareBootsFromIsTheMachines(t *testing.T) {
	r := newRig(t)
	req := machineReport()
	for _, c := range []struct{ said, kept string }{{"52-54-00-AA-BB-99", "52:54:00:aa:bb:99"}, {"nonsense", ""}} {
		req.BootMAC = c.said
		r.report(req)
		r.c.View(func(s *fleet.State) {
			m := s.MachineByMAC(mac)
			if known := s.MachineByMAC(c.kept); (known == m) != (c.kept != "") {
				t.Errorf("%q: the machine is known by %v", c.said, m.IDs.MACs)
			}
		})
	}
}

func TestClashingMachineIsAQuestion(t *testing.T) {
	r := newRig(t)
	r.report(machineReport())
	rival := machineReport()
	rival.BootID = "boot-rival"
	rival.Inventory.System.UUID = "8f4d6d1e-1111-4222-8333-00000000dead"
	code, body := r.post("", "/api/v1/agent/report", rival)
	if code != 409 || !strings.Contains(body, "a person has to say") {
		t.Errorf("answered %d %s", code, body)
	}
	r.c.View(func(s *fleet.State) {
		m := s.MachineByMAC(mac)
		if m.Question == "" || m.BootID != "boot-0001" {
			t.Errorf("the machine was overwritten or nobody asks: %+v", m)
		}
	})
}

func FuzzRequests(f *testing.F) {
	seed, err := json.Marshal(machineReport())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/api/v1/agent/report", seed)
	f.Add("/api/v1/agent/progress", []byte(`{"task_id":"t-1","generation":1,"stage":"partitioning","percentage":1e308}`))
	f.Add("/api/v1/agent/next", []byte(`{"task_id":"t-1","need":[-1]}`))
	f.Add("/up/token-1", []byte("hostname=%zz"))
	c := &memory{state: fleet.NewState(), latest: map[string]wire.Progress{}}
	s := New(Config{Cluster: c, Scheduler: chunks{}, Now: time.Now, PollHold: time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	h := s.Handler()
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		u, err := url.Parse("http://node" + path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, &http.Request{Method: "POST", URL: u, Host: "node", Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
			Body: io.NopCloser(bytes.NewReader(body)), RemoteAddr: "10.0.0.9:1", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1})
		if w.Code >= 500 && w.Code != 503 {
			t.Errorf("%s answered %d: %s", path, w.Code, w.Body)
		}
	})
}
