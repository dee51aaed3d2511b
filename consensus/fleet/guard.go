package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// What stands between a person's word and an erased disk: the word is bound to
// one plan and ends after an hour, a protected machine takes none, beyond a cap
// it takes two people, and what differs from what was seen goes back to a person.

// ApprovalLife is how long an approval is good: nobody shall find a disk erased
// by a machine that was powered on a week after the click.
const ApprovalLife = time.Hour

type (
	// ProtectMachine sets or clears the protection of a machine: while it is
	// protected nothing is approved for it. The result is a *Machine.
	ProtectMachine struct {
		MachineID string
		Protected bool
		By        string
	}

	// LapseApproval sends a task whose approval has ended back to a person. It does
	// nothing to any other, so it may be repeated. The result is a *Task.
	LapseApproval struct{ TaskID string }

	// PutGrantKey makes known the key that signs grants: its certificate, and the key
	// sealed under the cluster's secret. The first wins. The result is a *Cluster.
	PutGrantKey struct {
		ClusterID string
		Cert      []byte // DER
		Sealed    []byte
	}
)

func (ProtectMachine) commandType() string { return "protect_machine" }
func (LapseApproval) commandType() string  { return "lapse_approval" }
func (PutGrantKey) commandType() string    { return "put_grant_key" }

// guarded reports whether the command was written by a node that knows these
// rules. What a log holds from before does what it did then.
func (c Command) guarded() bool { return c.Version != 1 && c.Version != 2 }

// checkWord refuses a word that is not for the plan the task has now.
func checkWord(what string, t *Task, d Decision) error {
	if t.Plan == nil {
		return refuse(Conflict, "%s has no plan to approve: %s", what, t.Problem)
	}
	if d.PlanHash == "" {
		return &Error{Code: Precondition, Field: "plan_hash", Message: "say which plan is approved: plan_hash is the task's plan_hash as you saw it"}
	}
	if d.PlanHash != t.PlanHash {
		changed := []string{"the plan is now " + short(t.PlanHash) + ", you approved " + short(d.PlanHash)}
		if t.FormerPlan != nil && t.FormerPlan.Hash() == d.PlanHash {
			changed = PlanChanges(t.FormerPlan, t.Plan)
		}
		return &Error{Code: Precondition, Field: "plan_hash", Changed: changed,
			Message: fmt.Sprintf("the plan of %s is not the one you saw; look at it again", what)}
	}
	return nil
}

// approve binds a person's word to the plan the task has now. Where it takes two
// people the first word is kept, and the task waits for the second.
func (s *State) approve(t *Task, d Decision, c Command) error {
	return s.approveAs("task "+t.ID, t, d, c)
}

// approveAs is approve for what is called so.
func (s *State) approveAs(what string, t *Task, d Decision, c Command) error {
	d.By = c.by(d.By)
	if err := checkWord(what, t, d); err != nil {
		return err
	}
	if c.guarded() && d.CheckSerial { // of the plan that is approved here, whatever a node has seen
		if err := CheckConfirm(t.Plan, d.ConfirmSerial); err != nil {
			return err
		}
	}
	word := Approval{Approved: true, By: d.By, Notes: d.Notes, PlanHash: d.PlanHash, At: c.At, From: c.From, ByID: c.ActorID}
	if c.guarded() {
		word.ExpiresAt = c.At.Add(ApprovalLife)
		if m := s.machines[t.MachineID]; m != nil && m.Protected {
			return refuse(Conflict, "machine %s is protected, so nothing is approved for it; an admin can take the protection off: lpmos machine unprotect %s", m.Name, m.Name)
		}
		if s.needsSecond(c.At) {
			first := t.FirstWord
			if first == nil || first.PlanHash != d.PlanHash || first.Lapsed(c.At) {
				t.FirstWord = &word
				t.log(c.At, cut("approved by "+who(d.By)+"; a second person has to approve it too: "+s.whySecond()))
				return nil
			}
			if err := s.checkSecond(what, t, &word, c); err != nil {
				return err
			}
			word.First = first.By
		}
		s.countWord(c.At)
	}
	t.FirstWord, t.Review = nil, ""
	t.Approval = &word
	t.Status = wire.StatusApproved
	t.log(c.At, fmt.Sprintf("approved by %s: erase %s (%s) and write %s", word.people(), t.Plan.Erase, Bytes(t.Plan.Erase.SizeBytes), t.Plan.Image.Name))
	return nil
}

// checkSecond refuses a second word that is not another person's, an admin's. Two
// are one if their id is: a name can be a token's, which whoever owns it holds too.
func (s *State) checkSecond(what string, t *Task, word *Approval, c Command) error {
	first := t.FirstWord
	one := first.By == word.By
	if first.ByID != "" && word.ByID != "" {
		one = first.ByID == word.ByID
	}
	admin := c.ActorRole.AtLeast(Admin)
	if c.ActorRole == "" { // an entry of before, which tells the name alone
		u := s.UserByName(word.By)
		admin = u == nil || u.Role.AtLeast(Admin)
	}
	switch {
	case one:
		return refuse(Conflict, "%s has approved %s already and a second person has to, too: %s", who(first.By), what, s.whySecond())
	case c.ByToken:
		return refuse(Conflict, "the second word for %s has to be a person's, and %s is a program: %s", what, word.By, s.whySecond())
	case !admin:
		return refuse(Conflict, "the second word for %s has to be an admin's, and %s is none: %s", what, word.By, s.whySecond())
	}
	return nil
}

// whySecond says why it takes two people.
func (s *State) whySecond() string {
	p := s.Policy()
	if p.SecondApprover == SecondAlways {
		return "the policy asks two people for every plan"
	}
	return fmt.Sprintf("%d plans were approved within %s, and beyond that the policy asks for two people", p.ApprovalCap, minutes(p.ApprovalWindow))
}

func minutes(d time.Duration) string {
	if d == time.Minute {
		return "1 minute"
	}
	return fmt.Sprintf("%d minutes", int(d.Minutes()))
}

// people is who has approved.
func (a *Approval) people() string {
	if a.First == "" {
		return a.By
	}
	return who(a.First) + " and " + who(a.By)
}

// noteWord puts a word for a task's plan into the audit.
func (s *State) noteWord(c Command, t *Task, by string) {
	by = c.by(by)
	if t.Status == wire.StatusApproved {
		s.noteTask(c, t, by, t.Approval.peopleOr(by)+" approved to "+erasing(t))
		return
	}
	s.noteTask(c, t, by, who(by)+" approved to "+erasing(t)+"; a second person has to approve it, too")
}

// peopleOr begins a sentence about what they did.
func (a *Approval) peopleOr(by string) string {
	if a.First == "" {
		return who(by)
	}
	return a.people()
}

// unprotected refuses a task for a protected machine: it would take it off its disk
// to wait for an approval that nobody can give.
func (s *State) unprotected(c Command, mac string) error {
	if m := s.MachineByMAC(mac); c.guarded() && m != nil && m.Protected {
		return refuse(Conflict, "machine %s is protected, so nothing is installed on it; an admin can take the protection off: lpmos machine unprotect %s", m.Name, m.Name)
	}
	return nil
}

// clocksApart is how far the clocks of two nodes may be from each other.
const clocksApart = 2 * time.Minute

// Lapsed reports whether the approval has ended. One from a log that knows no end
// ends like any other; so does one that was given in times to come, by way of a
// node whose clock was wrong: it would stand for longer than its hour.
func (a *Approval) Lapsed(at time.Time) bool {
	return !at.Before(a.Ends()) || at.Before(a.At.Add(-clocksApart))
}

// Ends is when the approval ends of which no use was made.
func (a *Approval) Ends() time.Time {
	if a.ExpiresAt.IsZero() {
		return a.At.Add(ApprovalLife)
	}
	return a.ExpiresAt
}

// Lapsed reports whether the task is approved by a word that has ended.
func (t *Task) Lapsed(at time.Time) bool {
	return t.Status == wire.StatusApproved && t.Approval != nil && t.Approval.Lapsed(at)
}

// LapsedTasks are the ids of the tasks whose approval has ended.
func (s *State) LapsedTasks(at time.Time) (ids []string) {
	for _, t := range s.tasks {
		if t.Lapsed(at) {
			ids = append(ids, t.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// lapse sends a task whose approval has ended back to a person.
func (s *State) lapse(t *Task, c Command) {
	said := t.Approval
	t.Status, t.Approval = wire.StatusPendingApproval, nil
	t.log(c.At, "the approval by "+said.people()+" has ended, "+minutes(ApprovalLife)+" after it was given; approve it again")
	s.putTask(t, EventStatus)
	s.noteTask(c, t, "", "the approval by "+said.people()+" ended without an install")
}

func (b LapseApproval) apply(s *State, c Command) (any, error) {
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if t.Lapsed(c.At) {
		s.lapse(t, c)
	}
	return t, nil
}

// review has a person look at an open task again before anything is written for
// it. An install that has begun goes on: its disk is lost already, and a person can
// cancel it.
func (s *State) review(old *Task, why string, c Command) {
	t := old.clone()
	if t.Status == wire.StatusInstalling {
		t.log(c.At, cut(why))
	} else {
		t.needsReview(why, c.At)
	}
	s.putTask(t, EventStatus)
	s.noteTask(c, t, "", "a person has to look at it again: "+why)
}

func (t *Task) needsReview(why string, at time.Time) {
	t.Status, t.Approval, t.FirstWord = wire.StatusNeedsReview, nil, nil
	t.Review = cut(why)
	t.log(at, t.Review)
}

func (b ProtectMachine) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	old := s.machines[b.MachineID]
	if old == nil {
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	}
	if old.Protected == b.Protected {
		return old, nil
	}
	m := *old
	m.Protected = b.Protected
	s.putMachine(&m, EventMachine)
	did := " took the protection off machine "
	if b.Protected {
		did = " protected machine "
	}
	s.note(c, AuditRecord{By: b.By, Machine: m.ID, What: who(b.By) + did + m.Name})
	if b.Protected && m.NextBoot != nil && m.NextBoot.Erases {
		s.dropBoot(&m, c, b.By, who(b.By)+" protected the machine, so it does not boot into profile "+m.NextBoot.Profile)
	}
	if t := s.tasks[m.TaskID]; b.Protected && t != nil && t.Status == wire.StatusApproved {
		s.review(t, "the approval is void, "+who(b.By)+" protected the machine", c)
	}
	return s.machines[m.ID], nil
}

func (b PutGrantKey) apply(s *State, c Command) (any, error) {
	switch {
	case s.cluster == nil || s.cluster.ID != b.ClusterID:
		return nil, refuse(Conflict, "this is not cluster %s, so it takes no key of it", b.ClusterID)
	case len(b.Cert) == 0 || len(b.Sealed) == 0:
		return nil, invalid("cert", "a key for grants needs its certificate and itself, sealed")
	case len(s.cluster.GrantCert) > 0:
		return s.cluster, nil
	}
	cl := *s.cluster
	cl.GrantCert, cl.GrantSealed = b.Cert, b.Sealed
	s.putCluster(&cl)
	return &cl, nil
}

// Confirm is the serial whose last characters a person types who approves the
// plan, because something lies on the disk that would be lost; "" for a blank disk.
func Confirm(p *wire.Plan) string {
	if p == nil || p.Erase.Contents.Blank() {
		return ""
	}
	return p.Erase.String()
}

// confirmChars is how much of a serial is typed.
const confirmChars = 4

// CheckConfirm refuses an approval of the plan without the serial that it asks for.
func CheckConfirm(p *wire.Plan, typed string) error {
	serial := Confirm(p)
	tail := serial[max(0, len(serial)-confirmChars):]
	if typed = strings.TrimSpace(typed); serial == "" || strings.EqualFold(typed, tail) || strings.EqualFold(typed, serial) {
		return nil
	}
	return invalid("confirm_serial", "what lies on disk %s would be lost: give the last %d characters of its serial as confirm_serial", p.Erase, len(tail))
}

// finished reports whether a disk of the machine holds the finished install of
// this very run of the task. It was told to a node that is not there any more, or
// the state is older than the install, out of a backup: either way there is nothing
// left to do, least of all to erase it again.
func (t *Task) finished(m *Machine) bool {
	if t.Plan == nil || m.Inventory == nil {
		return false
	}
	for _, d := range m.Inventory.Disks {
		if k := d.Contents.Marker; k != nil && k.TaskID == t.ID && k.Generation >= t.Generation && k.MachineID == m.ID && d.ID() == t.Plan.Erase.DiskID {
			return true
		}
	}
	return false
}
