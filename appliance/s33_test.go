package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
)

// granters are three nodes that sign grants with their cluster's own key.
type granters struct {
	t       *testing.T
	c       *consensustest.Cluster
	id      *trust.Identity
	wire    *pintest.Cluster // what the connections are made with; the grants are the cluster's
	agent   *pintest.Caller
	servers [3]*httptest.Server
}

func newGranters(t *testing.T) *granters {
	t.Helper()
	id, err := trust.Found(t.TempDir(), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	g := &granters{t: t, c: consensustest.NewCluster(t, 3, nil), id: id, wire: pintest.New(t)}
	g.agent = g.wire.Caller()
	g.propose(fleet.PutCluster{Cluster: fleet.Cluster{ID: id.Cluster, CACert: id.CA.Raw, Sealed: id.Founding()}})
	for i, n := range g.c.Nodes {
		if err := g.grantor(n).make(t.Context()); err != nil { // each tries, one key is kept
			t.Fatal(err)
		}
		g.serve(i, n)
	}
	return g
}

func (g *granters) grantor(n *consensus.Node) *grantor {
	return &grantor{cluster: n, secret: g.id.Secret, now: time.Now, log: slog.New(slog.DiscardHandler)}
}

// serve has a node answer agents, anew if it was started again.
func (g *granters) serve(i int, n *consensus.Node) {
	s := agentserver.New(agentserver.Config{Cluster: n, Scheduler: schedulerSeam{images.NewScheduler(nil)}, Region: "dc1", Claim: claimSeam{g.id.Claims()}.read,
		Sign: g.grantor(n).sign, Dashboard: "http://people", ReleaseAfter: time.Minute, PollHold: 100 * time.Millisecond, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	g.servers[i] = g.wire.Server(s.Handler())
}

func (g *granters) propose(b fleet.Body) any {
	g.t.Helper()
	return consensustest.Propose[any](g.t, g.c.Nodes[g.c.Leader()], b)
}

// ask sends the agent's request to a node.
func (g *granters) ask(i int, method, path string, in, out any) int {
	g.t.Helper()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			g.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	res, err := g.agent.Do(ctx, method, g.servers[i].URL+"/api/v1/agent/"+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if out != nil && res.Status == 200 {
		if err := json.Unmarshal(text, out); err != nil {
			g.t.Fatalf("%s: %v in %s", path, err, text)
		}
	}
	return res.Status
}

func (g *granters) task() (t *fleet.Task) {
	g.c.Nodes[g.c.Leader()].View(func(s *fleet.State) { t = s.Task("t-1") })
	return t
}

// granted asks a node what to do, and for leave to begin; what it is granted has to be
// the cluster's word.
func (g *granters) granted(i int, mac string) bool {
	g.t.Helper()
	var res wire.ApprovalResponse
	if status := g.ask(i, "GET", "approval/"+mac, nil, &res); status != 200 {
		g.t.Fatalf("node %d answers the poll with %d", i+1, status)
	}
	if (res.Verdict == wire.VerdictInstall) != (res.SignedGrant != nil) {
		g.t.Fatalf("node %d says %s with grant %v", i+1, res.Verdict, res.SignedGrant)
	}
	if res.SignedGrant == nil {
		return false
	}
	checker := grant.NewChecker(pin.NewVerifier(pin.Of(g.id.CA), time.Now))
	var id string
	g.c.Nodes[i].View(func(s *fleet.State) { id = s.MachineByMAC(mac).ID })
	if _, _, err := checker.Open(res.SignedGrant, id); err != nil {
		g.t.Fatalf("the grant of node %d is not believed: %v", i+1, err)
	}
	return true
}

// S33: every node is asked for a grant, and for leave to begin, in every state of the
// task: the leader, those that follow, one that is cut off and one that was started
// again. A grant there is for an approved task alone.
func TestS33_NoNodeGrantsWhatIsNotApproved(t *testing.T) {
	g := newGranters(t)
	machine := newGuarded(g.propose)
	mac := machine.mac
	g.propose(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: fmt.Sprintf("%064d", 1), SizeBytes: 64 << 20, Sector: 512}})
	report := func() {
		code, err := (claimSeam{g.id.Claims()}).make(mac, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		g.agent = g.wire.Caller() // another boot has another key
		machine.boot++
		req := wire.ReportRequest{BootID: fmt.Sprintf("boot-%08d", machine.boot), MAC: mac, Claim: code, IP: "127.0.0.1", Inventory: machine.inv}
		if status := g.ask(g.c.Leader(), "POST", "report", req, nil); status != 200 {
			t.Fatalf("report: %d", status)
		}
	}
	decide := func(approved bool) {
		g.propose(fleet.DecideTask{TaskID: "t-1", Approved: approved, PlanHash: g.task().PlanHash, By: "anna"})
	}
	retry := func() { g.propose(fleet.RetryTask{TaskID: "t-1", By: "anna", PhoneToken: "x"}) }
	nobody := func(want wire.Status) {
		t.Helper()
		now := g.task()
		if now.Status != want {
			t.Fatalf("the task is %s, not %s", now.Status, want)
		}
		for i := range g.c.Nodes {
			if g.granted(i, mac) {
				t.Errorf("%s: node %d grants it", want, i+1)
			}
			status := g.ask(i, "POST", "status", wire.StatusRequest{TaskID: "t-1", Generation: now.Generation, Status: wire.StatusInstalling, PlanHash: now.PlanHash}, nil)
			if status == 204 {
				t.Errorf("%s: node %d lets it begin", want, i+1)
			}
		}
		if got := g.task().Status; got != want {
			t.Errorf("asked, the task that was %s is %s", want, got)
		}
	}
	report()
	g.propose(fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "x"})
	nobody(wire.StatusPendingApproval)
	decide(false)
	nobody(wire.StatusRejected)
	retry()
	g.propose(fleet.CancelTask{TaskID: "t-1", By: "anna"})
	nobody(wire.StatusCancelled)
	retry()
	decide(true)
	machine.inv.Disks[0].Serial = "ANOTHER"
	report()
	nobody(wire.StatusNeedsReview)
	decide(true)

	// It is approved: all who know it for sure grant it.
	leader := g.c.Leader()
	for i, n := range g.c.Nodes {
		g.c.Until("node "+fmt.Sprint(i+1)+" knows", func() (knows bool) {
			n.View(func(s *fleet.State) { knows = s.Task("t-1").Status == wire.StatusApproved })
			return knows
		})
		if !g.granted(i, mac) {
			t.Errorf("node %d does not grant what is approved", i+1)
		}
	}
	cut := g.c.Others(leader)[0]
	g.c.Isolate(cut)
	if g.granted(cut, mac) {
		t.Error("a node that is cut off grants it: somebody may have cancelled it")
	}
	g.propose(fleet.CancelTask{TaskID: "t-1", By: "anna"})
	if g.granted(cut, mac) {
		t.Error("a node that is cut off grants what was cancelled elsewhere")
	}
	if status := g.ask(cut, "POST", "status", wire.StatusRequest{TaskID: "t-1", Generation: 3, Status: wire.StatusInstalling, PlanHash: g.task().PlanHash}, nil); status == 204 {
		t.Error("a node that is cut off lets it begin")
	}
	again := g.c.Others(leader)[1]
	if err := g.c.Stop(again); err != nil {
		t.Fatal(err)
	}
	g.c.Net.Heal()
	g.c.Start(again)
	g.c.Ready(again)
	g.serve(again, g.c.Nodes[again])
	nobody(wire.StatusCancelled)
}

// However many nodes make a key for grants, all sign with the first.
func TestAClustersGrantsAreOfOneKey(t *testing.T) {
	g := newGranters(t)
	var first []byte
	for i, n := range g.c.Nodes {
		g.c.Until("the node has the key", func() (has bool) {
			n.View(func(s *fleet.State) { has = len(s.Cluster().GrantCert) > 0 })
			return has
		})
		signed, err := g.grantor(n).sign(wire.Grant{TaskID: "t"})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = signed.Certificate
		}
		if string(signed.Certificate) != string(first) {
			t.Errorf("node %d signs with another key", i+1)
		}
	}
}
