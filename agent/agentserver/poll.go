package agentserver

import (
	"fmt"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// approval is the long poll of a waiting agent.
func (s *Server) approval(w http.ResponseWriter, r *http.Request) {
	mac, session := r.PathValue("mac"), sessionOf(r)
	deadline := time.NewTimer(s.cfg.PollHold)
	defer deadline.Stop()
	for {
		var m *fleet.Machine
		err := s.sure(r.Context(), func(st *fleet.State) bool {
			m = st.MachineBySession(session)
			return m != nil
		})
		if err != nil {
			s.tell(w, r, elsewhere())
			return
		}
		if m == nil || !hasMAC(m, mac) {
			s.tell(w, r, wire.ApprovalResponse{Verdict: wire.VerdictReport, Reason: "the node does not know this boot"})
			return
		}
		s.contacts.touch(m.ID, s.cfg.Now())
		woken := s.waiters.wait(m.ID) // before looking, so that nothing is missed
		res, until := s.verdict(mac, session, r)
		if res.Verdict == wire.VerdictWait && s.isCutOff(r.Context()) {
			res = elsewhere()
		}
		if res.Verdict != wire.VerdictWait || res.Elsewhere {
			s.waiters.leave(m.ID, woken)
			res, ok := s.settle(r, m, mac, session, res)
			if !ok {
				continue
			}
			s.tell(w, r, res)
			return
		}
		release := time.NewTimer(until)
		select {
		case <-woken:
			release.Stop()
			continue
		case <-release.C:
			s.waiters.leave(m.ID, woken)
			continue
		case <-deadline.C:
		case <-r.Context().Done():
		}
		release.Stop()
		s.waiters.leave(m.ID, woken)
		s.tell(w, r, res)
		return
	}
}

// tell answers a poll. What is not an order names the nodes to turn to.
func (s *Server) tell(w http.ResponseWriter, r *http.Request, res wire.ApprovalResponse) {
	res.Nodes = s.nodes(r)
	answer(w, res)
}

// elsewhere sends an agent on to a node that may know more.
func elsewhere() wire.ApprovalResponse {
	return wire.ApprovalResponse{Verdict: wire.VerdictWait, Reason: cutOff, Elsewhere: true}
}

// settle does what has to be done before a verdict may leave. It is false when
// the verdict does not hold any more and has to be found anew.
func (s *Server) settle(r *http.Request, m *fleet.Machine, mac, session string, res wire.ApprovalResponse) (wire.ApprovalResponse, bool) {
	switch {
	case res.Verdict == wire.VerdictInstall:
		// The permission to erase is given by a node that has heard the last word:
		// somebody may have cancelled it elsewhere.
		if s.verify(r.Context()) != nil {
			return elsewhere(), true
		}
		again, _ := s.verdict(mac, session, r)
		return again, again.Verdict == wire.VerdictInstall
	case res.Verdict == wire.VerdictReboot && !m.AgentDone:
		leave := fleet.LeaveAgent{SessionHash: session}
		_, err := s.cfg.Cluster.Propose(r.Context(), leave)
		if notReady(err) {
			err = s.cfg.Cluster.Defer(leave)
		}
		// The machine boots its own disk whether or not that can be written down:
		// all that is lost by it is that a task for it looks as if it could begin.
		if err != nil {
			s.log.Warn("it could not be kept that an agent leaves", "machine", m.Name, "reason", err)
		}
	}
	return res, true
}

// verdict says what the agent is to do now; with a wait, how long this holds at most.
func (s *Server) verdict(mac, session string, r *http.Request) (wire.ApprovalResponse, time.Duration) {
	var m *fleet.Machine
	var t *fleet.Task
	var boot fleet.BootDecision
	var cluster fleet.Cluster
	s.cfg.Cluster.View(func(st *fleet.State) {
		if m = st.MachineBySession(session); m != nil {
			t, boot = st.Task(m.TaskID), st.BootAt(mac, s.cfg.Now())
		}
		if c := st.Cluster(); c != nil {
			cluster = *c
		}
	})
	const long = time.Hour
	wait := func(format string, args ...any) (wire.ApprovalResponse, time.Duration) {
		return wire.ApprovalResponse{Verdict: wire.VerdictWait, Reason: fmt.Sprintf(format, args...)}, long
	}
	if t != nil && t.Status == wire.StatusInstalling {
		if end, kept := s.cfg.Cluster.DeferredFor(t.ID); kept && end.Generation == t.Generation {
			if end.Error != nil {
				return wait("task %s failed (%s); that is told to the other nodes when they can be reached", t.ID, end.Error.Message)
			}
			return wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: "the disk is written; that is told to the other nodes when they can be reached"}, long
		}
	}
	switch {
	case m == nil:
		return wire.ApprovalResponse{Verdict: wire.VerdictReport, Reason: "the node does not know this boot"}, long
	case t != nil && (t.Status == wire.StatusApproved || t.Status == wire.StatusInstalling && t.InstallBootID == m.BootID):
		if now := s.cfg.Now(); t.Lapsed(now) {
			return wait("the approval of task %s ended at %s; approve it again at %s", t.ID, t.Approval.Ends().UTC().Format("15:04 UTC"), s.cfg.Dashboard)
		}
		signed, err := s.cfg.Sign(s.grant(r, m, t, cluster))
		if err != nil {
			s.log.Error("a grant cannot be signed", "task", t.ID, "machine", m.Name, "err", err)
			res, _ := wait("task %s is approved, but this node cannot sign the grant for it: its log says why", t.ID)
			return res, signAgain
		}
		return wire.ApprovalResponse{Verdict: wire.VerdictInstall, Reason: "approved by " + t.Approval.By, SignedGrant: &signed}, long
	case t != nil && t.Status == wire.StatusNeedsReview:
		return wait("task %s needs review, nothing is written: %s; look at it at %s", t.ID, t.Review, s.cfg.Dashboard)
	case t != nil && t.Open() && t.Problem != "":
		return wait("task %s cannot go on: %s", t.ID, t.Problem)
	case t != nil && t.Open():
		return wait("nobody has approved task %s yet; approve it at %s", t.ID, s.cfg.Dashboard)
	case boot.Action == fleet.BootOnce:
		return wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: "it is to boot profile " + boot.Once.Profile + ", " + boot.Reason}, long
	case m.NextBoot != nil && m.NextBoot.Agent() && boot.Action == fleet.BootAgent,
		m.NextBoot != nil && m.NextBoot.Approval != nil && !m.NextBoot.Ready(s.cfg.Now()) && boot.Action == fleet.BootAgent:
		// It was asked for, or what may be erased was approved, after it had looked.
		return wire.ApprovalResponse{Verdict: wire.VerdictReport, Reason: boot.Reason}, long
	case boot.Action == fleet.BootLocal && t != nil && t.Error != nil:
		// Nothing was written, or it would not boot its disk. People get the time to
		// retry that anybody gets to ask for something.
		left := t.FinishedAt.Add(s.cfg.ReleaseAfter).Sub(s.cfg.Now())
		if left <= 0 {
			return wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: boot.Reason}, long
		}
		res, _ := wait("task %s failed (%s); the machine boots its own disk in %s unless it is retried at %s",
			t.ID, t.Error.Message, left.Round(time.Second), s.cfg.Dashboard)
		return res, left
	case boot.Action == fleet.BootLocal && (m.Installed != nil || t != nil):
		return wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: boot.Reason}, long
	case boot.Action == fleet.BootLocal:
		left := m.ReportedAt.Add(s.cfg.ReleaseAfter).Sub(s.cfg.Now())
		if left <= 0 {
			return wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: "nothing was asked of this machine"}, long
		}
		res, _ := wait("nothing is asked of this machine; it boots its own disk in %s unless an image is chosen at %s",
			left.Round(time.Second), s.cfg.Dashboard)
		return res, left
	case t != nil && t.Error != nil:
		return wait("task %s failed (%s); retry it at %s", t.ID, t.Error.Message, s.cfg.Dashboard)
	case t != nil:
		return wait("task %s was %s; retry it at %s", t.ID, t.Status, s.cfg.Dashboard)
	}
	return wait("nothing is asked of this machine; choose an image for it at %s", s.cfg.Dashboard)
}

// signAgain is how long a grant that could not be signed is waited with.
const signAgain = 2 * time.Second

// grant is the permission that follows from a task's approval, given now.
func (s *Server) grant(r *http.Request, m *fleet.Machine, t *fleet.Task, c fleet.Cluster) wire.Grant {
	g := wire.Grant{TaskID: t.ID, Generation: t.Generation, Plan: *t.Plan, PlanHash: t.PlanHash,
		Cluster: c.ID, Epoch: c.Epoch, MachineID: m.ID, InventoryHash: t.Plan.InventoryHash,
		Issued: s.cfg.Now().Unix(), Lifetime: int64(wire.GrantLife / time.Second),
		PhoneHome: wire.PlainURL(baseURL(r)) + "/up/" + t.PhoneToken}
	for i, node := range s.nodes(r) {
		if i > 0 {
			g.PhoneAlso = append(g.PhoneAlso, wire.PlainURL(node)+"/up/"+t.PhoneToken)
		}
	}
	return g
}
