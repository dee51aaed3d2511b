package agentserver

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// reports is one report by one agent.
func (r *rig) reports(a *pintest.Caller, change func(*wire.ReportRequest)) (int, string) {
	r.t.Helper()
	req := machineReport()
	req.Claim = r.claim(mac)
	if change != nil {
		change(&req)
	}
	b, err := json.Marshal(req)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.by(a, "POST", "/api/v1/agent/report", b)
}

func TestS30_TwoAgentsWithOneClaimCode(t *testing.T) {
	r := newRig(t)
	code := r.claim(mac)
	with := func(req *wire.ReportRequest) { req.Claim = code }
	agents := make([]*pintest.Caller, 20)
	for i := range agents {
		agents[i] = r.cluster.Caller()
	}
	var mu sync.Mutex
	answers := map[int]int{}
	var winner *pintest.Caller
	var wg sync.WaitGroup
	for _, a := range agents {
		wg.Go(func() {
			status, _ := r.reports(a, with)
			mu.Lock()
			defer mu.Unlock()
			if answers[status]++; status == 200 {
				winner = a
			}
		})
	}
	wg.Wait()
	if answers[200] != 1 || answers[401] != len(agents)-1 {
		t.Fatalf("answers: %v", answers)
	}
	// Who has won may repeat it, and is the one whose word counts.
	if status, body := r.reports(winner, with); status != 200 {
		t.Errorf("a repeated report: %d %s", status, body)
	}
	r.c.View(func(s *fleet.State) {
		m := s.MachineByMAC(mac)
		if m.SessionHash != winner.Session() || m.Doubled.IsZero() {
			t.Errorf("the machine is %+v", m)
		}
	})
}

func TestS30_AnApprovedTaskIsFrozenWhenItsClaimIsDoubled(t *testing.T) {
	r := newRig(t)
	code := r.claim(mac)
	with := func(req *wire.ReportRequest) { req.Claim = code }
	first, second := r.cluster.Caller(), r.cluster.Caller()
	r.callers[first.Session()] = first
	if status, body := r.reports(first, with); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "token-1"})
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: r.task("t-1").PlanHash, By: "anna"})
	if v := r.poll(first.Session()); v.Verdict != wire.VerdictInstall {
		t.Fatalf("told %+v", v)
	}
	if status, body := r.reports(second, with); status != 401 {
		t.Fatalf("the second agent: %d %s", status, body)
	}
	if got := r.task("t-1").Status; got != wire.StatusNeedsReview {
		t.Errorf("the task is %s", got)
	}
	if v := r.poll(first.Session()); v.Verdict != wire.VerdictWait || v.SignedGrant != nil {
		t.Errorf("the first agent is told %+v", v)
	}
	if status, body := r.post(first.Session(), "/api/v1/agent/status", wire.StatusRequest{TaskID: "t-1", Generation: 1, Status: wire.StatusInstalling, PlanHash: r.task("t-1").PlanHash}); status != 409 {
		t.Errorf("the first agent begins: %d %s", status, body)
	}
}

func TestS31_ClaimsAreOfUseWhereAndWhenTheyWereGivenAlone(t *testing.T) {
	for name, change := range map[string]func(*rig, *wire.ReportRequest){
		"no code":                   func(_ *rig, q *wire.ReportRequest) { q.Claim = "" },
		"no code of the cluster's":  func(_ *rig, q *wire.ReportRequest) { q.Claim = "guessed" },
		"after it has expired":      func(r *rig, _ *wire.ReportRequest) { r.c.now = r.c.now.Add(11 * time.Minute) },
		"given to another address":  func(_ *rig, q *wire.ReportRequest) { q.Claim = strings.Replace(q.Claim, "127.0.0.1", "127.0.0.2", 1) },
		"given to another machine":  func(r *rig, q *wire.ReportRequest) { q.Claim = r.claim("52:54:00:aa:bb:77") },
		"given to no machine known": func(r *rig, q *wire.ReportRequest) { q.Claim = r.claim("") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			before := r.c.index
			if status, body := r.reports(r.cluster.Caller(), func(q *wire.ReportRequest) { change(r, q) }); status != 401 {
				t.Errorf("answered %d %s", status, body)
			}
			if r.c.index != before {
				t.Error("a stranger has written into the log")
			}
		})
	}
	r := newRig(t)
	r.s.cfg.SameNetwork = func(a, b netip.Addr) bool {
		p := netip.MustParsePrefix("127.0.0.0/24")
		return p.Contains(a) && p.Contains(b)
	}
	for at, want := range map[string]int{"127.0.0.2": 200, "127.0.1.2": 401} {
		if status, body := r.reports(r.cluster.Caller(), func(q *wire.ReportRequest) {
			q.Claim = strings.Replace(q.Claim, "127.0.0.1", at, 1)
		}); status != want {
			t.Errorf("a machine whose firmware was lent %s: %d %s, want %d", at, status, body, want)
		}
	}
	if status, body := r.reports(r.cluster.Caller(), func(q *wire.ReportRequest) {
		q.MAC, q.BootMAC, q.Claim = "52:54:00:aa:bb:02", mac, r.claim(mac)
	}); status != 200 {
		t.Errorf("a machine that came up on another card than it booted from: %d %s", status, body)
	}
}

func TestS31_ASessionEndsWithTheNextBootAndCannotBeUsedForAnother(t *testing.T) {
	r := newRig(t)
	session, g := r.installing()
	// An agent goes on with its session for as long as it is its machine's, whatever
	// became of its code.
	r.c.now = r.c.now.Add(time.Hour)
	a := r.callers[session]
	if status, body := r.reports(a, func(q *wire.ReportRequest) { q.Claim = "" }); status != 200 {
		t.Fatalf("the agent of an install: %d %s", status, body)
	}
	// Not as another machine, with its own key or with none.
	if status, _ := r.reports(a, func(q *wire.ReportRequest) {
		q.MAC, q.Inventory.NICs[0].MAC, q.Inventory.System.UUID, q.Inventory.System.Serial = "52:54:00:aa:bb:77", "52:54:00:aa:bb:77", "", "SN77"
	}); status != 401 {
		t.Errorf("as another machine: %d", status)
	}
	end := wire.StatusRequest{TaskID: g.TaskID, Generation: g.Generation, Status: wire.StatusCompleted}
	other := r.report(func() wire.ReportRequest {
		q := machineReport()
		q.BootID, q.MAC, q.Inventory.NICs[0].MAC, q.Inventory.System.UUID, q.Inventory.System.Serial = "boot-0077", "52:54:00:aa:bb:77", "52:54:00:aa:bb:77", "", "SN77"
		return q
	}())
	for name, s := range map[string]string{"nobody's": "", "another machine's": other} {
		if status, _ := r.post(s, "/api/v1/agent/status", end); status != 401 && status != 403 {
			t.Errorf("the end of a task by %s session: %d", name, status)
		}
	}
	// The next boot ends it.
	r.report(func() wire.ReportRequest { q := machineReport(); q.BootID = "boot-0002"; return q }())
	if status, _ := r.post(session, "/api/v1/agent/status", end); status != 401 {
		t.Errorf("the session of a boot before: %d", status)
	}
}

func TestS31_ARequestIsOfUseOnItsConnectionAlone(t *testing.T) {
	r := newRig(t)
	session, _ := r.approved()
	path := "/api/v1/agent/approval/" + mac
	unsigned := r.cluster.Caller()
	unsigned.Key = nil
	if status, _ := r.by(unsigned, "GET", path, nil); status != 401 {
		t.Errorf("not signed: %d", status)
	}
	// What was heard on one connection and is said on another.
	heard := r.overhear(session, path)
	if status := r.say(heard, path); status != 401 {
		t.Errorf("overheard: %d", status)
	}
	// Without TLS there is nothing to sign.
	for _, method := range []string{"GET", "POST"} {
		req, err := http.NewRequestWithContext(t.Context(), method, wire.PlainURL(r.url)+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range heard {
			req.Header[name] = values
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusUpgradeRequired || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s without TLS: %d %s", method, res.StatusCode, res.Header.Get("Content-Type"))
		}
	}
}

// overhear gives the headers of a request as the node has got it.
func (r *rig) overhear(session, path string) http.Header {
	r.t.Helper()
	heard := make(chan http.Header, 1)
	spy := r.cluster.Server(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { heard <- q.Header.Clone() }))
	res, err := r.callers[session].Do(r.t.Context(), "GET", spy.URL+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	return <-heard
}

// say repeats headers to the rig's node, over TLS.
func (r *rig) say(headers http.Header, path string) int {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: r.cluster.Verifier().Config()}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(r.t.Context(), "GET", r.url+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header = headers
	res, err := client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// S32: a session may speak of its own task, forwards and in range.
func TestS32_ForgedProgress(t *testing.T) {
	r := newRig(t)
	session, g := r.installing()
	other := r.report(func() wire.ReportRequest {
		q := machineReport()
		q.BootID, q.MAC, q.Inventory.NICs[0].MAC, q.Inventory.System.UUID, q.Inventory.System.Serial = "boot-0077", "52:54:00:aa:bb:77", "52:54:00:aa:bb:77", "", "SN77"
		return q
	}())
	for name, c := range map[string]struct {
		session, body string
		want          []int
	}{
		"another machine's task": {other, `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":30}`, []int{403}},
		"a stranger":             {"", `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":30}`, []int{401}},
		"101 %":                  {session, `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":101}`, []int{400, 409}},
		"-1 %":                   {session, `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":-1}`, []int{400, 409}},
		"NaN":                    {session, `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":NaN}`, []int{400, 409}},
		"1e308":                  {session, `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":1e308}`, []int{400, 409}},
		"1e400":                  {session, `{"task_id":"t-1","generation":1,"stage":"downloading","percentage":1e400}`, []int{400, 409}},
		"no stage":               {session, `{"task_id":"t-1","generation":1,"percentage":30}`, []int{400, 409}},
		"an unknown stage":       {session, `{"task_id":"t-1","generation":1,"stage":"done","percentage":100}`, []int{400, 409}},
		"a generation to come":   {session, `{"task_id":"t-1","generation":9,"stage":"downloading","percentage":30}`, []int{409}},
		"no such task":           {session, `{"task_id":"t-9","generation":1,"stage":"downloading","percentage":30}`, []int{404}},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := r.raw("POST", c.session, "/api/v1/agent/progress", []byte(c.body))
			for _, want := range c.want {
				if status == want {
					return
				}
			}
			t.Errorf("answered %d %s, want %v", status, body, c.want)
		})
	}
	// A stage that runs backwards changes nothing.
	if status, _ := r.post(session, "/api/v1/agent/progress", progressOf(wire.StageInstalling, 60)); status != 204 {
		t.Fatalf("progress: %d", status)
	}
	r.post(session, "/api/v1/agent/progress", progressOf(wire.StagePartitioning, 5))
	if p := r.task("t-1").Progress; p.Stage != wire.StageInstalling {
		t.Errorf("the install went back to %s", p.Stage)
	}
	// Nobody is done before everything is written.
	end := wire.StatusRequest{TaskID: g.TaskID, Generation: g.Generation, Status: wire.StatusCompleted}
	if status, body := r.post(session, "/api/v1/agent/status", end); status != 409 {
		t.Errorf("an end before the last stage: %d %s", status, body)
	}
	if status, body := r.post(other, "/api/v1/agent/status", end); status != 403 {
		t.Errorf("an end by another machine: %d %s", status, body)
	}
	if got := r.task("t-1").Status; got != wire.StatusInstalling {
		t.Errorf("the task is %s", got)
	}
}

// S30: a rogue that was given a code for its own MAC says that it is another machine.
func TestS30_ACodeForOneMACDoesNotTakeAnotherMachine(t *testing.T) {
	const rogue = "52:54:00:66:66:66"
	r := newRig(t)
	session, _ := r.approved()
	status, body := r.reports(r.cluster.Caller(), func(q *wire.ReportRequest) {
		q.BootID, q.BootMAC, q.Claim = "boot-0666", rogue, r.claim(rogue)
	})
	if status != 409 || !strings.Contains(body, rogue) {
		t.Errorf("the rogue is answered %d %s", status, body)
	}
	r.c.View(func(s *fleet.State) {
		if m := s.MachineByMAC(mac); m.SessionHash != session || m.BootID != "boot-0001" || m.Question == "" || s.MachineByMAC(rogue) != nil {
			t.Errorf("the machine is %+v", m)
		}
	})
	if got := r.task("t-1").Status; got != wire.StatusApproved {
		t.Errorf("the task is %s", got)
	}
}

// S30: a machine keeps the address it came from, not one it names.
func TestS30_AMachineDoesNotSayWhichAddressItHas(t *testing.T) {
	r := newRig(t)
	h := r.s.Handler()
	r.url = r.cluster.Server(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q.RemoteAddr = "[::ffff:10.77.0.50]:4711"
		h.ServeHTTP(w, q)
	})).URL
	if status, body := r.reports(r.cluster.Caller(), func(q *wire.ReportRequest) {
		q.Claim = strings.Replace(q.Claim, "127.0.0.1", "10.77.0.50", 1)
	}); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	r.c.View(func(s *fleet.State) {
		if m := s.MachineByMAC(mac); m.AgentIP != "10.77.0.50" || len(m.Addresses) != 1 || m.Addresses[mac] != "10.77.0.50" {
			t.Errorf("the machine is at %s and keeps %v", m.AgentIP, m.Addresses)
		}
	})
}

// S30: the first agent lives on when a second has taken its session, long after its
// code has expired.
func TestS30_ADisplacedAgentThatAsksGivesTheAlarm(t *testing.T) {
	r := newRig(t)
	first := r.report(machineReport())
	r.c.now = r.c.now.Add(time.Hour)
	second := r.report(func() wire.ReportRequest { q := machineReport(); q.BootID = "boot-0002"; return q }())
	r.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "token-1"})
	r.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: r.task("t-1").PlanHash, By: "anna"})
	r.raw("GET", r.cluster.Caller().Session(), "/api/v1/agent/approval/"+mac, nil) // a stranger
	if v := r.poll(second); v.Verdict != wire.VerdictInstall {
		t.Fatalf("the second agent is told %+v", v)
	}
	if v := r.poll(first); v.Verdict != wire.VerdictReport {
		t.Errorf("the first agent is told %+v", v)
	}
	if got := r.task("t-1").Status; got != wire.StatusNeedsReview {
		t.Errorf("the task is %s", got)
	}
	if v := r.poll(second); v.Verdict != wire.VerdictWait {
		t.Errorf("the second agent is told %+v", v)
	}
	before := r.c.index
	r.poll(first)
	if r.c.index != before {
		t.Error("the alarm was given again")
	}
}
