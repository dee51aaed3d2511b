package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// claimed is a report with a claim code by the agent with the key.
func (r *rig) claimed(boot, code, key string) ReportMachine {
	b := report(boot, sda())
	b.NewID, b.Claim, b.ClaimMAC, b.ClaimExpires, b.SessionHash = "m-"+key+boot, code, mac1, r.at.Add(10*time.Minute), key
	return b
}

// alarms counts what the audit says of them.
func (r *rig) alarms() (n int) {
	for _, a := range r.s.Audit(maxAudit) {
		if strings.HasPrefix(a.What, "ALARM") {
			n++
		}
	}
	return n
}

// approved has machine m1, which agent "ours" reported with code c1, and an
// approved task for it.
func approved(t *testing.T) *rig {
	r := newRig(t)
	first := r.claimed("boot-1", "c1", "ours")
	first.NewID = "m1"
	r.must(debian(), create("t1"), first, first) // a report may be repeated
	r.must(r.approve("t1"))
	return r
}

// alarming is refused for a conflict, and leaves an alarm behind if it is the first.
func (r *rig) alarming(b ReportMachine) {
	r.t.Helper()
	if _, err := r.do(b); ErrorCode(err) != Conflict {
		r.t.Fatalf("the report of %s was not refused for a conflict: %v", b.SessionHash, err)
	}
}

func TestS30_ASecondAgentWithAUsedClaimIsRefusedAndTheTaskFrozen(t *testing.T) {
	r := approved(t)
	second := r.claimed("boot-x", "c1", "theirs")
	r.alarming(second)
	events := slices.Clone(r.events)
	m, task := r.machine("m1"), r.task("t1")
	if m.SessionHash != "ours" || m.BootID != "boot-1" {
		t.Errorf("the second agent took the session: %+v", m)
	}
	if task.Status != wire.StatusNeedsReview || task.Approval != nil {
		t.Errorf("the task is %s, approved by %+v", task.Status, task.Approval)
	}
	if !m.Doubled.Equal(r.at) || r.alarms() != 1 || len(events) != 3 {
		t.Errorf("doubled at %v, %d alarms, events %+v", m.Doubled, r.alarms(), events)
	}
	r.refused(Conflict, r.start("t1"))

	// However often it is tried, it is one alarm, and one line in the task.
	before := content(t, r.s)
	for range 5 {
		r.refused(Conflict, second)
	}
	if content(t, r.s) != before {
		t.Error("a second try changed the state")
	}
}

func TestS30_TwoMachinesWithOneMACTakeTheSessionFromEachOtherOnce(t *testing.T) {
	r := approved(t)
	// The clone was given a code of its own, by another node perhaps.
	r.must(r.claimed("boot-2", "c2", "clone"))
	if got := r.machine("m1").SessionHash; got != "clone" {
		t.Fatalf("a machine that starts anew does not get its session: %s", got)
	}
	// A machine that started anew is not heard under its old session. This one is.
	r.alarming(r.claimed("boot-1", "c1", "ours"))
	if task := r.task("t1"); task.Status != wire.StatusNeedsReview || r.alarms() != 1 {
		t.Errorf("the task is %s after %d alarms", task.Status, r.alarms())
	}
}

func TestS31_AClaimIsOfUseOnceAndForAWhile(t *testing.T) {
	r := approved(t)
	late := r.claimed("boot-3", "c3", "late")
	r.at = r.at.Add(11 * time.Minute)
	r.refused(Precondition, late)
	nobody := r.claimed("boot-3", "c3", "")
	r.refused(Invalid, nobody)
	r.must(r.claimed("boot-4", "c4", "next"))
	r.at = r.at.Add(claimRest)
	r.must(r.claimed("boot-4", "c5", "next"))
	if r.s.UsedClaim("c1") != nil || r.s.UsedClaim("c4") == nil {
		t.Errorf("claims kept: %+v", r.s.claims)
	}
	// A machine that was forgotten is known anew by the agent it has.
	r.must(CancelTask{TaskID: "t1", By: "ann"}, DeleteMachine{MachineID: "m1"}, r.claimed("boot-4", "c5", "next"))
}

func TestS31_ASessionIsOfUseForItsMachineAndBootAlone(t *testing.T) {
	r := approved(t)
	renew := func(change func(*ReportMachine)) ReportMachine {
		b := report("boot-1", sda())
		b.NewID, b.SessionHash, b.Renew = "m-new", "ours", true
		if change != nil {
			change(&b)
		}
		return b
	}
	r.must(renew(nil))
	other := seen("m2", uuid2, "SER2", mac2)
	r.must(other)
	for name, change := range map[string]func(*ReportMachine){
		"a session that nobody has": func(b *ReportMachine) { b.SessionHash = "guessed" },
		"no session":                func(b *ReportMachine) { b.SessionHash = "" },
		"another boot":              func(b *ReportMachine) { b.BootID = "boot-2" },
		"another machine":           func(b *ReportMachine) { b.MAC, b.Inventory = other.MAC, other.Inventory },
		"a machine nobody knows": func(b *ReportMachine) {
			b.MAC, b.Inventory = "52:54:00:00:00:77", inventory("", "", []string{"52:54:00:00:00:77"})
		},
	} {
		t.Run(name, func(t *testing.T) { r.refused(Precondition, renew(change)) })
	}
	if task := r.task("t1"); task.Status != wire.StatusApproved {
		t.Errorf("the task is %s", task.Status)
	}
}

func TestS30_AClaimBeginsASessionOfItsOwnMachineAlone(t *testing.T) {
	const rogue = "52:54:00:00:00:66"
	r := approved(t)
	was := r.machine("m1")
	theirs := r.claimed("boot-x", "c2", "theirs")
	theirs.ClaimMAC, theirs.BootMAC = strings.ToUpper(rogue), rogue
	if _, err := r.do(theirs); ErrorCode(err) != Conflict {
		t.Fatalf("a code for another MAC: %v", err)
	}
	want := *was
	want.Question, want.Rival = r.machine("m1").Question, &IDs{UUID: uuid1, Serial: "SER1", MACs: []string{mac1, rogue}}
	if got := r.machine("m1"); !strings.Contains(got.Question, rogue) || asJSON(got) != asJSON(&want) {
		t.Errorf("the machine is\n%s, not\n%s", asJSON(got), asJSON(&want))
	}
	if task := r.task("t1"); task.Status != wire.StatusApproved || r.s.UsedClaim("c2") != nil {
		t.Errorf("the task is %s, the code used: %v", task.Status, r.s.UsedClaim("c2"))
	}
	r.refused(Conflict, theirs)
	// A person may say that it is the machine all the same, with a new card.
	r.must(SettleQuestion{MachineID: "m1", Accept: true}, theirs)

	// A machine nobody knows is known by the MAC of its code, too.
	fresh := seen("m2", uuid2, "SER2", mac2)
	fresh.Claim, fresh.ClaimMAC, fresh.ClaimExpires = "c3", "52:54:00:00:00:99", r.at.Add(time.Minute)
	r.must(fresh)
	if m := r.s.MachineByMAC("52:54:00:00:00:99"); m == nil || m.ID != "m2" {
		t.Errorf("the MAC of the code is machine %+v's", m)
	}
}

func TestS31_ARenewalTakesNoIdAway(t *testing.T) {
	without := map[string]func(*ReportMachine){
		"a MAC":      func(b *ReportMachine) { b.Inventory = inventory(uuid1, "SER1", []string{mac1}, sda()) },
		"the UUID":   func(b *ReportMachine) { b.Inventory.System.UUID = "" },
		"the serial": func(b *ReportMachine) { b.Inventory.System.Serial = "none" },
	}
	for name, change := range without {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			first := r.claimed("boot-1", "c1", "ours")
			first.NewID = "m1"
			first.Inventory = inventory(uuid1, "SER1", []string{mac1, mac2}, sda())
			more := report("boot-1")
			more.SessionHash, more.Renew = "ours", true
			more.Inventory = inventory(uuid1, "SER1", []string{mac1, mac2, "52:54:00:00:00:03"}, sda())
			r.must(first, more) // it may find one more
			change(&more)
			if _, err := r.do(more); ErrorCode(err) != Conflict {
				t.Fatalf("the renewal: %v", err)
			}
			if m := r.machine("m1"); m.Question == "" || len(m.IDs.MACs) != 3 {
				t.Errorf("the machine is %+v", m)
			}
		})
	}
	t.Run("a card that is gone at the next start", func(t *testing.T) {
		r := newRig(t)
		first := r.claimed("boot-1", "c1", "ours")
		first.NewID = "m1"
		first.Inventory = inventory(uuid1, "SER1", []string{mac1, mac2}, sda())
		r.must(first, r.claimed("boot-2", "c2", "next"))
		if m := r.machine("m1"); m.Question != "" || len(m.IDs.MACs) != 1 {
			t.Errorf("the machine is %+v", m)
		}
	})
}

func TestS30_AnAgentThatLivesOnAfterItsSessionWasTakenGivesOneAlarm(t *testing.T) {
	r := newRig(t)
	first := r.claimed("boot-1", "c1", "ours")
	first.NewID = "m1"
	r.must(debian(), create("t1"), first)
	r.at = r.at.Add(time.Hour) // its code is of no use any more, and says nothing
	r.must(r.claimed("boot-2", "c2", "clone"))
	r.must(r.approve("t1"), NoteDisplaced{SessionHash: "nobody's"}, NoteDisplaced{SessionHash: "clone"}, NoteDisplaced{})
	if r.alarms() != 0 || r.task("t1").Status != wire.StatusApproved {
		t.Fatalf("%d alarms, the task is %s", r.alarms(), r.task("t1").Status)
	}
	r.must(NoteDisplaced{SessionHash: "ours"})
	m, task := r.machine("m1"), r.task("t1")
	if task.Status != wire.StatusNeedsReview || task.Approval != nil || r.alarms() != 1 || !m.Doubled.Equal(r.at) || m.SessionHash != "clone" {
		t.Errorf("the task is %s after %d alarms, the machine %+v", task.Status, r.alarms(), m)
	}
	r.must(r.approve("t1"), NoteDisplaced{SessionHash: "ours"})
	if r.alarms() != 1 || r.task("t1").Status != wire.StatusApproved {
		t.Errorf("asking again: %d alarms, the task is %s", r.alarms(), r.task("t1").Status)
	}
}

func TestS30_TheLastSessionsOfAMachineAreRemembered(t *testing.T) {
	r := newRig(t)
	for i := range 7 {
		r.must(report(fmt.Sprint("boot-", i)), report(fmt.Sprint("boot-", i)))
	}
	want := []string{"s-boot-2", "s-boot-3", "s-boot-4", "s-boot-5"}
	if got := r.machine("m1").FormerSessions; !slices.Equal(got, want) {
		t.Errorf("remembered: %v, not %v", got, want)
	}
	r.must(DeleteMachine{MachineID: "m1"})
	if len(r.s.byFormer) != 0 {
		t.Errorf("of a machine that was forgotten: %v", r.s.byFormer)
	}
}

func TestS31_AFastClockDoesNotMakeAUsedClaimGoodAgain(t *testing.T) {
	r := approved(t)
	now := r.at
	other := seen("m2", uuid2, "SER2", mac2)
	other.Claim, other.ClaimMAC = "c9", mac2
	r.at = now.Add(23 * time.Hour)
	other.ClaimExpires = r.at.Add(time.Minute)
	r.must(other) // by way of a node whose clock is ahead
	r.at = now
	r.alarming(r.claimed("boot-x", "c1", "theirs"))
	if m := r.machine("m1"); m.SessionHash != "ours" || r.alarms() != 1 {
		t.Errorf("session %s after %d alarms", m.SessionHash, r.alarms())
	}
}

func TestS31_TheOldestOfTooManyClaimsAreForgottenFirst(t *testing.T) {
	r := approved(t)
	r.at = r.at.Add(time.Hour)
	for i := len(r.s.claims); i < maxClaims; i++ {
		id := fmt.Sprint("other-", i)
		r.s.claims[id] = &UsedClaim{ID: id, ExpiresAt: r.at.Add(-time.Minute)}
	}
	r.must(r.claimed("boot-2", "c2", "next"))
	if len(r.s.claims) != maxClaims || r.s.UsedClaim("c1") != nil || r.s.UsedClaim("other-1") == nil || r.s.UsedClaim("c2") == nil {
		t.Errorf("%d are kept; c1 %v, c2 %v", len(r.s.claims), r.s.UsedClaim("c1"), r.s.UsedClaim("c2"))
	}
}
