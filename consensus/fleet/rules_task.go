package fleet

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// ImageName is the image a spec asks for: "debian-12" for debian and 12.
func (sp Spec) ImageName() string {
	if sp.OSVersion == "" {
		return sp.OSType
	}
	return sp.OSType + "-" + sp.OSVersion
}

func (b PutImage) apply(s *State, c Command) (any, error) {
	img := b.Image
	switch {
	case !ValidName(img.Name):
		return nil, invalid("name", "image name %q: use a-z, 0-9, dot, dash and underscore, 64 at most", img.Name)
	case !wire.IsDigest(img.Digest):
		return nil, invalid("digest", "image %s: %q is not a digest", img.Name, img.Digest)
	case img.SizeBytes == 0:
		return nil, invalid("size_bytes", "image %s is empty", img.Name)
	}
	img.CreatedAt = c.At
	s.images[img.Name] = &img
	s.events = append(s.events, Event{Type: EventImage, Name: img.Name, Image: &img})
	return &img, nil
}

func (b DeleteImage) apply(s *State, c Command) (any, error) {
	img := s.images[b.Name]
	if img == nil {
		return nil, refuse(NotFound, "there is no image %s", b.Name)
	}
	for _, t := range s.tasks {
		if t.Open() && t.Spec.ImageName() == b.Name {
			return nil, refuse(Conflict, "image %s is used by open task %s", b.Name, t.ID)
		}
	}
	delete(s.images, b.Name)
	s.events = append(s.events, Event{Type: EventImageDeleted, Name: b.Name})
	return img, nil
}

// ValidName is the grammar of names that end up in paths, scripts and screens.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || (r != '.' && r != '-' && r != '_')) {
			return false
		}
	}
	return true
}

// ValidHostname is one label of RFC 1123.
func ValidHostname(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
			return false
		}
	}
	return true
}

func (s *State) checkSpec(sp Spec) error {
	if sp.OSType == "" {
		return invalid("os_type", "a task needs an os_type, for instance debian")
	}
	if s.images[sp.ImageName()] == nil {
		var have []string
		for _, i := range s.Images() {
			have = append(have, i.Name)
		}
		if len(have) == 0 {
			return invalid("os_type", "there is no image %s; no image has been imported yet (lpmos image import FILE --name %s)", sp.ImageName(), sp.ImageName())
		}
		return invalid("os_type", "there is no image %s; there are: %s", sp.ImageName(), strings.Join(have, ", "))
	}
	if h := sp.NetworkConfig.Hostname; h != "" && !ValidHostname(h) {
		return invalid("network_config.hostname", "hostname %q: use letters, digits and dashes, 63 at most", h)
	}
	for i, k := range sp.NetworkConfig.SSHKeys {
		if strings.ContainsAny(k, "\r\n\x00") || len(k) > 8192 || len(strings.Fields(k)) < 2 {
			return invalid(fmt.Sprintf("network_config.ssh_keys[%d]", i), "this is no line of an authorized_keys file")
		}
	}
	if len(sp.UserData) > 64<<10 {
		return invalid("user_data", "user data of %d bytes; 65536 at most", len(sp.UserData))
	}
	if len(sp.NetworkConfig.Config) > 64<<10 {
		return invalid("network_config.config", "network config of %d bytes; 65536 at most", len(sp.NetworkConfig.Config))
	}
	return nil
}

func (b CreateTask) apply(s *State, c Command) (any, error) {
	mac := strings.ToLower(b.TargetMAC)
	if b.ID == "" || s.tasks[b.ID] != nil {
		return nil, invalid("id", "a new task needs a new id")
	}
	if !validMAC(mac) {
		return nil, invalid("target_mac", "%q is no MAC address; write it as 52:54:00:12:34:56", b.TargetMAC)
	}
	if err := s.checkSpec(b.Spec); err != nil {
		return nil, err
	}
	if open := s.TaskForMAC(mac); open != nil {
		return nil, refuse(Conflict, "machine %s already has open task %s (%s); cancel it first", mac, open.ID, open.Status)
	}
	t := &Task{ID: b.ID, Generation: 1, RegionID: b.RegionID, TargetMAC: mac, Spec: b.Spec,
		Status: wire.StatusPending, PhoneToken: b.PhoneToken, CreatedAt: c.At, UpdatedAt: c.At}
	t.log(c.At, "task made: install "+b.Spec.ImageName())
	m := s.attach(t)
	if b.Approve != nil {
		if t.Status != wire.StatusPendingApproval {
			return nil, refuse(Conflict, "machine %s has not reported yet, so there is no plan to approve; make the task without approving", mac)
		}
		if err := approve(t, *b.Approve, c.At); err != nil {
			return nil, err
		}
	}
	if m != nil {
		s.putMachine(m, EventMachine)
	}
	s.putTask(t, EventTaskCreated)
	return t, nil
}

// attach binds a task to its machine if that is known, and gives it the state
// that follows: an agent that waits there can be approved at once. It returns
// the machine as it has to be put.
func (s *State) attach(t *Task) *Machine {
	t.Status = wire.StatusPending
	old := s.MachineByMAC(t.TargetMAC)
	if old == nil {
		return nil
	}
	m := *old
	m.TaskID = t.ID
	if h := t.Spec.NetworkConfig.Hostname; h != "" {
		m.Name = h
	}
	t.MachineID = m.ID
	t.Status = wire.StatusReady
	if m.SessionHash != "" && m.Inventory != nil {
		t.Status = wire.StatusPendingApproval
		s.replan(t, &m)
	}
	return &m
}

func validMAC(mac string) bool {
	if len(mac) != 17 {
		return false
	}
	for i, r := range mac {
		if i%3 == 2 {
			if r != ':' {
				return false
			}
		} else if !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') {
			return false
		}
	}
	return true
}

func (s *State) task(id string) (*Task, error) {
	t := s.tasks[id]
	if t == nil {
		return nil, refuse(NotFound, "there is no task %s", id)
	}
	return t.clone(), nil
}

// apply is a person's decision. Approving binds the hash of the plan that was
// on the screen: any other plan is refused with what has changed.
func (b DecideTask) apply(s *State, c Command) (any, error) {
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if t.Approval != nil && t.Approval.Approved == b.Approved && t.Approval.PlanHash == b.PlanHash &&
		(t.Status == wire.StatusApproved || t.Status == wire.StatusRejected) {
		return t, nil // the same decision told twice
	}
	if t.Status != wire.StatusPendingApproval {
		return nil, refuse(Conflict, "task %s is %s: there is nothing to approve or reject", t.ID, t.Status)
	}
	if b.Approved {
		if err := approve(t, Decision{PlanHash: b.PlanHash, Notes: b.Notes, By: b.By}, c.At); err != nil {
			return nil, err
		}
	} else {
		t.Approval = &Approval{By: b.By, Notes: b.Notes, PlanHash: b.PlanHash, At: c.At}
		t.Status = wire.StatusRejected
		t.FinishedAt = c.At
		t.log(c.At, "rejected by "+b.By)
	}
	s.putTask(t, EventStatus)
	return t, nil
}

// approve binds a person's word to the plan the task has now.
func approve(t *Task, d Decision, at time.Time) error {
	if t.Plan == nil {
		return refuse(Conflict, "task %s has no plan to approve: %s", t.ID, t.Problem)
	}
	if d.PlanHash == "" {
		return &Error{Code: Precondition, Field: "plan_hash", Message: "say which plan is approved: plan_hash is the task's plan_hash as you saw it"}
	}
	if d.PlanHash != t.PlanHash {
		return &Error{Code: Precondition, Field: "plan_hash",
			Message: fmt.Sprintf("the plan of task %s is not the one you saw; look at it again", t.ID),
			Changed: []string{"the plan is now " + short(t.PlanHash) + ", you approved " + short(d.PlanHash)}}
	}
	t.Approval = &Approval{Approved: true, By: d.By, Notes: d.Notes, PlanHash: d.PlanHash, At: at}
	t.Status = wire.StatusApproved
	t.log(at, fmt.Sprintf("approved by %s: erase %s (%s) and write %s", d.By, t.Plan.Erase, Bytes(t.Plan.Erase.SizeBytes), t.Plan.Image.Name))
	return nil
}

func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12]
	}
	return hash
}

// session checks that the words come from the agent that reported last.
func (s *State) session(t *Task, hash string) (*Machine, error) {
	m := s.machines[t.MachineID]
	if m == nil {
		return nil, refuse(NotFound, "task %s has no machine", t.ID)
	}
	if hash == "" || m.SessionHash != hash {
		return nil, refuse(Conflict, "task %s belongs to another boot of machine %s", t.ID, m.Name)
	}
	return m, nil
}

// apply is the compare-and-set before the first destructive byte.
func (b StartInstall) apply(s *State, c Command) (any, error) {
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	m, err := s.session(t, b.SessionHash)
	if err != nil {
		return nil, err
	}
	if t.Generation != b.Generation {
		return nil, refuse(Conflict, "the grant is for generation %d of task %s, which is at %d", b.Generation, t.ID, t.Generation)
	}
	if t.Status == wire.StatusInstalling && t.InstallBootID == m.BootID {
		return t, nil // the answer was lost, the question is repeated
	}
	if t.Status != wire.StatusApproved {
		return nil, refuse(Conflict, "task %s is %s, not approved", t.ID, t.Status)
	}
	if b.PlanHash != t.PlanHash || t.Approval == nil || t.Approval.PlanHash != t.PlanHash {
		return nil, &Error{Code: Precondition, Message: "the plan of task " + t.ID + " is not the one that was approved"}
	}
	t.Status = wire.StatusInstalling
	t.InstallBootID = m.BootID
	t.StartedAt = c.At
	t.Progress = &wire.Progress{Stage: wire.StagePartitioning}
	t.log(c.At, "the agent may erase disk "+t.Plan.Erase.String()+" now")
	changed := *m
	t.WasUnfinished = m.Unfinished
	changed.Unfinished = true
	s.putTask(t, EventStatus)
	s.putMachine(&changed, EventMachine)
	return t, nil
}

// apply takes the newest value of each install. Items that are late, of another
// generation or run backwards are dropped: they may arrive twice and in any order.
func (b Advance) apply(s *State, c Command) (any, error) {
	for _, it := range b.Items {
		old := s.tasks[it.TaskID]
		if old == nil || old.Status != wire.StatusInstalling || old.Generation != it.Generation {
			continue
		}
		if CheckProgress(old, it.Progress) != nil {
			continue
		}
		t := old.clone()
		p := it.Progress
		t.Progress = &p
		t.UpdatedAt = c.At
		if old.Progress == nil || old.Progress.Stage != p.Stage {
			t.log(c.At, string(p.Stage))
		}
		s.putTask(t, EventProgress)
	}
	return nil, nil
}

// CheckProgress refuses a progress that cannot follow the task's last one.
func CheckProgress(t *Task, p wire.Progress) error {
	from, to, ok := p.Stage.Span()
	if !ok {
		return invalid("stage", "there is no stage %q", p.Stage)
	}
	if math.IsNaN(p.Percentage) || p.Percentage < from || p.Percentage > to {
		return invalid("percentage", "%v is not in stage %s, which runs from %v to %v", p.Percentage, p.Stage, from, to)
	}
	if last := t.Progress; last != nil {
		if slices.Index(wire.Stages, p.Stage) < slices.Index(wire.Stages, last.Stage) || p.Percentage < last.Percentage {
			return refuse(Conflict, "task %s is at %.1f %% already; %.1f %% would run backwards", t.ID, last.Percentage, p.Percentage)
		}
	}
	return nil
}

func (b FinishInstall) apply(s *State, c Command) (any, error) {
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	m, err := s.session(t, b.SessionHash)
	if err != nil {
		return nil, err
	}
	if t.Generation != b.Generation {
		return nil, refuse(Conflict, "task %s is at generation %d, not %d", t.ID, t.Generation, b.Generation)
	}
	switch {
	case b.Error == nil && t.Status == wire.StatusCompleted, b.Error != nil && t.Status == wire.StatusFailed:
		return t, nil // told twice
	case b.Error != nil && t.Status == wire.StatusApproved:
		// The agent refused before it asked to erase: nothing was written.
	case t.Status != wire.StatusInstalling:
		return nil, refuse(Conflict, "task %s is %s, not installing", t.ID, t.Status)
	case b.Error == nil && (t.Progress == nil || t.Progress.Stage != wire.StageConfiguring):
		return nil, refuse(Conflict, "task %s cannot be complete: it has not been through its last stage", t.ID)
	}
	t.FinishedAt = c.At
	changed := *m
	if b.Error != nil {
		t.Status, t.Error = wire.StatusFailed, b.Error
		t.log(c.At, "failed: "+b.Error.Message)
		if untouched(b.Error.Code) {
			changed.Unfinished = m.Unfinished && (t.WasUnfinished || t.StartedAt.IsZero())
		}
	} else {
		t.Status = wire.StatusCompleted
		p := *t.Progress
		p.Percentage, p.Message = 100, "installed"
		t.Progress = &p
		t.log(c.At, "installed; the machine boots its own disk now")
		changed.Unfinished = false
		changed.Installed = &Installed{TaskID: t.ID, Image: t.Plan.Image.Name, Digest: t.Plan.Image.Digest,
			Disk: t.Plan.Erase.DiskID, Hostname: t.Plan.FirstBoot.Hostname, At: c.At}
		if h := t.Plan.FirstBoot.Hostname; h != "" {
			changed.Name = h
		}
	}
	// The boot has done what it was there for: its agent has to report anew.
	if b.Error == nil {
		changed.SessionHash = ""
	}
	s.putTask(t, EventStatus)
	s.putMachine(&changed, EventMachine)
	return t, nil
}

// untouched reports whether an agent that fails with this code has, by contract,
// not written to the disk: it found the difference before the first byte.
func untouched(code string) bool {
	return code == wire.CodePlanMismatch || code == wire.CodeDiskTooSmall || code == wire.CodeDiskBusy
}

func (b ReportUp) apply(s *State, c Command) (any, error) {
	old := s.TaskByPhoneToken(b.PhoneToken)
	if old == nil {
		return nil, refuse(NotFound, "nobody waits for this report")
	}
	if old.CameUp != nil {
		return old, nil
	}
	if old.Status != wire.StatusCompleted {
		return nil, refuse(Conflict, "task %s is %s, not completed", old.ID, old.Status)
	}
	t := old.clone()
	t.CameUp = &CameUp{At: c.At, Hostname: b.Hostname, IP: b.IP}
	t.log(c.At, "the installed system came up from its own disk as "+quoteOrNone(b.Hostname))
	s.putTask(t, EventStatus)
	if m := s.machines[t.MachineID]; m != nil && m.Installed != nil && m.Installed.TaskID == t.ID {
		changed := *m
		in := *m.Installed
		in.CameUp = c.At
		changed.Installed = &in
		s.putMachine(&changed, EventMachine)
	}
	return t, nil
}

func (b CancelTask) apply(s *State, c Command) (any, error) {
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if t.Status == wire.StatusCancelled {
		return t, nil
	}
	if !t.Open() {
		return nil, refuse(Conflict, "task %s is %s already", t.ID, t.Status)
	}
	text := "cancelled by " + b.By
	if t.Status == wire.StatusInstalling {
		text += " while the disk was being written; the disk does not boot"
	}
	t.Status = wire.StatusCancelled
	t.FinishedAt = c.At
	t.log(c.At, text)
	s.putTask(t, EventStatus)
	return t, nil
}

func (b RetryTask) apply(s *State, c Command) (any, error) {
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if t.Open() || t.Status == wire.StatusCompleted {
		return nil, refuse(Conflict, "task %s is %s: only an ended task that did not complete can be retried", t.ID, t.Status)
	}
	if open := s.TaskForMAC(t.TargetMAC); open != nil {
		return nil, refuse(Conflict, "machine %s already has open task %s", t.TargetMAC, open.ID)
	}
	t.Generation++
	t.PhoneToken = b.PhoneToken
	t.Approval, t.Error, t.Progress, t.CameUp = nil, nil, nil, nil
	t.Plan, t.PlanHash, t.Problem, t.InstallBootID = nil, "", "", ""
	t.StartedAt, t.FinishedAt = time.Time{}, time.Time{}
	t.log(c.At, "tried again by "+b.By)
	if m := s.attach(t); m != nil {
		s.putMachine(m, EventMachine)
	}
	s.putTask(t, EventStatus)
	return t, nil
}

func (b DeleteTask) apply(s *State, c Command) (any, error) {
	t := s.tasks[b.TaskID]
	if t == nil {
		return nil, refuse(NotFound, "there is no task %s", b.TaskID)
	}
	if t.Status == wire.StatusInstalling || t.Status == wire.StatusApproved {
		return nil, refuse(Conflict, "task %s is %s; cancel it before you delete it", t.ID, t.Status)
	}
	delete(s.tasks, t.ID)
	delete(s.byToken, t.PhoneToken)
	if s.byTarget[t.TargetMAC] == t.ID {
		delete(s.byTarget, t.TargetMAC)
	}
	s.events = append(s.events, Event{Type: EventTaskDeleted, TaskID: t.ID, MachineID: t.MachineID})
	if m := s.machines[t.MachineID]; m != nil && m.TaskID == t.ID {
		changed := *m
		changed.TaskID = ""
		s.putMachine(&changed, EventMachine)
	}
	return nil, nil
}
