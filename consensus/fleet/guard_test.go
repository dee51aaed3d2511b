package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// S35: an approved machine comes back with other hardware. Nothing is written until
// a person has looked at it again, and the old approval is good for nothing.
func TestS35_OtherHardwareNeedsReview(t *testing.T) {
	for name, now := range map[string]func() ReportMachine{
		"another WWN": func() ReportMachine {
			d := sda()
			d.WWN = "0x5000000000000099"
			return report("boot-2", d)
		},
		"another serial": func() ReportMachine {
			d := sda()
			d.Serial = "DISK-Z"
			return report("boot-2", d)
		},
		"another size":      func() ReportMachine { d := sda(); d.SizeBytes--; return report("boot-2", d) },
		"a system on it":    func() ReportMachine { return report("boot-2", withDebian(sda())) },
		"a disk more":       func() ReportMachine { return report("boot-2", sda(), disk("Z", 900)) },
		"no disk that fits": func() ReportMachine { return report("boot-2", disk("Z", 1)) },
		"more memory": func() ReportMachine {
			b := report("boot-2")
			b.Inventory.Memory.DIMMs = []wire.DIMM{{SizeBytes: 1 << 34}}
			return b
		},
		"in the same boot": func() ReportMachine { return report("boot-1", disk("Z", 100)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := at(t, wire.StatusApproved)
			old := r.start("t1")
			r.must(now())
			task := r.task("t1")
			if task.Status != wire.StatusNeedsReview || task.Approval != nil || !strings.Contains(task.Review, "the approval is void") {
				t.Fatalf("the task is %s (%q) with approval %+v", task.Status, task.Review, task.Approval)
			}
			old.SessionHash = r.sessionOf(task)
			r.refused(Conflict, old)
			r.refused(Conflict, r.start("t1"))
			if r.machine("m1").Unfinished {
				t.Error("its disk is taken for written")
			}
			// It stays so for every further report, also with the old hardware back.
			r.must(report("boot-3"))
			if got := r.task("t1").Status; got != wire.StatusNeedsReview {
				t.Fatalf("after another report it is %s", got)
			}
			r.refused(Conflict, r.start("t1"))
			r.must(r.approve("t1"))
			r.must(r.start("t1"))
			if task := r.task("t1"); task.Status != wire.StatusInstalling || task.Review != "" {
				t.Errorf("approved again it is %s (%q)", task.Status, task.Review)
			}
		})
	}
}

func TestATaskThatNeedsReviewCanBeLeft(t *testing.T) {
	for command, want := range map[string]wire.Status{"reject": wire.StatusRejected, "cancel": wire.StatusCancelled, "delete": ""} {
		r := at(t, wire.StatusApproved)
		r.must(report("boot-2", disk("Z", 100)))
		if got := r.task("t1").Actions(); strings.Join(got, " ") != "approve reject cancel delete" {
			t.Errorf("people are offered %v", got)
		}
		r.must(lifeCommands[command](r))
		if task := r.s.Task("t1"); want == "" && task != nil || want != "" && task.Status != want {
			t.Errorf("%s: the task is %+v", command, task)
		}
	}
}

func TestAnApprovalEndsAfterAnHour(t *testing.T) {
	late := func(t *testing.T) *rig {
		r := at(t, wire.StatusApproved)
		r.at = r.task("t1").Approval.At.Add(ApprovalLife - time.Second) // the next command comes a second later
		return r
	}
	pending := func(t *testing.T, r *rig) {
		t.Helper()
		if task := r.task("t1"); task.Status != wire.StatusPendingApproval || task.Approval != nil {
			t.Errorf("the task is %s with approval %+v", task.Status, task.Approval)
		}
		r.refused(Conflict, r.start("t1"))
		r.must(r.approve("t1"))
		r.must(r.start("t1"))
	}
	t.Run("not a second early", func(t *testing.T) {
		r := late(t)
		r.at = r.at.Add(-time.Second)
		r.must(r.start("t1"))
	})
	t.Run("at the start", func(t *testing.T) {
		r := late(t)
		_, err := r.do(r.start("t1"))
		if ErrorCode(err) != Precondition || !strings.Contains(err.Error(), "60 minutes after it was given; approve it again") {
			t.Fatalf("it says %v", err)
		}
		pending(t, r)
	})
	t.Run("when the machine reports", func(t *testing.T) {
		r := late(t)
		r.must(report("boot-2"))
		pending(t, r)
	})
	t.Run("when nobody asks", func(t *testing.T) {
		r := late(t)
		if ids := r.s.LapsedTasks(r.at); len(ids) > 0 {
			t.Errorf("a second early %v have ended", ids)
		}
		if ids := r.s.LapsedTasks(r.at.Add(time.Second)); len(ids) != 1 {
			t.Errorf("%v have ended", ids)
		}
		r.must(LapseApproval{TaskID: "t1"})
		pending(t, r)
	})
	t.Run("when it is given again", func(t *testing.T) {
		r := late(t)
		r.must(r.approve("t1"))
		r.at = r.at.Add(ApprovalLife - 10*time.Second)
		r.must(r.start("t1"))
	})
	t.Run("what is under way goes on", func(t *testing.T) {
		r := at(t, wire.StatusInstalling)
		r.at = r.at.Add(24 * time.Hour)
		r.must(LapseApproval{TaskID: "t1"}, r.start("t1"), r.finish("t1", nil))
	})
}

func TestAProtectedMachineTakesNoApproval(t *testing.T) {
	protect := ProtectMachine{MachineID: "m1", Protected: true, By: "ann"}
	for _, status := range []wire.Status{wire.StatusPendingApproval, wire.StatusApproved} {
		r := at(t, status)
		r.must(protect)
		if status == wire.StatusApproved {
			if task := r.task("t1"); task.Status != wire.StatusNeedsReview || !strings.Contains(task.Review, "ann protected the machine") {
				t.Fatalf("the approved task is %s (%q)", task.Status, task.Review)
			}
		}
		err := r.refused(Conflict, r.approve("t1"))
		if !strings.Contains(err.Message, "lpmos machine unprotect ser1") {
			t.Errorf("it says %q", err.Message)
		}
		r.refused(Conflict, r.start("t1"))
		r.must(report("boot-2")) // it stays protected whatever is reported
		r.refused(Conflict, r.approve("t1"))
		r.must(ProtectMachine{MachineID: "m1", By: "bob"}, r.approve("t1"))
		r.must(r.start("t1"))
	}
	r := at(t, wire.StatusCompleted)
	r.must(protect)
	r.refused(Conflict, DeleteMachine{MachineID: "m1"})
	r.refused(NotFound, ProtectMachine{MachineID: "m9", Protected: true})
	r.must(report("boot-2"))
	r.refused(Conflict, create("t2")) // it would be taken off its disk to wait for nobody
	r.boots(BootLocal)
	if acts := strings.Join(r.machine("m1").Actions(nil), " "); acts != "boot unprotect" {
		t.Errorf("people are offered %s", acts)
	}
}

// An approval by way of a node whose clock is ahead does not stand until then.
func TestAnApprovalFromTimesToComeIsNone(t *testing.T) {
	r := at(t, wire.StatusPendingApproval)
	now := r.at
	r.at = now.AddDate(1, 0, 0)
	r.must(r.approve("t1"))
	r.at = now.AddDate(0, 6, 0)
	if lapsed := r.s.LapsedTasks(r.at); len(lapsed) != 1 {
		t.Errorf("half a year later it has not ended: %v", lapsed)
	}
}

// fleetOf is a rig with n machines that wait for approval, t000, t001, …
func fleetOf(t *testing.T, n int) *rig {
	t.Helper()
	r := newRig(t)
	r.must(debian())
	for i := range n {
		mac := fmt.Sprintf("52:54:00:01:%02x:%02x", i/256, i%256)
		b := create(fmt.Sprintf("t%03d", i))
		b.TargetMAC = mac
		r.must(b, ReportMachine{NewID: fmt.Sprintf("m%03d", i), BootID: "b", SessionHash: fmt.Sprint("s", i), MAC: mac, IP: "",
			Inventory: inventory("", fmt.Sprint("SER", i), []string{mac}, disk(fmt.Sprint("D", i), 100))})
	}
	return r
}

func (r *rig) approveAs(task, by string) DecideTask {
	d := r.approve(task)
	d.By = by
	return d
}

// S60: one person approves 500 machines at once. Ten are erased on that word, each
// other waits for a second person.
func TestS60_OnePersonsWordErasesTenMachinesAtOnce(t *testing.T) {
	const all = 500
	r := fleetOf(t, all)
	r.at = r.at.Add(time.Hour)
	begin := r.at
	approved := func() (n int) {
		for _, task := range r.s.CurrentTasks() {
			if task.Status == wire.StatusApproved {
				n++
			}
		}
		return n
	}
	for i := range all {
		r.at = begin // all in the same second
		r.must(r.approveAs(fmt.Sprintf("t%03d", i), "mallory"))
	}
	if n := approved(); n != 10 {
		t.Fatalf("%d are approved by one person", n)
	}
	eleventh := r.task("t010")
	if eleventh.Status != wire.StatusPendingApproval || eleventh.FirstWord == nil || eleventh.FirstWord.By != "mallory" {
		t.Fatalf("the eleventh is %s with first word %+v", eleventh.Status, eleventh.FirstWord)
	}
	r.refused(Conflict, r.start("t010"))
	err := r.refused(Conflict, r.approveAs("t010", "mallory"))
	if !strings.Contains(err.Message, "mallory has approved task t010 already and a second person has to, too") {
		t.Errorf("it says %q", err.Message)
	}
	r.refused(Precondition, DecideTask{TaskID: "t010", Approved: true, PlanHash: r.task("t011").PlanHash, By: "ann"})
	r.must(r.approveAs("t010", "ann"))
	if task := r.task("t010"); task.Status != wire.StatusApproved || task.Approval.By != "ann" || task.Approval.First != "mallory" || task.FirstWord != nil {
		t.Fatalf("with a second word it is %s, %+v", task.Status, task.Approval)
	}
	r.must(r.start("t010"))
	// When the window has passed, one word is enough again, for as many as the cap.
	r.at = begin.Add(15 * time.Minute)
	for i := 20; i < 40; i++ {
		if _, err := r.do(r.approveAs(fmt.Sprintf("t%03d", i), "mallory")); err != nil && ErrorCode(err) != Conflict {
			t.Fatal(err)
		}
	}
	if n := approved(); n != 20 { // ten before, ten now; t010 is installing
		t.Errorf("%d are approved after the window", n)
	}
}

func TestSecondApproverAlwaysAndNever(t *testing.T) {
	r := fleetOf(t, 30)
	r.must(PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Hour, SecondApprover: SecondNever, By: "ann"})
	for i := range 20 {
		r.must(r.approveAs(fmt.Sprintf("t%03d", i), "ann"))
		r.must(r.start(fmt.Sprintf("t%03d", i)))
	}
	r.must(PutPolicy{ApprovalCap: 1000, ApprovalWindow: time.Minute, SecondApprover: SecondAlways, By: "ann"})
	r.must(r.approveAs("t020", "ann"))
	r.refused(Conflict, r.approveAs("t020", "ann"))
	r.at = r.at.Add(ApprovalLife)
	r.must(r.approveAs("t020", "bob")) // ann's word has ended: bob's is the first now
	if w := r.task("t020").FirstWord; w == nil || w.By != "bob" {
		t.Fatalf("the first word is %+v", w)
	}
	r.must(r.approveAs("t020", "ann"))
	r.must(r.start("t020"))
	// A first word is for the plan that was seen, in the epoch it was given in.
	r.must(r.approveAs("t021", "ann"), ReportMachine{BootID: "b2", SessionHash: "s", MAC: r.task("t021").TargetMAC,
		Inventory: inventory("", "SER21", []string{r.task("t021").TargetMAC}, disk("OTHER", 100))})
	if w := r.task("t021").FirstWord; w != nil {
		t.Errorf("for another plan, the first word is %+v", w)
	}
	r.must(PutCluster{Cluster{ID: "c1"}}, r.approveAs("t022", "ann"), RaiseEpoch{Reason: "restored", By: "ann"})
	if w := r.task("t022").FirstWord; w != nil {
		t.Errorf("in another epoch, the first word is %+v", w)
	}
}

func TestWhatAPolicyMayBe(t *testing.T) {
	r := newRig(t)
	if got := r.s.Policy(); got.ApprovalCap != 10 || got.ApprovalWindow != 10*time.Minute || got.SecondApprover != SecondOverCap {
		t.Errorf("the default is %+v", got)
	}
	good := PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Minute, SecondApprover: SecondAlways}
	r.must(good)
	for _, change := range []func(*PutPolicy){
		func(p *PutPolicy) { p.ApprovalCap = 0 }, func(p *PutPolicy) { p.ApprovalCap = maxCap + 1 },
		func(p *PutPolicy) { p.ApprovalWindow = time.Second }, func(p *PutPolicy) { p.ApprovalWindow = 25 * time.Hour },
		func(p *PutPolicy) { p.SecondApprover = "" }, func(p *PutPolicy) { p.SecondApprover = "sometimes" },
	} {
		bad := good
		change(&bad)
		r.refused(Invalid, bad)
	}
}

func TestAnApprovalShowsThatTheDiskIsKnown(t *testing.T) {
	blank := &wire.Plan{Erase: wire.PlanDisk{DiskID: wire.DiskID{Serial: "SN-12345678"}}}
	full := &wire.Plan{Erase: wire.PlanDisk{DiskID: wire.DiskID{Serial: "SN-12345678"}, Contents: wire.Contents{OS: "Windows", Table: "gpt"}}}
	wwn := &wire.Plan{Erase: wire.PlanDisk{DiskID: wire.DiskID{WWN: "0xab"}, Contents: wire.Contents{Marker: &wire.Marker{}}}}
	for _, c := range []struct {
		plan  *wire.Plan
		typed string
		ok    bool
	}{{blank, "", true}, {nil, "", true}, {full, "5678", true}, {full, " sn-12345678 ", true}, {full, "", false}, {full, "567", false},
		{full, "1234", false}, {wwn, "0xAB", true}, {wwn, "", false}} {
		if err := CheckConfirm(c.plan, c.typed); (err == nil) != c.ok {
			t.Errorf("%q for %q: %v", c.typed, Confirm(c.plan), err)
		}
	}
}

// The serial is that of the plan the rule approves: a node that has not seen that plan
// lets nobody off.
func TestTheRuleChecksTheSerial(t *testing.T) {
	r := newRig(t)
	r.must(debian(), create("t1"), report("boot-1", withDebian(sda())))
	word := r.approve("t1")
	word.CheckSerial = true
	for _, typed := range []string{"", "SK-B"} {
		word.ConfirmSerial = typed
		if err := r.refused(Invalid, word); err.Field != "confirm_serial" {
			t.Errorf("%q: %v", typed, err)
		}
	}
	word.ConfirmSerial = "SK-A"
	r.must(word)

	r.must(CancelTask{TaskID: "t1", By: "ann"})
	again := create("t2")
	again.Approve = &Decision{PlanHash: word.PlanHash, By: "ann", CheckSerial: true}
	r.refused(Invalid, again)
	again.Approve.ConfirmSerial = "SK-A"
	r.must(again)
}

// A machine that netboots with the finished install of its own open task on its disk,
// told to a node that is gone or known before a backup was made, is done.
func TestAFinishedInstallIsKnownByItsMark(t *testing.T) {
	marked := func(k wire.Marker) ReportMachine {
		d := withDebian(sda())
		d.Contents.Marker = &k
		return report("boot-9", d)
	}
	for _, status := range []wire.Status{wire.StatusPending, wire.StatusPendingApproval, wire.StatusApproved, wire.StatusInstalling} {
		r := at(t, status)
		if r.task("t1").Plan == nil {
			r.must(report("boot-1"))
		}
		r.must(marked(wire.Marker{MachineID: "m1", TaskID: "t1", Generation: 1}))
		if got := r.task("t1").Status; got != wire.StatusCompleted {
			t.Errorf("%s: it is %s", status, got)
		}
		if d := r.s.Boot(mac1); d.Action != BootLocal {
			t.Errorf("%s: it boots %s, %s", status, d.Action, d.Reason)
		}
	}
	for name, k := range map[string]wire.Marker{
		"another task":    {MachineID: "m1", TaskID: "t0", Generation: 1},
		"an earlier run":  {MachineID: "m1", TaskID: "t1", Generation: 0},
		"another machine": {MachineID: "m2", TaskID: "t1", Generation: 1},
	} {
		r := at(t, wire.StatusPendingApproval)
		r.must(marked(k))
		if got := r.task("t1").Status; got != wire.StatusPendingApproval {
			t.Errorf("%s: it is %s", name, got)
		}
	}
}

func TestTheFirstKeyForGrantsIsKept(t *testing.T) {
	r := newRig(t)
	r.refused(Conflict, PutGrantKey{ClusterID: "c1", Cert: []byte{1}, Sealed: []byte{1}})
	r.must(PutCluster{Cluster{ID: "c1"}})
	r.refused(Conflict, PutGrantKey{ClusterID: "c2", Cert: []byte{1}, Sealed: []byte{1}})
	r.refused(Invalid, PutGrantKey{ClusterID: "c1", Cert: []byte{1}})
	r.must(PutGrantKey{ClusterID: "c1", Cert: []byte{1}, Sealed: []byte{1}}, PutGrantKey{ClusterID: "c1", Cert: []byte{2}, Sealed: []byte{2}},
		RaiseEpoch{Reason: "x", By: "ann"})
	if c := r.s.Cluster(); c.GrantCert[0] != 1 || c.Epoch != 2 {
		t.Errorf("the cluster is %+v", c)
	}
	r.must(RaiseEpoch{Reason: "x", By: "ann", NewIdentity: true}, PutCluster{Cluster{ID: "c2"}})
	if c := r.s.Cluster(); c.GrantCert != nil {
		t.Errorf("another identity has the old key: %+v", c)
	}
}

func TestAGrantOfAnotherEpochBeginsNothing(t *testing.T) {
	r := newRig(t)
	r.must(PutCluster{Cluster{ID: "c1"}}, debian(), create("t1"), report("boot-1"))
	r.must(r.approve("t1"))
	old := r.start("t1")
	old.Epoch = 1
	r.must(RaiseEpoch{Reason: "restored", By: "ann"})
	r.refused(Precondition, old)
	r.must(r.approve("t1"))
	r.refused(Precondition, old)
	old.Epoch = 2
	r.must(old, old)
	r.must(RaiseEpoch{Reason: "restored", By: "ann"})
	r.refused(Precondition, old) // begun, but it is void
}

// S33: whoever asks to begin, in whatever state, begins only what is approved.
func TestS33_NothingBeginsButWhatIsApproved(t *testing.T) {
	statuses, _, _ := lifeTable()
	for _, status := range statuses {
		r := at(t, status)
		task := r.task("t1")
		for name, change := range map[string]func(*StartInstall){
			"as it is":           func(*StartInstall) {},
			"another generation": func(b *StartInstall) { b.Generation++ },
			"an older one":       func(b *StartInstall) { b.Generation-- },
			"another plan":       func(b *StartInstall) { b.PlanHash = strings.Repeat("0", 64) },
			"no plan":            func(b *StartInstall) { b.PlanHash = "" },
			"another machine":    func(b *StartInstall) { b.SessionHash = "s-other" },
			"no session":         func(b *StartInstall) { b.SessionHash = "" },
			"another task":       func(b *StartInstall) { b.TaskID = "t9" },
			"another epoch":      func(b *StartInstall) { b.Epoch = 7 },
		} {
			b := r.start("t1")
			change(&b)
			// An install that is under way is asked about again by its own agent.
			good := name == "as it is" && (status == wire.StatusApproved || status == wire.StatusInstalling) ||
				status == wire.StatusInstalling && (name == "another plan" || name == "no plan" || name == "another epoch")
			if good {
				continue // begins, or has begun
			}
			before := content(t, r.s)
			if _, err := r.do(b); err == nil {
				t.Errorf("%s, %s: it begins", status, name)
			}
			if content(t, r.s) != before {
				t.Errorf("%s, %s: it was refused and changed something", status, name)
			}
		}
		if task.Status != status {
			t.Errorf("%s became %s", status, task.Status)
		}
	}
}

// The second word is an admin's, as far as the cluster knows who that is.
func TestTheSecondWordIsAnAdmins(t *testing.T) {
	r := fleetOf(t, 1)
	r.must(PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Hour, SecondApprover: SecondAlways, By: "ann"})
	for _, u := range []PutUser{{Name: "boss", Role: Admin}, {Name: "op", Role: Operator}} {
		u.ID, u.PasswordHash, u.By = "u-"+u.Name, "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA", "local"
		r.must(u)
	}
	r.must(r.approveAs("t000", "boss"))
	err := r.refused(Conflict, r.approveAs("t000", "op"))
	if !strings.Contains(err.Message, "has to be an admin's, and op is none") {
		t.Errorf("it says %q", err.Message)
	}
	r.must(r.approveAs("t000", "local"))
	r.must(r.start("t000"))
}

// Who holds one account is one person, also where a program asks with its token.
func TestASecondWordIsAnotherPersonsAndNoProgram(t *testing.T) {
	ann, bob := Origin{Name: "ann", ActorID: "u-ann", ActorRole: Admin}, Origin{Name: "bob", ActorID: "u-bob", ActorRole: Admin}
	oli := Origin{Name: "oli", ActorID: "u-oli", ActorRole: Operator}
	local := Origin{Name: LocalName, ActorID: LocalName, ActorRole: Admin}
	token := func(of Origin) Origin { of.Name, of.ByToken = "token of "+of.Name, true; return of }
	for _, c := range []struct {
		name          string
		first, second Origin
		want          string // of the refusal; empty: it is approved
	}{
		{"two admins", ann, bob, ""},
		{"an operator, then an admin", oli, ann, ""},
		{"an operator, then who holds the node's files", oli, local, ""},
		{"a program, then another admin", token(oli), ann, ""},
		{"one under two names", ann, Origin{Name: "anna", ActorID: "u-ann", ActorRole: Admin}, "has approved task t000 already"},
		{"two of one name", ann, Origin{Name: "ann", ActorID: "u-ann2", ActorRole: Admin}, ""},
		{"an admin, then an operator", ann, oli, "has to be an admin's, and oli is none"},
		{"an operator's token, then the operator", token(oli), oli, "token of oli has approved task t000 already"},
		{"an operator, then the operator's token", oli, token(oli), "oli has approved task t000 already"},
		{"an admin, then the admin's token", ann, token(ann), "ann has approved task t000 already"},
		{"an admin's token, then the admin", token(ann), ann, "token of ann has approved task t000 already"},
		{"an admin's token, then another of hers", token(ann), Origin{Name: "token x", ActorID: "u-ann", ActorRole: Admin, ByToken: true}, "token of ann has approved task t000 already"},
		{"an operator, then an admin's token", oli, token(ann), "has to be a person's, and token of ann is a program"},
		{"a name from before, then the same", Origin{Name: "ann"}, ann, "ann has approved task t000 already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := fleetOf(t, 1)
			r.must(PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Hour, SecondApprover: SecondAlways, By: "ann"})
			if _, _, err := r.s.Apply(r.index, r.from(c.first, r.approve("t000"))); err != nil {
				t.Fatal(err)
			}
			_, _, err := r.s.Apply(r.index, r.from(c.second, r.approve("t000")))
			if c.want == "" && err != nil || c.want != "" && (ErrorCode(err) != Conflict || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("it says %v", err)
			}
			if task := r.task("t000"); (task.Status == wire.StatusApproved) != (c.want == "") {
				t.Errorf("it is %s", task.Status)
			} else if c.want == "" && task.Approval.ByID != c.second.ActorID {
				t.Errorf("the approval is %+v", task.Approval)
			}
		})
	}
}
