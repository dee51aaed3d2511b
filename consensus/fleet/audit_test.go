package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// from is a command as somebody has asked for it through a door.
func (r *rig) from(o Origin, b Body) Command {
	r.t.Helper()
	c := r.command(b)
	ctx := WithOrigin(context.Background(), o)
	c = c.AskedBy(OriginOf(ctx))
	raw, err := c.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	if c, err = DecodeCommand(raw); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func TestACommandSaysWhoAskedForIt(t *testing.T) {
	for _, o := range []Origin{{}, {Name: "ann"}, {From: "socket"}, {Name: "ann", From: "192.0.2.7"}, {Name: `a"b\ü<&>`, From: "fe80::1%eth0"},
		{Name: "token ci", From: "192.0.2.7", ActorID: "u-1", ActorRole: Operator, ByToken: true}, {ActorRole: Admin}, {ByToken: true}} {
		r := newRig(t)
		c := r.from(o, PutNode{Node{ID: "n1"}})
		if got := (Origin{c.Actor, c.From, c.ActorID, c.ActorRole, c.ByToken}); got != o {
			t.Errorf("%+v is read as %+v", o, got)
		}
		c.Retry, c.Since = true, 7
		raw, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var want envelope
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatalf("%s is no JSON: %v", raw, err)
		}
		if got, quick := decodeEnvelope(raw); quick && !reflect.DeepEqual(got, want) || !quick && !strings.ContainsAny(o.Name, `"\`) {
			t.Errorf("%s is read quickly (%v) as %+v, want %+v", raw, quick, got, want)
		}
	}
	if got := OriginOf(context.Background()); got != (Origin{}) {
		t.Errorf("nobody is %+v", got)
	}
}

// Whom the door has let in counts, whatever the command says.
func TestTheAuditTellsWhoAskedAndFromWhere(t *testing.T) {
	r := at(t, wire.StatusPendingApproval)
	c := r.from(Origin{Name: "oli", From: "192.0.2.7"}, r.approve("t1")) // which says: by ann
	if _, _, err := r.s.Apply(r.index, c); err != nil {
		t.Fatal(err)
	}
	a := r.s.Audit(1)[0]
	if a.By != "oli" || a.From != "192.0.2.7" || !strings.Contains(a.What, "oli approved to erase disk DISK-A") {
		t.Errorf("the record is %+v", a)
	}
	want := AuditRecord{Index: a.Index, At: a.At, By: "oli", What: a.What, Machine: "m1", Task: "t1", Seq: a.Seq, From: "192.0.2.7", Serial: "SER1",
		Disks: []string{"DISK-A"}, PlanHash: r.task("t1").PlanHash, Image: strings.Repeat("ab", 32), Result: "approved", Prev: r.s.Audit(2)[1].Hash, Hash: a.Hash}
	if !reflect.DeepEqual(a, want) {
		t.Errorf("the record is\n%+v, want\n%+v", a, want)
	}
	if got := r.task("t1").Approval; got.From != "192.0.2.7" || got.By != "oli" {
		t.Errorf("the approval is %+v", got)
	}
}

func TestWhatAPersonDoesIsInTheAudit(t *testing.T) {
	ann := Origin{Name: "ann", From: "192.0.2.7"}
	for name, c := range map[string]struct {
		rig  func() *rig
		body func(r *rig) Body
		want string
	}{
		"an image":        {func() *rig { return newRig(t) }, func(*rig) Body { return debian() }, "ann put image debian-12 in place"},
		"no image":        {func() *rig { r := newRig(t); r.must(debian()); return r }, func(*rig) Body { return DeleteImage{Name: "debian-12"} }, "ann deleted image debian-12"},
		"a task":          {func() *rig { r := newRig(t); r.must(debian()); return r }, func(*rig) Body { return create("t1") }, "machine " + mac1 + ", task t1: ann asked to install debian-12"},
		"a task deleted":  {func() *rig { return at(t, wire.StatusCompleted) }, func(*rig) Body { return DeleteTask{TaskID: "t1"} }, "machine web1, task t1: ann deleted the task"},
		"a task stopped":  {func() *rig { return at(t, wire.StatusPending) }, func(*rig) Body { return CancelTask{TaskID: "t1"} }, "machine " + mac1 + ", task t1: ann cancelled the task"},
		"a task again":    {func() *rig { return at(t, wire.StatusFailed) }, func(*rig) Body { return RetryTask{TaskID: "t1"} }, "machine web1, task t1: ann had the task tried again"},
		"a machine gone":  {func() *rig { return at(t, wire.StatusCompleted) }, func(*rig) Body { return DeleteMachine{MachineID: "m1"} }, "machine web1: ann forgot the machine"},
		"a question":      {clashing(t), func(*rig) Body { return SettleQuestion{MachineID: "m1"} }, "machine ser1: ann said that the machine that raised the question is another"},
		"a question, yes": {clashing(t), func(*rig) Body { return SettleQuestion{MachineID: "m1", Accept: true} }, "machine ser1: ann said that the machine that raised the question is this one"},
		"a node":          {func() *rig { r := newRig(t); r.must(PutNode{Node{ID: "n1"}}); return r }, func(*rig) Body { return RemoveNode{ID: "n1"} }, "ann removed node n1"},
		"a user":          {func() *rig { return withUsers(newRig(t)) }, func(*rig) Body { return user("eve", Viewer) }, "ann made user eve, viewer"},
		"a user changed": {func() *rig { return people(t) }, func(*rig) Body { return ChangeUser{ID: "u-vic", Role: ptr(Admin), Disabled: ptr(true)} },
			"ann made user vic admin and disabled user vic; sessions ended by it: 1"},
		"a sign-in":   {func() *rig { return people(t) }, func(*rig) Body { return session("u-vic", "x") }, "vic signed in"},
		"a sign-out":  {func() *rig { return people(t) }, func(*rig) Body { return EndSession{SecretHash: HashSecret("ann's session")} }, "ann signed out"},
		"another out": {func() *rig { return people(t) }, func(*rig) Body { return EndSession{SecretHash: HashSecret("vic's session")} }, "ann ended a session of vic"},
	} {
		r := c.rig()
		if _, _, err := r.s.Apply(r.index, r.from(ann, c.body(r))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if a := r.s.Audit(1)[0]; a.What != c.want || a.From != "192.0.2.7" || a.By != "ann" {
			t.Errorf("%s is told as %+v, want %q", name, a, c.want)
		}
	}
}

func clashing(t *testing.T) func() *rig {
	return func() *rig {
		r := newRig(t)
		r.must(report("boot-1"))
		r.do(seen("m2", uuid2, "SER2", mac1)) //nolint:errcheck // it is refused, with a question
		return r
	}
}

// trail is a rig with some records, and copies of them.
func trail(t *testing.T) (*rig, []*AuditRecord) {
	r := at(t, wire.StatusCompleted)
	var out []*AuditRecord
	for _, a := range r.s.AuditTrail() {
		copied := *a
		out = append(out, &copied)
	}
	if len(out) < 5 {
		t.Fatalf("%d records are few", len(out))
	}
	return r, out
}

func TestAnAuditThatWasChangedIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(rs []*AuditRecord) []*AuditRecord
		want   string // "" if it is whole
	}{
		"whole":                {func(rs []*AuditRecord) []*AuditRecord { return rs }, ""},
		"empty":                {func([]*AuditRecord) []*AuditRecord { return nil }, ""},
		"without the first":    {func(rs []*AuditRecord) []*AuditRecord { return rs[2:] }, ""},
		"with older ones":      {func(rs []*AuditRecord) []*AuditRecord { return append([]*AuditRecord{{What: "x"}}, rs...) }, ""},
		"another name":         {func(rs []*AuditRecord) []*AuditRecord { rs[2].By = "eve"; return rs }, "record 3"},
		"another disk":         {func(rs []*AuditRecord) []*AuditRecord { rs[2].Disks = []string{"DISK-B"}; return rs }, "record 3"},
		"another time":         {func(rs []*AuditRecord) []*AuditRecord { rs[2].At = rs[2].At.Add(1); return rs }, "record 3"},
		"one left out":         {func(rs []*AuditRecord) []*AuditRecord { return append(rs[:2:2], rs[3:]...) }, "record 4"},
		"one twice":            {func(rs []*AuditRecord) []*AuditRecord { return append(rs[:2:2], rs[1:]...) }, "record 2"},
		"two in another order": {func(rs []*AuditRecord) []*AuditRecord { rs[1], rs[2] = rs[2], rs[1]; return rs }, "record 3"},
		"one put in": {func(rs []*AuditRecord) []*AuditRecord {
			return append(rs[:2:2], append([]*AuditRecord{{What: "x"}}, rs[2:]...)...)
		}, "record 0"},
		"a hash without number": {func(rs []*AuditRecord) []*AuditRecord { rs[0].Seq = 0; return rs }, "record 0"},
		"one written anew": {func(rs []*AuditRecord) []*AuditRecord {
			rs[2].By = "eve"
			rs[2].Hash = rs[2].sum()
			return rs
		}, "record 4"},
		"a new beginning": {func(rs []*AuditRecord) []*AuditRecord {
			rs[2].Seq = 1
			rs[2].Hash = rs[2].sum()
			return rs[2:]
		}, "record 1"},
		"one before the first": {func(rs []*AuditRecord) []*AuditRecord {
			rs[2].Prev = ""
			rs[2].Hash = rs[2].sum()
			return rs[2:]
		}, "record 3"},
	} {
		_, rs := trail(t)
		err := VerifyAudit(c.change(rs))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), "broken at "+c.want+" ") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// Others can check the chain with what every system has: a line of the export
// without its last member, and SHA-256.
func TestAHashIsThatOfTheLineWithoutIt(t *testing.T) {
	_, rs := trail(t)
	rs[3].What = "names like <b>&ü\u2028 change nothing"
	rs[3].Hash = rs[3].sum()
	last := regexp.MustCompile(`,"hash":"([0-9a-f]{64})"}$`)
	for _, a := range rs {
		line, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		hash := last.FindSubmatch(line)
		if hash == nil {
			t.Fatalf("%s does not end with its hash", line)
		}
		sum := sha256.Sum256(append(last.ReplaceAll(line, nil), '}'))
		if hex.EncodeToString(sum[:]) != string(hash[1]) {
			t.Errorf("%s has another hash", line)
		}
		var back AuditRecord
		if err := json.Unmarshal(line, &back); err != nil || back.sum() != back.Hash {
			t.Errorf("read again it has another hash: %v", err)
		}
	}
}

// The chain begins with the first entry that knows of it, and goes on whoever
// writes after that. What came before stays as it was.
func TestTheChainBeginsBehindOldRecords(t *testing.T) {
	r := newRig(t)
	apply := func(version int, term uint64) {
		c := r.command(NoteLeader{NodeID: "n1", Term: term})
		c.Version = version
		if _, _, err := r.s.Apply(r.index, c); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxPlainAudit + 5 {
		apply(2, uint64(i)+1)
	}
	if n := len(r.s.audit); n != maxPlainAudit || r.s.audit[0].Seq != 0 {
		t.Fatalf("a log of before gives %d records, the first %+v", n, r.s.audit[0])
	}
	for i, version := range []int{3, 2, 3} {
		apply(version, uint64(5000+i))
		if a := r.s.Audit(1)[0]; a.Seq != uint64(i)+1 {
			t.Errorf("the record is %+v", a)
		}
	}
	if n := len(r.s.audit); n != maxPlainAudit+3 {
		t.Errorf("there are %d records", n)
	}
	if err := VerifyAudit(r.s.AuditTrail()); err != nil {
		t.Error(err)
	}
	restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
	if err != nil || asJSON(restored.AuditTrail()) != asJSON(r.s.AuditTrail()) {
		t.Errorf("restored it is another: %v", err)
	}
}

func TestTheChainHoldsWhenTheOldestGo(t *testing.T) {
	r := newRig(t)
	var gone string
	for i := range maxAudit + 10 {
		r.must(NoteLeader{NodeID: "n1", Term: uint64(i + 1)})
		if i == 9 {
			gone = r.s.Audit(1)[0].Hash
		}
	}
	all := r.s.AuditTrail()
	if len(all) != maxAudit || all[0].Seq != 11 || all[0].Prev != gone {
		t.Fatalf("there are %d records, the first is %+v", len(all), all[0])
	}
	if err := VerifyAudit(all); err != nil {
		t.Error(err)
	}
}

func TestEvidenceOutlivesTaskAndAudit(t *testing.T) {
	r := newRig(t)
	r.must(debian(), create("t1"), report("boot-1", withDebian(sda())))
	approve := func(from string) {
		t.Helper()
		if _, _, err := r.s.Apply(r.index, r.from(Origin{Name: "ann", From: from}, r.approve("t1"))); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.s.Evidence("m1"); len(got) != 0 {
		t.Errorf("before anything was erased there is %+v", got[0])
	}
	approve("192.0.2.7")
	r.must(r.start("t1"))
	if got := r.s.Evidence("m1"); len(got) != 1 || got[0].Result != wire.StatusInstalling || !got[0].EndedAt.IsZero() {
		t.Fatalf("while it runs there is %s", asJSON(got))
	}
	r.must(r.finish("t1", diskBroke))
	r.must(RetryTask{TaskID: "t1", By: "bob", PhoneToken: "2"})
	approve("192.0.2.8")
	r.must(r.start("t1"))
	r.must(r.advance("t1", wire.StageConfiguring, 95))
	r.must(r.finish("t1", nil))
	r.must(ReportUp{PhoneToken: "2", Hostname: "web1"})
	check := func(s *State) {
		t.Helper()
		got := s.Evidence("m1")
		if len(got) != 2 {
			t.Fatalf("there is %s", asJSON(got))
		}
		e := got[0]
		if e.Generation != 2 || e.Result != wire.StatusCompleted || e.ApprovedBy != "ann" || e.ApprovedFrom != "192.0.2.8" || e.CameUp == nil ||
			e.Image != "debian-12" || e.Digest != strings.Repeat("ab", 32) || e.Serial != "SER1" || e.Disks[0] != "DISK-A" || e.Held != "Debian 11" || e.PlanHash == "" {
			t.Errorf("the newest is %s", asJSON(e))
		}
		if e = got[1]; e.Generation != 1 || e.Result != wire.StatusFailed || e.ApprovedFrom != "192.0.2.7" || e.Error.Message != "the disk broke" || e.EndedAt.IsZero() {
			t.Errorf("the one before is %s", asJSON(e))
		}
	}
	check(r.s)
	r.must(DeleteTask{TaskID: "t1"})
	check(r.s)
	r.must(DeleteMachine{MachineID: "m1"})
	for i := range maxAudit {
		r.must(NoteLeader{NodeID: "n1", Term: uint64(i + 1)})
	}
	check(r.s)
	restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
	if err != nil {
		t.Fatal(err)
	}
	check(restored)
	check(r.s.Clone())
}

func TestTheNewestTwentyInstallsOfAMachineAreKept(t *testing.T) {
	r := newRig(t)
	r.must(debian())
	r.must(PutPolicy{ApprovalCap: 1000, ApprovalWindow: maxWindow, SecondApprover: SecondNever, By: "ann"})
	for i := range maxEvidence + 5 {
		id := fmt.Sprintf("t%02d", i)
		r.at = r.at.Add(time.Hour) // one person's word is enough then
		r.must(create(id), report("boot-"+id))
		r.install(id)
		if i < maxEvidence+3 {
			r.must(DeleteTask{TaskID: id})
		}
	}
	got := r.s.Evidence("m1")
	if len(got) != maxEvidence || got[0].TaskID != "t24" || got[maxEvidence-1].TaskID != "t05" || len(r.s.evidence) != maxEvidence {
		t.Errorf("there are %d, %d kept: %s", len(got), len(r.s.evidence), asJSON(got))
	}
	if len(r.s.Evidence("m2")) != 0 {
		t.Error("another machine has some")
	}
	for name, lines := range map[string]string{
		"of no machine":  `{"task_id":"t","disks":["d"],"started_at":"2026-01-01T00:00:00Z"}`,
		"of no task":     `{"machine_id":"m","disks":["d"],"started_at":"2026-01-01T00:00:00Z"}`,
		"of no time":     `{"machine_id":"m","task_id":"t","disks":["d"]}`,
		"of no disk":     `{"machine_id":"m","task_id":"t","started_at":"2026-01-01T00:00:00Z"}`,
		"that is no one": `null`,
	} {
		if _, err := Restore(strings.NewReader(oneRecord + `{"kind":"evidence","value":` + lines + `}`)); err == nil {
			t.Errorf("evidence %s was taken", name)
		}
	}
}
