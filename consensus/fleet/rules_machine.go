package fleet

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func (b PutNode) apply(s *State, c Command) (any, error) {
	n := b.Node
	if n.ID == "" {
		return nil, invalid("id", "a node needs an id")
	}
	n.SeenAt = c.At
	old := s.nodes[n.ID]
	known := old != nil
	n.StandsBy = known && old.StandsBy
	s.nodes[n.ID] = &n
	s.events = append(s.events, Event{Type: EventNode, ID: n.ID, Name: n.Name, Node: &n})
	if !known {
		s.note(c, AuditRecord{Node: n.ID, What: "node " + s.nodeName(n.ID) + " came to the cluster"})
	}
	return &n, nil
}

// maxMachines bounds what a stranger on the wire can make a node keep: a report
// needs no leave from anybody. It is many times what a region has.
const maxMachines = 20_000

// apply finds which machine reports, or makes a new one. Ids that clash raise a
// question and overwrite nothing.
func (b ReportMachine) apply(s *State, c Command) (any, error) {
	ids := IDsOf(b.Inventory)
	b.MAC = strings.ToLower(b.MAC)
	b.ClaimMAC = strings.ToLower(b.ClaimMAC)
	for _, mac := range []string{b.MAC, strings.ToLower(b.BootMAC), b.ClaimMAC} {
		if mac != "" && !slices.Contains(ids.MACs, mac) {
			ids.MACs = append(ids.MACs, mac)
			slices.Sort(ids.MACs)
		}
	}
	if len(ids.MACs) == 0 {
		return nil, invalid("inventory.nics", "a report needs the MAC it came from")
	}
	if err := s.checkClaim(b, c); err != nil {
		return nil, err
	}
	known, question := s.recognise(ids, c)
	if err := s.checkRenewal(b, known); err != nil {
		return nil, err
	}
	if question == "" && known != nil && c.guarded() {
		question = doubt(known, ids, b)
	}
	if question != "" {
		for _, m := range s.machinesWith(ids) { // of two machines with one id, nobody knows which netboots next
			s.dropErasing(m, c, question)
		}
		known = s.machines[known.ID]
		if known.Dismissed == question {
			return nil, refuse(Conflict, "%s; a person has said that they are two machines: forget %s on the dashboard if that was wrong", question, known.Name)
		}
		if known.Question != question {
			m := *known
			m.Question, m.Rival = question, &ids
			s.putMachine(&m, EventMachine)
		}
		return nil, refuse(Conflict, "%s; a person has to say on the dashboard which is right", question)
	}
	m := &Machine{ID: b.NewID, FirstSeen: c.At, Name: machineName(ids)}
	if known != nil {
		copied := *known
		m = &copied
	} else if b.NewID == "" || s.machines[b.NewID] != nil {
		return nil, invalid("id", "a new machine needs a new id")
	} else if len(s.machines) >= maxMachines {
		return nil, refuse(Conflict, "%d machines are known and there is no room for another; forget those that are gone", maxMachines)
	}
	if other := s.MachineBySession(b.SessionHash); c.guarded() && other != nil && other != known {
		return nil, refuse(Conflict, "the session is machine %s's, and what was reported is another; start the machine anew", other.Name)
	}
	if other := s.MachineByFormerSession(b.SessionHash); c.guarded() && other != nil && other != known {
		return nil, refuse(Conflict, "the session was machine %s's, and what was reported is another; start the machine anew", other.Name)
	}
	inv := b.Inventory
	s.shared.inventory(&inv)
	interrupted := m.BootID != "" && m.BootID != b.BootID
	m.IDs, m.RegionID = ids, b.RegionID
	m.Inventory, m.InventoryHash = &inv, inv.Hash()
	if c.guarded() {
		m.displace(b.SessionHash)
	}
	m.BootID, m.SessionHash = b.BootID, b.SessionHash
	m.AgentMAC, m.AgentIP, m.AgentDone, m.ReportedAt = b.MAC, b.IP, false, c.At
	m.Addresses, m.ClockOff = s.keepAddress(m, b.MAC, b.IP, c.At), b.ClockOff
	m.Unseen = ""
	m.Netboots, m.Held = 0, nil // the agent starts, and says so
	s.useClaim(b, m, c)

	t := s.tasks[m.TaskID]
	if t == nil || !t.Open() {
		if waiting := s.taskWaitingFor(ids.MACs); waiting != nil {
			t = waiting
			m.TaskID = t.ID
		}
	}
	s.putMachine(m, EventHardware)
	if m.NextBoot != nil && t != nil && t.Open() {
		m = s.dropBoot(m, c, "", "it has task "+t.ID+", so it does not boot into profile "+m.NextBoot.Profile)
	}
	m = s.checkNextBoot(m, c)
	if t != nil && t.Open() {
		s.cancelRivals(t, ids.MACs, c.At)
		m = s.reportToTask(t, m, interrupted, c)
	}
	if now := s.tasks[m.TaskID]; c.guarded() && m.spared() && (now == nil || now.Status != wire.StatusInstalling) {
		m = s.spare(m, c)
	}
	return m, nil
}

// cancelRivals ends other tasks that wait for one of the MACs: they were made
// before it was known that the MACs are one machine, and a machine has one.
func (s *State) cancelRivals(of *Task, macs []string, at time.Time) {
	for _, mac := range macs {
		if rival := s.tasks[s.byTarget[mac]]; rival != nil && rival.ID != of.ID {
			t := rival.clone()
			t.Status, t.FinishedAt = wire.StatusCancelled, at
			t.log(at, mac+" is a MAC of a machine that has open task "+of.ID)
			s.putTask(t, EventStatus)
		}
	}
}

// recognise finds the known machine that the ids belong to, or the question
// they raise about it.
func (s *State) recognise(ids IDs, c Command) (*Machine, string) {
	found := s.machinesWith(ids)
	for _, m := range found {
		q := clash(m.IDs, ids)
		if q == "" && c.guarded() {
			q = missing(m.IDs, ids)
		}
		if q != "" {
			return m, q
		}
	}
	switch len(found) {
	case 0:
		return nil, ""
	case 1:
		return found[0], ""
	}
	return found[0], "a machine reported with MACs that belong to " + found[0].Name + " and to " + found[1].Name
}

// machinesWith are the known machines that have one of the ids.
func (s *State) machinesWith(ids IDs) (found []*Machine) {
	add := func(id string) {
		if m := s.machines[id]; m != nil && !slices.Contains(found, m) {
			found = append(found, m)
		}
	}
	for _, mac := range ids.MACs {
		add(s.byMAC[mac])
	}
	if ids.UUID != "" {
		add(s.byUUID[ids.UUID])
	}
	return found
}

func (s *State) taskWaitingFor(macs []string) *Task {
	for _, mac := range macs {
		if t := s.tasks[s.byTarget[mac]]; t != nil {
			return t
		}
	}
	return nil
}

// keepAddress adds the address the machine reported from to those it keeps,
// unless it is another machine's.
func (s *State) keepAddress(m *Machine, mac, ip string, at time.Time) map[string]string {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !addr.Is4() || mac == "" {
		return m.Addresses
	}
	if owner := s.byAddress[ip]; owner != "" && owner != m.ID {
		return m.Addresses
	}
	if m.Addresses[mac] == ip || m.Assigned[mac] != "" {
		// What a person has given goes before, and what it had stays its own: a node that
		// has not heard of that yet may give it to it still.
		return m.Addresses
	}
	if since, left := m.Left[ip]; left && at.Before(since.Add(leaseRest)) {
		return m.Addresses // it was taken back, and the agent has not heard of that yet
	}
	out := maps.Clone(m.Addresses)
	if out == nil {
		out = map[string]string{}
	}
	out[mac] = ip
	return out
}

// reportToTask moves the open task of a machine whose agent has just reported,
// and gives the machine as it is then.
func (s *State) reportToTask(old *Task, m *Machine, newBoot bool, c Command) *Machine {
	t, at := old.clone(), c.At
	t.MachineID, t.ReportedAt = m.ID, at
	t.Netboots, t.Held = 0, nil
	if (t.Status != wire.StatusInstalling || newBoot) && c.guarded() && t.finished(m) {
		done := *m
		t.complete(&done, wire.Progress{Stage: wire.StageConfiguring}, at)
		t.log(at, "its disk holds the finished install of this very task already; there is nothing left to do")
		s.putTask(t, EventStatus)
		s.putMachine(&done, EventMachine)
		s.noteTask(c, t, "", "its disk holds the finished install already")
		return &done
	}
	if t.Status == wire.StatusInstalling {
		if !newBoot {
			// An agent that was started again within its boot goes on. From here on
			// none of its errors proves the disk untouched, the one before it may
			// have written; unless the disk itself shows that it has not.
			t.WasUnfinished = t.WasUnfinished || !c.guarded() || !m.spared()
			t.log(at, "the agent was started again and goes on")
			s.putTask(t, EventStatus)
			return m
		}
		t.Status = wire.StatusInterrupted
		t.FinishedAt = at
		text := "the machine started anew while its disk was being written; the disk does not boot until the task is retried"
		if c.guarded() && m.spared() {
			text = "the machine started anew before its disk was written"
		}
		t.log(at, text)
		s.putTask(t, EventStatus)
		return m
	}
	before := t.Plan
	s.replan(t, m)
	if before != nil && before.Hash() != t.PlanHash {
		t.FormerPlan, t.FirstWord = before, nil
	}
	switch {
	case t.Status == wire.StatusNeedsReview: // it stays so until a person has looked
	case t.Status != wire.StatusApproved:
		if t.Status != wire.StatusPendingApproval {
			t.log(at, "the agent reported from "+m.AgentIP)
		}
		t.Status = wire.StatusPendingApproval
	case t.Approval == nil || t.PlanHash != t.Approval.PlanHash:
		text := "the approval is void, the machine has changed"
		for _, ch := range PlanChanges(before, t.Plan) {
			text += "; " + ch
		}
		if c.guarded() {
			t.needsReview(text, at)
			s.noteTask(c, t, "", "nothing is written until a person looks again: "+text)
			break
		}
		t.Status, t.Approval = wire.StatusPendingApproval, nil
		t.log(at, text)
	case c.guarded() && t.Lapsed(at):
		s.lapse(t, c)
		return m
	}
	t.UpdatedAt = at
	s.putTask(t, EventStatus)
	return m
}

// replan gives the task the plan that follows from the machine's latest report.
func (s *State) replan(t *Task, m *Machine) {
	t.Plan, t.PlanHash, t.Problem = nil, "", ""
	img := s.images[t.Spec.ImageName()]
	if img == nil {
		t.Problem = "there is no image " + t.Spec.ImageName() + " any more; import it or retry with another"
		return
	}
	p, err := MakePlan(m, t.Spec, img)
	if err != nil {
		t.Problem = err.Error()
		return
	}
	t.Plan, t.PlanHash = &p, p.Hash()
}

func (b LeaveAgent) apply(s *State, _ Command) (any, error) {
	m := s.MachineBySession(b.SessionHash)
	if m == nil || m.AgentDone {
		return m, nil
	}
	changed := *m
	changed.AgentDone = true
	s.putMachine(&changed, EventMachine)
	return &changed, nil
}

// apply gives the alarm of a doubled claim, once for a session: it is not remembered
// any more then.
func (b NoteDisplaced) apply(s *State, c Command) (any, error) {
	old := s.MachineByFormerSession(b.SessionHash)
	if old == nil {
		return old, nil
	}
	for id, used := range s.claims { // its code shown again would tell the same
		if used.SessionHash == b.SessionHash {
			u := *used
			u.Doubled = true
			s.claims[id] = &u
		}
	}
	m := *old
	s.alarm(c, &m, b.SessionHash)
	return s.machines[m.ID], nil
}

func (b ServeBoot) apply(s *State, c Command) (any, error) {
	held := c.guarded() && s.countNetboot(b.MAC, c)
	t := s.TaskForMAC(b.MAC)
	if held {
		return t, nil
	}
	if t == nil || (t.Status != wire.StatusPending && t.Status != wire.StatusReady) {
		return t, nil
	}
	t = t.clone()
	t.Status = wire.StatusBooting
	t.log(c.At, "the machine asked what to boot and was told: the agent")
	s.putTask(t, EventStatus)
	return t, nil
}

func (b SettleQuestion) apply(s *State, c Command) (any, error) {
	old := s.machines[b.MachineID]
	if old == nil {
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	}
	if old.Question == "" {
		return nil, refuse(Conflict, "machine %s has no open question", old.Name)
	}
	m := *old
	if b.Accept && m.Rival != nil {
		for _, mac := range m.Rival.MACs {
			if other := s.byMAC[mac]; other != "" && other != m.ID {
				return nil, refuse(Conflict, "MAC %s belongs to machine %s; forget that one first", mac, s.machines[other].Name)
			}
		}
		if other := s.byUUID[m.Rival.UUID]; other != "" && other != m.ID {
			return nil, refuse(Conflict, "UUID %s belongs to machine %s; forget that one first", m.Rival.UUID, s.machines[other].Name)
		}
		m.IDs = *m.Rival
	}
	m.Dismissed = ""
	if !b.Accept && b.Remember {
		m.Dismissed = m.Question
	}
	m.Question, m.Rival = "", nil
	s.putMachine(&m, EventMachine)
	s.noteMachine(c, &m, answered(b.Accept))
	return s.dropErasing(&m, c, "a person has said which of two machines it is"), nil
}

func (b DeleteMachine) apply(s *State, c Command) (any, error) {
	m := s.machines[b.MachineID]
	if m == nil {
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	}
	if t := s.tasks[m.TaskID]; t != nil && t.Open() {
		return nil, refuse(Conflict, "machine %s has open task %s; cancel it first", m.Name, t.ID)
	}
	if m.Protected {
		return nil, refuse(Conflict, "machine %s is protected and is not forgotten, nor is that it is; an admin can take the protection off: lpmos machine unprotect %s", m.Name, m.Name)
	}
	s.unindexMachine(m)
	delete(s.machines, m.ID)
	s.settle(m.TaskID)
	s.events = append(s.events, Event{Type: EventMachineDeleted, MachineID: m.ID})
	s.noteMachine(c, m, " forgot the machine")
	return nil, nil
}
