package ui

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// realMembers is a consensus node as the API wants its membership.
type realMembers struct{ *consensus.Node }

func (m realMembers) NewToken(context.Context, string) (api.JoinToken, error) {
	return api.JoinToken{}, consensus.ErrNotReady
}
func (m realMembers) Promote(ctx context.Context, id, by string) error {
	return m.Node.Promote(ctx, id, by)
}
func (m realMembers) Demote(ctx context.Context, id, by string) error {
	return m.Node.Demote(ctx, id, by)
}
func (m realMembers) Remove(ctx context.Context, id, by string) error {
	return m.Node.Remove(ctx, id, by)
}
func (m realMembers) Transfer(ctx context.Context, to, by string) error {
	return m.TransferLeadership(ctx, to, by)
}
func (m realMembers) Backup(context.Context, io.Writer) error { return consensus.ErrNotReady }

// threeNodes are three real nodes, each with a dashboard.
func threeNodes(t *testing.T) (*consensustest.Cluster, []*client.Client, []string) {
	t.Helper()
	nodes := consensustest.NewCluster(t, 3, nil)
	var clients []*client.Client
	var urls []string
	for i, n := range nodes.Nodes {
		_, _, c, url := newNode(t, quick, func(cfg *Config) {
			cfg.API.Cluster, cfg.API.Membership, cfg.API.Now = realCluster{n}, realMembers{n}, time.Now
			cfg.API.Name, cfg.Figures = consensustest.Name(i), n.Figures
			id := cfg.API.NewID
			cfg.API.NewID = func() string { return id() + consensustest.Name(i) } // no two nodes make the same
		})
		clients, urls = append(clients, c), append(urls, url)
	}
	return nodes, clients, urls
}

// wish is a task for a MAC nobody has seen.
func wish(i int) api.Wish {
	return api.Wish{TargetMAC: fmt.Sprintf("52:54:00:cc:00:%02x", i), OSType: "tiny"}
}

// hears reads on to a frame of a task, and fails if a snapshot comes in between.
func (e eye) hears(kind, taskID string) api.Frame {
	e.t.Helper()
	for {
		u := e.next()
		if u.Snapshot != nil {
			e.t.Fatal("a snapshot came")
		}
		if u.Frame.Type == kind && u.Frame.TaskID == taskID {
			return *u.Frame
		}
	}
}

// TestRealNodesAreOneFeed: a viewer whose node dies goes on at another one, with
// the index it has seen, and misses nothing.
func TestRealNodesAreOneFeed(t *testing.T) {
	nodes, clients, urls := threeNodes(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	consensustest.Propose[*fleet.Image](t, nodes.Nodes[0], fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny",
		Digest: strings.Repeat("7", 64), SizeBytes: 64 << 20, Sector: 512}})
	first := nodes.Leader()
	second, third := nodes.Others(first)[0], nodes.Others(first)[1]

	w, err := clients[first].Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := eye{t, w}
	if hello := e.next().Frame; hello == nil || hello.Node != consensustest.Name(first) {
		t.Fatalf("the first frame is %+v", hello)
	}
	if e.next().Snapshot == nil {
		t.Fatal("no snapshot came")
	}
	// Written on one node, heard on another.
	seen, err := clients[second].CreateTask(ctx, wish(1))
	if err != nil {
		t.Fatal(err)
	}
	since := e.hears("task_created", seen.ID).Index
	if err := nodes.Stop(first); err != nil {
		t.Fatal(err)
	}
	missed, err := clients[third].CreateTask(ctx, wish(2))
	if err != nil {
		t.Fatalf("after the leader was lost: %v", err)
	}
	w, err = clients[second].Watch(ctx, since)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	e = eye{t, w}
	e.next() // hello
	if f := e.next().Frame; f == nil || f.Type != api.FrameResumed || f.Index != since {
		t.Fatalf("the other node answered %+v, want to resume after %d", f, since)
	}
	if f := e.hears("task_created", missed.ID); f.Index <= since {
		t.Errorf("it came with index %d, after %d", f.Index, since)
	}
	if got := eventTypes(t, urls[third], since, 1); got[0] != "task_created" && got[0] != "audit" {
		t.Errorf("by plain HTTP came %v", got)
	}
	// The leader's change is in the audit of every node.
	audit, err := clients[second].Audit(ctx, 100)
	if err != nil || !strings.Contains(fmt.Sprint(audit), " leads since term ") {
		t.Errorf("the audit is %+v (%v)", audit, err)
	}
}

// TestRealNodeCutOff says what it cannot do, refuses what is asked with the
// reason, and is itself again when the others answer.
func TestRealNodeCutOff(t *testing.T) {
	nodes, clients, urls := threeNodes(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	alone := nodes.Others(nodes.Leader())[0]
	w, err := clients[alone].Watch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	e := eye{t, w}
	e.next() // hello
	if snap := e.next().Snapshot; snap == nil || !snap.Cluster.Quorum || len(snap.Cluster.Members) != 3 {
		t.Fatalf("the snapshot is %+v", snap)
	}
	nodes.Isolate(alone)
	for {
		// First there is no leader; once it is known that none can be chosen, that is said.
		if v := e.until(api.FrameCluster).Cluster; strings.Contains(v.Problem, "no majority") {
			if v.Quorum || v.HeardAt.IsZero() {
				t.Errorf("it says %q, quorum %v, as of %v", v.Problem, v.Quorum, v.HeardAt)
			}
			break
		}
	}
	req, err := http.NewRequestWithContext(ctx, "POST", urls[alone]+"/api/v1/tasks", strings.NewReader(`{"target_mac":"52:54:00:cc:00:09","os_type":"tiny"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "nothing was done") {
		t.Errorf("it answered %d %v %s (%v)", res.StatusCode, res.Header, body, err)
	}
	if err := clients[alone].Promote(ctx, consensustest.Name(alone)); client.StatusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("a change of members: %v", err)
	}
	nodes.Net.Heal()
	for {
		if v := e.until(api.FrameCluster).Cluster; v.Quorum && v.Problem == "" {
			break
		}
	}
}

// TestRealMembersChange through a node that does not lead, and refuse what would
// leave nobody to decide.
func TestRealMembersChange(t *testing.T) {
	nodes, clients, urls := threeNodes(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	asked := nodes.Others(nodes.Leader())[0]
	c, name := clients[asked], consensustest.Name(asked)
	looks := func(what string, is func(api.ClusterView) bool) {
		t.Helper()
		nodes.Until(what, func() bool {
			v, err := c.Cluster(ctx)
			return err == nil && is(v)
		})
	}
	// A machine that is busy may let a hand-over time out, which then is refused.
	nodes.Until("the lead is handed over", func() bool { return c.Transfer(ctx, name) == nil })
	looks("the node that was asked leads", func(v api.ClusterView) bool { return v.Leader == name && v.Role == "leader" })
	others := []string{consensustest.Name(nodes.Others(asked)[0]), consensustest.Name(nodes.Others(asked)[1])}
	if err := c.Demote(ctx, others[0]); err != nil {
		t.Fatal(err)
	}
	// The cluster keeps its votes odd: the other one loses its own, too.
	looks("one node votes, and leads", func(v api.ClusterView) bool {
		return strings.Contains(v.Summary, " 1 voter,") && slices.ContainsFunc(v.Members, func(m api.Member) bool { return m.Voter && m.Leader })
	})
	// On a machine that is busy the lead may have gone to another before.
	asked = nodes.Leader()
	c, name = clients[asked], consensustest.Name(asked)
	others = []string{consensustest.Name(nodes.Others(asked)[0]), consensustest.Name(nodes.Others(asked)[1])}
	if err := c.Transfer(ctx, others[0]); client.StatusOf(err) != http.StatusConflict || !strings.Contains(err.Error(), "promote it first") {
		t.Errorf("one that stands by shall lead: %v", err)
	}
	for _, m := range others {
		if err := c.RemoveNode(ctx, m); err != nil {
			t.Fatalf("remove %s: %v", m, err)
		}
	}
	looks("it is alone", func(v api.ClusterView) bool { return len(v.Members) == 1 && v.Members[0].Name == name })
	if err := c.RemoveNode(ctx, name); client.StatusOf(err) != http.StatusConflict || !strings.Contains(err.Error(), "promote another first") {
		t.Errorf("the last voter was removed: %v", err)
	}
	if err := c.Promote(ctx, "n9"); client.StatusOf(err) != http.StatusNotFound {
		t.Errorf("one that is no node: %v", err)
	}
	res, err := http.Get(urls[asked] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	for _, want := range []string{"lpmos_raft_is_leader 1\n", "lpmos_raft_quorum 1\n", "lpmos_commit_seconds_bucket{le=\"0.00025\"}", "lpmos_fsync_seconds_count"} {
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("the figures have no %q (%v)", want, err)
		}
	}
}
