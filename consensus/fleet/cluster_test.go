package fleet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestTheFirstIdentityOfAClusterStays(t *testing.T) {
	r := newRig(t)
	r.refused(Conflict, RaiseEpoch{Reason: "x"})
	r.refused(Invalid, PutCluster{})
	r.must(PutCluster{Cluster{ID: "c1", CACert: []byte{1}, Sealed: []byte{2}}})
	first := r.s.Cluster()
	if first.Epoch != 1 || !first.CreatedAt.Equal(r.at) || first.CACert[0] != 1 || first.Sealed[0] != 2 {
		t.Errorf("the cluster is %+v", first)
	}
	r.must(PutCluster{Cluster{ID: "c1", CACert: []byte{9}}})
	if r.s.Cluster() != first || len(r.events) > 0 {
		t.Errorf("the same again gave %+v and %v", r.s.Cluster(), r.events)
	}
	if err := r.refused(Conflict, PutCluster{Cluster{ID: "c2"}}); !strings.Contains(err.Message, "c1") {
		t.Errorf("another was refused with %q", err.Message)
	}
}

func TestANewEpochVoidsWhatWasApproved(t *testing.T) {
	for _, status := range []wire.Status{wire.StatusPending, wire.StatusPendingApproval, wire.StatusApproved, wire.StatusInstalling, wire.StatusCompleted} {
		r := at(t, status)
		r.must(PutCluster{Cluster{ID: "c1"}})
		r.must(RaiseEpoch{Reason: "two nodes burnt", By: "ann"})
		if got := r.s.Cluster().Epoch; got != 2 {
			t.Errorf("the epoch is %d", got)
		}
		task := r.task("t1")
		if status != wire.StatusApproved {
			if task.Status != status {
				t.Errorf("a task that was %s is %s", status, task.Status)
			}
			continue
		}
		if task.Status != wire.StatusPendingApproval || task.Approval != nil {
			t.Errorf("the approved task is %s by %+v", task.Status, task.Approval)
		}
		if last := task.Logs[len(task.Logs)-1].Text; !strings.Contains(last, "two nodes burnt") {
			t.Errorf("the task says %q", last)
		}
		r.refused(Conflict, r.start("t1"))
		r.must(r.approve("t1"))
		r.must(r.start("t1"))
	}
}

func TestAJoinTokenIsUsedOnce(t *testing.T) {
	hour := func(r *rig) CreateToken {
		return CreateToken{ID: "k1", SecretHash: "h1", ExpiresAt: r.at.Add(time.Hour), By: "ann"}
	}
	redeem := RedeemToken{ID: "k1", SecretHash: "h1", NodeID: "n2"}
	cases := []struct {
		name  string
		do    func(r *rig)
		ask   RedeemToken
		code  Code
		words string
	}{
		{"a good one", func(r *rig) { r.must(hour(r)) }, redeem, "", ""},
		{"the same node again", func(r *rig) { r.must(hour(r), redeem) }, redeem, "", ""},
		{"the same node again, late", func(r *rig) { r.must(hour(r), redeem); r.at = r.at.Add(2 * time.Hour) }, redeem, "", ""},
		{"none", func(*rig) {}, redeem, Precondition, "not known here"},
		{"another secret", func(r *rig) { r.must(hour(r)) }, RedeemToken{ID: "k1", SecretHash: "h2", NodeID: "n2"}, Precondition, "not known here"},
		{"another secret of one used", func(r *rig) { r.must(hour(r), redeem) }, RedeemToken{ID: "k1", SecretHash: "h2", NodeID: "n2"}, Precondition, "not known here"},
		{"another node", func(r *rig) { r.must(hour(r), PutNode{Node{ID: "n2", Name: "second"}}, redeem) },
			RedeemToken{ID: "k1", SecretHash: "h1", NodeID: "n3"}, Conflict, "by node second already"},
		{"expired", func(r *rig) { r.must(hour(r)); r.at = r.at.Add(time.Hour) }, redeem, Precondition, "expired at 2026-03-01T13:00:00Z"},
		{"nobody", func(r *rig) { r.must(hour(r)) }, RedeemToken{ID: "k1", SecretHash: "h1"}, Invalid, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			c.do(r)
			if c.code == "" {
				got, err := r.do(c.ask)
				if err != nil || got.(*Token).UsedBy != c.ask.NodeID || got.(*Token).UsedAt.IsZero() || r.s.Token("k1").Open(r.at) {
					t.Fatalf("it gave %+v (%v)", got, err)
				}
				return
			}
			err := r.refused(c.code, c.ask)
			if !strings.Contains(err.Message, c.words) || c.code != Invalid && !strings.Contains(err.Message, "lpmos node token") {
				t.Errorf("the refusal is %q", err.Message)
			}
		})
	}
}

func TestTokensThatAreOfNoUseAreForgottenAfterADay(t *testing.T) {
	r := newRig(t)
	for i, lasts := range []time.Duration{time.Hour, 72 * time.Hour, 72 * time.Hour} {
		r.must(CreateToken{ID: fmt.Sprint("k", i), SecretHash: "h", ExpiresAt: r.at.Add(lasts)})
	}
	r.must(RedeemToken{ID: "k1", SecretHash: "h", NodeID: "n2"})
	made := func(id string) {
		t.Helper()
		r.must(CreateToken{ID: id, SecretHash: "h", ExpiresAt: r.at.Add(time.Hour)})
	}
	r.at = r.at.Add(23 * time.Hour)
	made("k3")
	if got := len(r.s.Tokens()); got != 4 {
		t.Errorf("after 23 hours %d tokens are known", got)
	}
	r.at = r.at.Add(3 * time.Hour)
	made("k4")
	if r.s.Token("k0") != nil || r.s.Token("k1") != nil || r.s.Token("k2") == nil || r.s.Token("k3") == nil {
		t.Errorf("after 26 hours these are known: %+v", r.s.Tokens())
	}
	for _, bad := range []CreateToken{{SecretHash: "h", ExpiresAt: r.at.Add(time.Hour)}, {ID: "k2", SecretHash: "h", ExpiresAt: r.at.Add(time.Hour)},
		{ID: "k9", ExpiresAt: r.at.Add(time.Hour)}, {ID: "k9", SecretHash: "h", ExpiresAt: r.at}} {
		r.refused(Invalid, bad)
	}
	for i := len(r.s.Tokens()); i < maxTokens; i++ {
		made(fmt.Sprint("many", i))
	}
	r.refused(Conflict, CreateToken{ID: "k9", SecretHash: "h", ExpiresAt: r.at.Add(time.Hour)})
	r.at = r.at.Add(26 * time.Hour)
	made("k9")
}

func TestANodeComesAndGoes(t *testing.T) {
	r := newRig(t)
	whole := Node{ID: "n1", Name: "first", ClusterAddress: "10.0.0.1:4747", BootURLs: []string{"http://10.0.0.1:8081"}, Networks: []string{"10.0.0.0/24"}}
	r.must(PutNode{whole})
	if n := r.s.Node("n1"); n.ClusterAddress != "10.0.0.1:4747" || n.BootURLs[0] != "http://10.0.0.1:8081" || n.Networks[0] != "10.0.0.0/24" {
		t.Errorf("the node is %+v", n)
	}
	r.must(PutNode{whole}, RemoveNode{ID: "n1", By: "ann"})
	if r.s.Node("n1") != nil || r.events[0].Type != EventNodeDeleted || r.events[0].ID != "n1" || r.events[0].Name != "first" {
		t.Errorf("removed, it is %+v, told as %+v", r.s.Node("n1"), r.events[0])
	}
	r.refused(NotFound, RemoveNode{ID: "n1", By: "ann"})
	wantAudit(t, r, "ann removed node first", "node first came to the cluster")
}

func TestALeaderIsNotedOnceATerm(t *testing.T) {
	r := newRig(t)
	r.must(PutNode{Node{ID: "n1", Name: "first"}})
	r.must(NoteLeader{NodeID: "n1", Term: 2}, NoteLeader{NodeID: "n1", Term: 2}, NoteLeader{NodeID: "n2", Name: "second", Term: 5}, NoteLeader{NodeID: "n1", Term: 4})
	r.refused(Invalid, NoteLeader{Term: 9})
	if got, want := r.s.Leader(), (Leader{NodeID: "n2", Name: "second", Term: 5}); got != want {
		t.Errorf("the leader is %+v, want %+v", got, want)
	}
	wantAudit(t, r, "node second leads since term 5", "node first leads since term 2", "node first came to the cluster")
}

// wantAudit wants exactly these sentences, the newest first.
func wantAudit(t *testing.T, r *rig, want ...string) {
	t.Helper()
	var got []string
	for _, a := range r.s.Audit(1 << 30) {
		got = append(got, a.What)
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the audit says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatIsDecidedAndDoneAboutADiskIsInTheAudit(t *testing.T) {
	r := newRig(t)
	r.must(debian(), create("t1"), report("boot-1"))
	r.must(r.approve("t1"), r.approve("t1")) // told twice, noted once
	r.must(r.start("t1"))
	r.must(r.finish("t1", diskBroke))
	r.must(RetryTask{TaskID: "t1", By: "bob", PhoneToken: "2"})
	r.must(DecideTask{TaskID: "t1", By: "bob"})
	r.must(RetryTask{TaskID: "t1", PhoneToken: "3"})
	r.install("t1")
	c := create("t2")
	r.must(c, CancelTask{TaskID: "t2", By: "ann"}, report("boot-3"))
	now := create("t3")
	now.Approve = &Decision{By: "eve"}
	r.must(create("t4"))
	now.Approve.PlanHash = r.task("t4").PlanHash
	r.must(DeleteTask{TaskID: "t4"}, now)
	r.must(r.start("t3"))
	r.must(CancelTask{TaskID: "t3", By: "ann"})
	const erase = "erase disk DISK-A (100 GB) and write debian-12"
	wantAudit(t, r,
		"machine web1, task t3: ann cancelled the task while the disk was being written",
		"machine web1, task t3: the agent was allowed to "+erase+", as approved by eve",
		"machine web1, task t3: eve approved to "+erase,
		"machine web1, task t3: somebody asked to install debian-12",
		"machine web1, task t4: somebody deleted the task",
		"machine web1, task t4: somebody asked to install debian-12",
		"machine web1, task t2: ann cancelled the task",
		"machine web1, task t2: somebody asked to install debian-12",
		"machine web1, task t1: debian-12 was installed",
		"machine web1, task t1: the agent was allowed to "+erase+", as approved by ann",
		"machine web1, task t1: ann approved to "+erase,
		"machine web1, task t1: somebody had the task tried again",
		"machine web1, task t1: bob rejected the plan",
		"machine web1, task t1: bob had the task tried again",
		"machine ser1, task t1: the install failed: the disk broke",
		"machine ser1, task t1: the agent was allowed to "+erase+", as approved by ann",
		"machine ser1, task t1: ann approved to "+erase,
		"machine 52:54:00:00:00:01, task t1: somebody asked to install debian-12",
		"somebody put image debian-12 in place")
	if a := r.s.Audit(1)[0]; a.Index != r.index || !a.At.Equal(r.at) || a.By != "ann" || a.Machine != "m1" || a.Task != "t3" {
		t.Errorf("the newest record is %+v", a)
	}
}

func TestTheAuditKeepsTheNewestTenThousand(t *testing.T) {
	r := newRig(t)
	for i := range maxAudit + 10 {
		r.must(NoteLeader{NodeID: "n1", Term: uint64(i + 1)})
	}
	all := r.s.Audit(50_000)
	if len(all) != maxAudit || all[0].Index != r.index || all[maxAudit-1].Index != 11 {
		t.Errorf("%d records from %d to %d", len(all), all[len(all)-1].Index, all[0].Index)
	}
	if few := r.s.Audit(3); len(few) != 3 || !reflect.DeepEqual(few[2], all[2]) || len(r.s.Audit(-1)) != 0 {
		t.Errorf("the newest three are %+v", few)
	}
	long := strings.Repeat("ä", 5000)
	r.must(NoteLeader{NodeID: long, Term: 1 << 20})
	if what := r.s.Audit(1)[0].What; len(what) > maxSentence || !strings.HasPrefix(what, "node ää") || strings.ToValidUTF8(what, "") != what {
		t.Errorf("a long sentence is kept as %d bytes: %s", len(what), what)
	}
}
