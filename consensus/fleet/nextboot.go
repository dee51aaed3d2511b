package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// NextBootLife is how long a machine that is asked to boot a profile may take until it
// netboots: nobody shall find a machine in an installer that was powered on a week
// after the click.
const NextBootLife = time.Hour

// answerLife is how long after its boot a machine is given its answer files. Installers
// fetch them within minutes; what stands in them may be secret.
const answerLife = 6 * time.Hour

// lookLife is how long it counts that a machine's agent has found what was approved to be
// erased: as long as a large server needs to start anew (its memory is counted for a quarter
// of an hour), or it would go round between the agent and its firmware.
const lookLife = 20 * time.Minute

// NextBoot is a wish that a machine boots a profile once, at its next netboot.
type NextBoot struct {
	ID      string    `json:"id"`
	Profile string    `json:"profile"`
	Digest  string    `json:"digest"` // of the profile as it was asked for
	Erases  bool      `json:"erases,omitempty"`
	Token   string    `json:"token"` // the secret in the URLs of its answer files and of its report
	By      string    `json:"by"`
	From    string    `json:"from,omitempty"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"`

	// Where it erases: the plan that was approved, as for an install.
	Disk      string     `json:"disk,omitempty"` // that was asked for
	Plan      *wire.Plan `json:"plan,omitempty"`
	PlanHash  string     `json:"plan_hash,omitempty"`
	FirstWord *Approval  `json:"first_word,omitempty"`
	Approval  *Approval  `json:"approval,omitempty"`
	// CheckedAt is when the machine's agent has shown, after the approval, that the
	// plan is still true. The machine is given nothing that erases before that.
	CheckedAt time.Time `json:"checked_at,omitzero"`
}

// ProfileBoot is a boot into a profile that a machine took.
type ProfileBoot struct {
	ID      string    `json:"id"`
	Profile string    `json:"profile"`
	Digest  string    `json:"digest"`
	Erases  bool      `json:"erases,omitempty"`
	Token   string    `json:"token"`
	MAC     string    `json:"mac"`
	By      string    `json:"by"`
	At      time.Time `json:"at"` // when its script was given out

	Disk     *wire.PlanDisk `json:"disk,omitempty"` // that may be erased
	PlanHash string         `json:"plan_hash,omitempty"`
	CameUp   *CameUp        `json:"came_up,omitempty"`
}

type (
	// PutProfile makes a profile, or another of the same name in its place. The result
	// is a *Profile.
	PutProfile struct{ Profile Profile }

	// DeleteProfile forgets a profile that no machine is asked to boot.
	DeleteProfile struct{ Name string }

	// AskBoot asks that a machine boots a profile once. Where the profile erases,
	// Approve is the word for the plan. The result is a *Machine.
	AskBoot struct {
		ID        string
		MachineID string
		Profile   string
		Digest    string `json:",omitempty"` // of the profile as it was seen; "" takes any
		Token     string
		Disk      string    `json:",omitempty"` // serial or WWN
		Approve   *Decision `json:",omitempty"`
		By        string
	}

	// CancelBoot takes such a wish back, or LapseBoot one whose time is over; ID, if
	// given, is the one that is meant. The result is a *Machine.
	CancelBoot struct {
		MachineID string
		By        string
	}
	LapseBoot struct {
		MachineID string
		ID        string
	}

	// TakeBoot is the compare-and-set before a machine is given the script of a profile:
	// asked → taken, once in the cluster. The result is a *Machine.
	// UUIDs are the readings of what the firmware says its UUID is; logs from before have none.
	TakeBoot struct {
		MAC   string
		ID    string
		UUIDs []string `json:",omitempty"`
	}
)

func (PutProfile) commandType() string    { return "put_profile" }
func (DeleteProfile) commandType() string { return "delete_profile" }
func (AskBoot) commandType() string       { return "ask_boot" }
func (CancelBoot) commandType() string    { return "cancel_boot" }
func (LapseBoot) commandType() string     { return "lapse_boot" }
func (TakeBoot) commandType() string      { return "take_boot" }

// Lapsed reports whether its time is over. One from times to come was asked for by way
// of a node whose clock was wrong.
func (n *NextBoot) Lapsed(at time.Time) bool {
	return !at.Before(n.Expires) || at.Before(n.At.Add(-clocksApart))
}

// Ready reports whether the machine may be given the profile: it erases nothing, or
// what it erases was approved, and looked at again after that and lately. At no time,
// any look will do.
func (n *NextBoot) Ready(at time.Time) bool {
	fresh := at.IsZero() || at.Sub(n.CheckedAt) < lookLife && !at.Before(n.CheckedAt.Add(-clocksApart))
	return !n.Erases || n.Approval != nil && !n.CheckedAt.IsZero() && fresh
}

// Agent reports whether it is the agent that is to look at the machine anew.
func (n *NextBoot) Agent() bool { return n.Profile == agentProfile }

// Waits says what it waits for, in half a sentence.
func (n *NextBoot) Waits() string {
	switch {
	case n.Erases && n.Approval == nil:
		return "approved by " + who(n.By) + "; a second person has to approve it, too"
	case !n.Ready(time.Time{}):
		return "its disks are looked at once more first"
	}
	return "at its next netboot"
}

// EraseDisk is the disk that may be erased, or nil.
func (n *NextBoot) EraseDisk() *wire.PlanDisk {
	if n.Plan == nil {
		return nil
	}
	return &n.Plan.Erase
}

// LapsedBoots are the machines whose wish is over, with its id.
func (s *State) LapsedBoots(at time.Time) (out []LapseBoot) {
	for _, m := range s.Machines() {
		if n := m.NextBoot; n != nil && n.Lapsed(at) {
			out = append(out, LapseBoot{MachineID: m.ID, ID: n.ID})
		}
	}
	return out
}

// MachineByBoot finds the machine that took the boot with this token, or nil.
func (s *State) MachineByBoot(token string) *Machine {
	if m := s.machines[s.byBoot[token]]; m != nil && m.LastBoot != nil && m.LastBoot.Token == token {
		return m
	}
	return nil
}

// AnswerFor is an answer file for the machine that took the boot with this token. It is
// made anew for each who asks; nothing is told once the time is over, or when the
// profile is not the one any more that was asked for.
func (s *State) AnswerFor(token, name, node, addr string, at time.Time) (text string, m *Machine, err error) {
	m = s.MachineByBoot(token)
	if m == nil {
		return "", nil, refuse(NotFound, "nobody booted a profile with this token")
	}
	b := m.LastBoot
	p := s.Profile(b.Profile)
	switch {
	case p == nil || p.Digest != b.Digest:
		return "", m, refuse(NotFound, "profile %s is not the one any more that machine %s booted", b.Profile, m.Name)
	case b.CameUp != nil || at.Sub(b.At) > answerLife:
		return "", m, refuse(NotFound, "machine %s booted profile %s too long ago to be given its answers", m.Name, b.Profile)
	}
	for _, a := range p.Answers {
		if a.Name == name {
			text, err = p.Expand(a.Text, m, Values{Node: node, MAC: b.MAC, Addr: addr, Token: token}, b.Disk)
			return text, m, err
		}
	}
	return "", m, refuse(NotFound, "profile %s has no answer file %.64q", p.Name, name)
}

// ProfilePlan works out what booting a profile that erases would be approved for: the
// disk it may erase, with what lies on it. What is written there only the profile knows.
func ProfilePlan(m *Machine, p *Profile, disk string) (wire.Plan, error) {
	if m.Unseen != "" {
		return wire.Plan{}, refuse(Conflict, "boot the agent first: nobody has seen what profile %s left on the disk of machine %s: lpmos machine boot %s agent, and start it anew", m.Unseen, m.Name, m.Name)
	}
	plan, err := MakePlan(m, Spec{DiskLayout: DiskLayout{Disk: disk, KeepRoot: true}}, &Image{Name: p.planName(), Digest: p.Digest})
	if err != nil {
		return wire.Plan{}, err
	}
	if err := p.CheckValues(m, &plan.Erase); err != nil {
		return wire.Plan{}, err
	}
	warning := "what profile " + p.Name + " starts writes by itself, and LPMOS does not watch it: it is told the disk, and has to keep to it"
	if !p.names("disk") {
		warning = "profile " + p.Name + " names no disk: what it starts, or who sits at the console, chooses which is erased"
	}
	plan.Warnings = append(plan.Warnings, warning)
	return plan, nil
}

// planName is what stands in a plan where an install has its image.
func (p *Profile) planName() string { return "profile " + p.Name }

func (b PutProfile) apply(s *State, c Command) (any, error) {
	p := b.Profile
	if err := CheckProfile(p); err != nil {
		return nil, err
	}
	old := s.profiles[p.Name]
	if old == nil && len(s.profiles) >= maxProfiles {
		return nil, refuse(Conflict, "there are %d profiles and no room for another; remove one", maxProfiles)
	}
	if err := s.unused(p.Name, c.At); err != nil {
		return nil, err
	}
	p.By, p.CreatedAt, p.Digest = c.by(p.By), c.At, ""
	p.Digest = p.sum()
	s.profiles[p.Name] = &p
	s.events = append(s.events, Event{Type: EventProfile, Name: p.Name, Profile: &p})
	does := "erases nothing"
	if p.Erases {
		does = "erases"
	}
	s.note(c, AuditRecord{By: p.By, Image: p.Digest, What: who(p.By) + " made profile " + p.Name + ", which " + does})
	return &p, nil
}

// unused refuses while a machine is asked to boot the profile, or may be fetching what it is
// made of.
func (s *State) unused(profile string, at time.Time) error {
	for _, m := range s.Machines() {
		if m.NextBoot != nil && m.NextBoot.Profile == profile {
			return refuse(Conflict, "machine %s is asked to boot profile %s as it is; cancel that first: lpmos machine boot %s --cancel", m.Name, profile, m.Name)
		}
		if m.installing(at) && m.LastBoot.Profile == profile {
			return m.refuseInstalling()
		}
	}
	return nil
}

// installing reports whether what a profile started may be writing to the machine's disk
// still: it has not reported, nor has the agent, in as long as answers are given out.
func (m *Machine) installing(at time.Time) bool {
	b := m.LastBoot
	return b != nil && b.Erases && b.CameUp == nil && m.Unseen != "" && at.Sub(b.At) <= answerLife
}

func (m *Machine) refuseInstalling() error {
	return refuse(Conflict, "machine %s may be being installed by profile %s, which has not reported; if it is not, give that up first: lpmos machine boot %s --cancel", m.Name, m.LastBoot.Profile, m.Name)
}

func (b DeleteProfile) apply(s *State, c Command) (any, error) {
	p := s.profiles[b.Name]
	switch {
	case builtin(b.Name) != nil:
		return nil, refuse(Conflict, "profile %s is part of every node and cannot be removed", b.Name)
	case p == nil:
		return nil, refuse(NotFound, "there is no profile %s", b.Name)
	}
	if err := s.unused(b.Name, c.At); err != nil {
		return nil, err
	}
	delete(s.profiles, p.Name)
	s.events = append(s.events, Event{Type: EventProfileDeleted, Name: p.Name})
	s.note(c, AuditRecord{Image: p.Digest, What: who(c.Actor) + " removed profile " + p.Name})
	return nil, nil
}

func (b AskBoot) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	old := s.machines[b.MachineID]
	if old == nil {
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	}
	p, err := s.CheckBoot(old, b.Profile)
	if err != nil {
		return nil, err
	}
	if b.Digest != "" && b.Digest != p.Digest {
		return nil, refuse(Precondition, "profile %s is not the one you saw; look at it again", p.Name)
	}
	asked := old.NextBoot
	if asked != nil && asked.Lapsed(c.At) {
		asked = nil
	}
	second := asked != nil && asked.Profile == p.Name && asked.Erases && asked.Approval == nil && b.Approve != nil
	switch {
	case asked != nil && !second:
		return nil, refuse(Conflict, "machine %s is asked to boot profile %s already; cancel that first: lpmos machine boot %s --cancel", old.Name, asked.Profile, old.Name)
	case old.installing(c.At) && !p.Erases && p.Kind != ProfileAgent: // what erases takes a plan, and so a look of the agent's
		return nil, old.refuseInstalling()
	case !second && (b.ID == "" || b.Token == "" || s.machines[s.byBoot[b.Token]] != nil):
		return nil, invalid("id", "a new wish needs a new id and a new token")
	}
	m := *old
	n := &NextBoot{ID: b.ID, Profile: p.Name, Digest: p.Digest, Erases: p.Erases, Token: b.Token, By: b.By, From: c.From,
		At: c.At, Expires: c.At.Add(NextBootLife), Disk: b.Disk}
	if second {
		copied := *asked
		n = &copied
	}
	m.NextBoot, m.NotBooted = n, nil
	if p.Erases {
		if err := s.approveBoot(&m, n, p, b, c); err != nil {
			return nil, err
		}
	} else if err := p.CheckValues(&m, nil); err != nil {
		return nil, err
	}
	s.putMachine(&m, EventMachine)
	s.noteBoot(c, &m, n, b.By, who(b.By)+" asked to boot it into profile "+n.Profile+" once"+n.what())
	return &m, nil
}

// what says what a boot may erase.
func (n *NextBoot) what() string {
	switch {
	case !n.Erases:
		return ", which erases nothing"
	case n.Approval == nil:
		return ", and approved to erase disk " + n.Plan.Erase.String() + "; a second person has to approve it, too"
	}
	return ", and approved to erase disk " + n.Plan.Erase.String() + " (" + n.Approval.people() + ")"
}

// CheckBoot says why the machine cannot be asked to boot the profile now.
func (s *State) CheckBoot(m *Machine, profile string) (*Profile, error) {
	p := s.Profile(profile)
	if p == nil {
		var have []string
		for _, p := range s.Profiles() {
			have = append(have, p.Name)
		}
		return nil, refuse(NotFound, "there is no profile %.64s; there are: %s", profile, strings.Join(have, ", "))
	}
	switch t := s.tasks[m.TaskID]; {
	case m.Question != "":
		return nil, refuse(Conflict, "machine %s has an open question; settle it first: %s", m.Name, m.Question)
	case t != nil && t.Open():
		return nil, refuse(Conflict, "machine %s has open task %s (%s); cancel it first", m.Name, t.ID, t.Status)
	case p.Erases && m.Protected:
		return nil, refuse(Conflict, "machine %s is protected, so nothing that erases is booted on it; an admin can take the protection off: lpmos machine unprotect %s", m.Name, m.Name)
	}
	return p, p.fits(m)
}

// fits says why the machine's firmware cannot start the profile, as far as its agent has
// found out.
func (p *Profile) fits(m *Machine) error {
	if m.Inventory == nil {
		return nil
	}
	switch f, arch := m.Inventory.Firmware, m.Inventory.CPU.Arch; {
	case p.Kind == ProfileAgent:
		return nil // it has reported from there
	case p.BuiltIn() && arch != "" && arch != "amd64":
		return refuse(Conflict, "machine %s has a processor of kind %s, and profile %s is for amd64 alone", m.Name, arch, p.Name)
	case f.SecureBoot:
		return refuse(Conflict, "machine %s has Secure Boot on, and profiles are started by iPXE, which is not signed; switch it off in the machine's setup", m.Name)
	case p.Kind == ProfileProgram && f.Mode == "bios" && p.BIOS == nil, p.Kind == ProfileProgram && f.Mode == "uefi" && p.UEFI == nil:
		return refuse(Conflict, "machine %s has %s firmware, and profile %s has no program for that", m.Name, strings.ToUpper(f.Mode), p.Name)
	}
	return nil
}

// notAsked refuses a task for a machine that is about to boot a profile.
func (s *State) notAsked(mac string, at time.Time) error {
	if m := s.MachineByMAC(mac); m != nil && m.NextBoot != nil && !m.NextBoot.Lapsed(at) {
		return refuse(Conflict, "machine %s is asked to boot profile %s; cancel that first: lpmos machine boot %s --cancel", m.Name, m.NextBoot.Profile, m.Name)
	}
	return nil
}

// approveBoot binds a person's word to the plan that follows from what the machine's
// agent last reported, by the rules of an install.
func (s *State) approveBoot(m *Machine, n *NextBoot, p *Profile, b AskBoot, c Command) error {
	plan, err := ProfilePlan(m, p, n.Disk)
	if err != nil {
		return err
	}
	if b.Approve == nil {
		return &Error{Code: Precondition, Field: "plan_hash", Message: "profile " + p.Name + " erases a disk: say which plan is approved"}
	}
	word := *b.Approve
	word.By = b.By
	word.CheckSerial = true
	t := &Task{MachineID: m.ID, Plan: &plan, PlanHash: plan.Hash(), FirstWord: n.FirstWord}
	if err := s.approveAs("the boot of machine "+m.Name+" into profile "+p.Name, t, word, c); err != nil {
		return err
	}
	n.Plan, n.PlanHash, n.FirstWord, n.Approval = t.Plan, t.PlanHash, t.FirstWord, t.Approval
	if n.Approval != nil {
		n.Expires = n.Approval.Ends()
	}
	return nil
}

// noteBoot puts what became of a wish into the audit.
func (s *State) noteBoot(c Command, m *Machine, n *NextBoot, by, did string) {
	r := AuditRecord{By: by, Machine: m.ID, Serial: m.IDs.Serial, Image: n.Digest, What: "machine " + m.Name + ": " + did}
	if n.Plan != nil {
		r.Disks, r.PlanHash = []string{n.Plan.Erase.String()}, n.PlanHash
	}
	s.note(c, r)
}

func (b CancelBoot) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	old := s.machines[b.MachineID]
	switch {
	case old == nil:
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	case old.NextBoot == nil && old.installing(c.At):
		m := *old
		m.LastBoot = nil // and with it the secret of its answers and of its report
		s.putMachine(&m, EventMachine)
		s.note(c, AuditRecord{By: b.By, Machine: m.ID, Serial: m.IDs.Serial, Image: old.LastBoot.Digest,
			What: "machine " + m.Name + ": " + who(b.By) + " gave up what profile " + old.LastBoot.Profile + " had begun"})
		return &m, nil
	case old.NextBoot == nil:
		return nil, refuse(Conflict, "machine %s is not asked to boot any profile", old.Name)
	}
	return s.dropBoot(old, c, b.By, who(b.By)+" took back that it boots into profile "+old.NextBoot.Profile), nil
}

func (b LapseBoot) apply(s *State, c Command) (any, error) {
	m := s.machines[b.MachineID]
	if m == nil {
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	}
	if n := m.NextBoot; n != nil && n.ID == b.ID && n.Lapsed(c.At) {
		m = s.dropBoot(m, c, "", fmt.Sprintf("it did not netboot within %s, so it does not boot into profile %s", minutes(NextBootLife), n.Profile))
	}
	return m, nil
}

// dropBoot takes a wish from its machine.
func (s *State) dropBoot(old *Machine, c Command, by, why string) *Machine {
	m := *old
	m.NextBoot, m.NotBooted = nil, &Held{Reason: cut(why), Since: c.At}
	s.putMachine(&m, EventMachine)
	s.noteBoot(c, &m, old.NextBoot, by, why)
	return &m
}

// dropErasing is dropBoot for a wish that may erase, and for no other: the word for it was
// about one machine, and it is in doubt which that is.
func (s *State) dropErasing(m *Machine, c Command, why string) *Machine {
	n := m.NextBoot
	if n == nil || !n.Erases {
		return m
	}
	return s.dropBoot(m, c, "", "it does not boot into profile "+n.Profile+", which may erase: "+why)
}

// another reports whether the firmware says to be another machine, by its UUID. None says
// nothing: a known machine that has one may boot by firmware that does not tell it.
func (b TakeBoot) another(ids IDs) bool {
	return ids.UUID != "" && len(b.UUIDs) > 0 && !slices.Contains(b.UUIDs, ids.UUID)
}

// refuseAnother is for a machine that has a known one's MAC and not its UUID. A word for what
// erases is void by it; what erases nothing stays for the machine it is meant for.
func (s *State) refuseAnother(m *Machine, b TakeBoot, c Command) error {
	what := fmt.Sprintf("a machine with UUID %.40s netbooted with MAC %s of this machine, whose UUID is %s", b.UUIDs[0], strings.ToLower(b.MAC), m.IDs.UUID)
	if m.NextBoot.Erases {
		s.note(c, AuditRecord{Machine: m.ID, What: "ALARM: machine " + m.Name + ": " + what})
		s.dropErasing(m, c, what)
	}
	return refuse(Conflict, "%s", what)
}

// apply hands the wish over to the one who asked first: of two nodes that would both
// serve the script, one is refused, and so is whoever asks again.
func (b TakeBoot) apply(s *State, c Command) (any, error) {
	old := s.MachineByMAC(b.MAC)
	if old == nil || old.NextBoot == nil || old.NextBoot.ID != b.ID {
		return nil, refuse(Conflict, "the machine with MAC %s is not asked to boot that any more", b.MAC)
	}
	n := old.NextBoot
	p, err := s.CheckBoot(old, n.Profile)
	switch {
	case err != nil:
		return nil, err
	case p.Digest != n.Digest:
		return nil, refuse(Precondition, "profile %s is not the one that was asked for", n.Profile)
	case b.another(old.IDs):
		return nil, s.refuseAnother(old, b, c)
	case n.Lapsed(c.At):
		return nil, refuse(Precondition, "machine %s was to boot profile %s within %s", old.Name, n.Profile, minutes(NextBootLife))
	case n.Erases && (n.Approval == nil || n.Approval.PlanHash != n.PlanHash || n.Approval.Lapsed(c.At)):
		return nil, refuse(Precondition, "what profile %s would erase on machine %s is not approved", n.Profile, old.Name)
	case !n.Ready(c.At):
		return nil, refuse(Precondition, "machine %s has not shown within the last %s that its disks are those that were approved", old.Name, minutes(lookLife))
	}
	if n.Erases { // whatever was missed since: what dies is what was approved, on the machine that was
		plan, err := ProfilePlan(old, p, n.Disk)
		if err == nil && plan.Hash() != n.PlanHash {
			err = refuse(Precondition, "%s", strings.Join(PlanChanges(n.Plan, &plan), "; "))
		}
		if err != nil {
			return nil, refuse(Precondition, "what profile %s would erase on machine %s is not what was approved: %v", n.Profile, old.Name, err)
		}
	}
	m := *old
	m.NextBoot = nil
	taken := &ProfileBoot{ID: n.ID, Profile: n.Profile, Digest: n.Digest, Erases: n.Erases, Token: n.Token, MAC: strings.ToLower(b.MAC), By: n.By, At: c.At}
	did := "it was told to boot into profile " + n.Profile + ", as asked by " + who(n.By)
	if n.Erases {
		disk := n.Plan.Erase
		taken.Disk, taken.PlanHash = &disk, n.PlanHash
		did += ", which may erase disk " + disk.String() + " now"
		// From here on nobody knows what lies there but who writes it.
		m.Installed, m.Unfinished, m.Erasing = nil, false, nil
		m.Unseen, m.AgentDone = p.Name, true // its firmware has asked, so its agent is gone
		m.Inventory = withContents(m.Inventory, disk.DiskID, wire.Contents{Table: "gpt", OS: p.planName()})
		s.keepBootEvidence(c, &m, n)
		m.TaskID = "" // what a task has put there is gone
	}
	m.LastBoot = taken
	s.putMachine(&m, EventMachine)
	if old.TaskID != m.TaskID {
		s.settle(old.TaskID)
	}
	s.noteBoot(c, &m, n, "", did)
	return &m, nil
}

// keepBootEvidence keeps which disk was given to a profile, on whose word.
func (s *State) keepBootEvidence(c Command, m *Machine, n *NextBoot) {
	s.addEvidence(&Evidence{MachineID: m.ID, TaskID: n.ID, Serial: m.IDs.Serial, Disks: []string{n.Plan.Erase.String()},
		Held: n.Plan.Erase.Contents.OS, PlanHash: n.PlanHash, ApprovedBy: n.Approval.people(), ApprovedFrom: n.Approval.From, ApprovedAt: n.Approval.At,
		Image: n.Plan.Image.Name, Digest: n.Digest, StartedAt: c.At, Result: ResultHandedOver})
}

// ResultHandedOver is how the evidence of a profile that erases ends: what its
// installer did, nobody has watched.
const ResultHandedOver wire.Status = "handed_over"

// checkNextBoot compares what a machine's agent reports with what was approved to be
// erased, and gives the machine as it is then.
func (s *State) checkNextBoot(m *Machine, c Command) *Machine {
	n := m.NextBoot
	if n != nil && n.Agent() { // which is this
		looked := *m
		looked.NextBoot = nil
		s.putMachine(&looked, EventMachine)
		s.noteBoot(c, &looked, n, "", "its agent has looked at it anew, as "+who(n.By)+" asked")
		return &looked
	}
	if n == nil || !n.Erases || n.Approval == nil {
		return m
	}
	p := s.Profile(n.Profile)
	var plan wire.Plan
	err := error(refuse(NotFound, "there is no profile %s any more", n.Profile))
	if p != nil && p.Digest == n.Digest {
		plan, err = ProfilePlan(m, p, n.Disk)
	}
	if err == nil && plan.Hash() == n.PlanHash {
		changed := *m
		checked := *n
		checked.CheckedAt = c.At
		changed.NextBoot = &checked
		s.putMachine(&changed, EventMachine)
		return &changed
	}
	why := "it does not boot into profile " + n.Profile + ", for it is not what was approved"
	if err != nil {
		why += ": " + err.Error()
	} else {
		why += ": " + strings.Join(PlanChanges(n.Plan, &plan), "; ")
	}
	return s.dropBoot(m, c, "", why)
}

// named is a machine with that name, or nil.
func (s *State) named(name string) *Machine {
	for _, m := range s.Machines() {
		if strings.EqualFold(m.Name, name) {
			return m
		}
	}
	return nil
}

// bootUp is an installed system's word where a profile has installed it.
func (s *State) bootUp(b ReportUp, c Command) (any, error) {
	old := s.MachineByBoot(b.PhoneToken)
	if old == nil {
		return nil, refuse(NotFound, "nobody waits for this report")
	}
	if old.LastBoot.CameUp != nil {
		return old, nil
	}
	if c.At.Sub(old.LastBoot.At) > answerLife {
		return nil, refuse(Conflict, "machine %s booted profile %s too long ago to report for it", old.Name, old.LastBoot.Profile)
	}
	m, boot := *old, *old.LastBoot
	boot.CameUp = &CameUp{At: c.At, Hostname: b.Hostname, IP: b.IP}
	m.LastBoot = &boot
	but := ""
	switch other := s.named(b.Hostname); {
	case !boot.Erases || !ValidHostname(b.Hostname):
	case other != nil && other.ID != m.ID: // whoever approves for that one must not mean this
		but = ", which is machine " + other.ID + "'s name, so it keeps its own"
	default:
		m.Name = b.Hostname
	}
	s.putMachine(&m, EventMachine)
	s.note(c, AuditRecord{Machine: m.ID, Serial: m.IDs.Serial, Image: boot.Digest, PlanHash: boot.PlanHash,
		What: "machine " + m.Name + ": what profile " + boot.Profile + " started reported as " + quoteOrNone(b.Hostname) + but})
	return &m, nil
}
