package agentserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/oklog/ulid/v2"
)

// Limits on what an agent may send, in bytes.
const (
	maxReport = 256 << 10
	maxSmall  = 64 << 10
)

// Cluster is what the agents' decisions are committed to.
type Cluster interface {
	Propose(ctx context.Context, body fleet.Body) (any, error)
	View(func(*fleet.State))
	Progress(taskID string, generation uint64, p wire.Progress)
	Latest(taskID string) (wire.Progress, bool)
}

// Scheduler says where the chunks an agent needs can be had.
type Scheduler interface {
	Next(ctx context.Context, baseURL string, req wire.NextRequest) (wire.NextResponse, error)
	// Forget drops what is remembered of a task's failures.
	Forget(taskID string)
}

// Config of a Server.
type Config struct {
	Cluster   Cluster
	Scheduler Scheduler
	Region    string
	// Dashboard is the address people are sent to by the machine's console.
	Dashboard string
	// ReleaseAfter is how long a machine that has something on its disks and
	// nothing asked of it is kept in the agent before it boots its own disk.
	ReleaseAfter time.Duration
	// PollHold is how long a long poll is held, 25 s if zero.
	PollHold time.Duration
	// BodyTime is how long the body of a request may take to arrive, 20 s if zero.
	BodyTime time.Duration
	Now      func() time.Time
	Logger   *slog.Logger
}

// Server answers agents.
type Server struct {
	cfg      Config
	log      *slog.Logger
	waiters  waiters
	contacts contacts
	consoles consoles
}

// New makes a Server. Notify has to be called with the events of the feed.
func New(cfg Config) *Server {
	if cfg.PollHold == 0 {
		cfg.PollHold = 25 * time.Second
	}
	if cfg.BodyTime == 0 {
		cfg.BodyTime = 20 * time.Second
	}
	return &Server{cfg: cfg, log: cfg.Logger}
}

// Handler serves /api/v1/agent/ and /up/ on the provisioning side.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/agent/report", s.report)
	mux.HandleFunc("GET /api/v1/agent/approval/{mac}", s.approval)
	mux.HandleFunc("POST /api/v1/agent/status", s.status)
	mux.HandleFunc("POST /api/v1/agent/progress", s.progress)
	mux.HandleFunc("POST /api/v1/agent/next", s.next)
	mux.HandleFunc("POST /api/v1/agent/log", s.console)
	mux.HandleFunc("POST /up/{token}", s.up)
	return mux
}

// LastContact is when the agent of a machine last said anything to this node;
// zero if it never did.
func (s *Server) LastContact(machineID string) time.Time { return s.contacts.last(machineID) }

// Console is what the agent of a machine last printed, oldest first.
func (s *Server) Console(machineID string) []string { return s.consoles.lines(machineID) }

// Notify wakes the long polls that wait for what the events tell. It is cheap
// and may be told too much.
func (s *Server) Notify(events []fleet.Event) {
	for _, e := range events {
		if e.MachineID != "" && e.Type != fleet.EventProgress {
			s.waiters.wake(e.MachineID)
		}
	}
}

func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	var req wire.ReportRequest
	if !s.read(w, r, maxReport, &req) {
		return
	}
	mac, err := net.ParseMAC(req.MAC)
	if err != nil || len(mac) != 6 {
		problem(w, http.StatusBadRequest, "mac: %.40q is no MAC address", req.MAC)
		return
	}
	if n := len(req.BootID); n < 8 || n > 64 {
		problem(w, http.StatusBadRequest, "boot_id: a report needs one of 8 to 64 characters")
		return
	}
	bootMAC := "" // a word of the kernel command line: one that makes no sense is left out
	if b, err := net.ParseMAC(req.BootMAC); err == nil && len(b) == 6 {
		bootMAC = b.String()
	}
	clean(&req)
	session := rand.Text() + rand.Text()
	res, err := s.cfg.Cluster.Propose(r.Context(), fleet.ReportMachine{
		NewID: "m-" + strings.ToLower(ulid.Make().String()), RegionID: s.cfg.Region,
		BootID: req.BootID, SessionHash: hash(session), MAC: mac.String(), BootMAC: bootMAC, IP: req.IP, Inventory: req.Inventory,
	})
	if err != nil {
		s.refused(w, r, "report", mac.String(), err)
		return
	}
	m := res.(*fleet.Machine)
	s.contacts.touch(m.ID, s.cfg.Now())
	s.log.Info("machine reported", "machine", m.Name, "mac", mac.String(), "ip", req.IP, "disks", len(req.Inventory.Disks))
	answer(w, wire.ReportResponse{MachineID: m.ID, Session: session})
}

// approval is the long poll of a waiting agent.
func (s *Server) approval(w http.ResponseWriter, r *http.Request) {
	mac, session := r.PathValue("mac"), sessionOf(r)
	deadline := time.NewTimer(s.cfg.PollHold)
	defer deadline.Stop()
	for {
		var m *fleet.Machine
		s.cfg.Cluster.View(func(st *fleet.State) { m = st.MachineBySession(session) })
		if m == nil || !hasMAC(m, mac) {
			answer(w, wire.ApprovalResponse{Verdict: wire.VerdictReport, Reason: "the node does not know this boot"})
			return
		}
		s.contacts.touch(m.ID, s.cfg.Now())
		woken := s.waiters.wait(m.ID) // before looking, so that nothing is missed
		res, until := s.verdict(mac, session, r)
		if res.Verdict != wire.VerdictWait {
			s.waiters.leave(m.ID, woken)
			if res.Verdict == wire.VerdictReboot && !m.AgentDone {
				if _, err := s.cfg.Cluster.Propose(r.Context(), fleet.LeaveAgent{SessionHash: session}); err != nil {
					s.refused(w, r, "leave", mac, err)
					return
				}
			}
			answer(w, res)
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
		answer(w, res)
		return
	}
}

// verdict says what the agent is to do now; with a wait, how long this holds at most.
func (s *Server) verdict(mac, session string, r *http.Request) (wire.ApprovalResponse, time.Duration) {
	var m *fleet.Machine
	var t *fleet.Task
	var boot fleet.BootDecision
	s.cfg.Cluster.View(func(st *fleet.State) {
		if m = st.MachineBySession(session); m != nil {
			t, boot = st.Task(m.TaskID), st.Boot(mac)
		}
	})
	const long = time.Hour
	wait := func(format string, args ...any) (wire.ApprovalResponse, time.Duration) {
		return wire.ApprovalResponse{Verdict: wire.VerdictWait, Reason: fmt.Sprintf(format, args...)}, long
	}
	switch {
	case m == nil:
		return wire.ApprovalResponse{Verdict: wire.VerdictReport, Reason: "the node does not know this boot"}, long
	case t != nil && (t.Status == wire.StatusApproved || t.Status == wire.StatusInstalling && t.InstallBootID == m.BootID):
		return wire.ApprovalResponse{Verdict: wire.VerdictInstall, Reason: "approved by " + t.Approval.By, Grant: &wire.Grant{
			TaskID: t.ID, Generation: t.Generation, Plan: *t.Plan, PlanHash: t.PlanHash,
			PhoneHome: baseURL(r) + "/up/" + t.PhoneToken,
		}}, long
	case t != nil && t.Open() && t.Problem != "":
		return wait("task %s cannot go on: %s", t.ID, t.Problem)
	case t != nil && t.Open():
		return wait("nobody has approved task %s yet; approve it at %s", t.ID, s.cfg.Dashboard)
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

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	var req wire.StatusRequest
	if !s.read(w, r, maxSmall, &req) {
		return
	}
	t, ok := s.task(w, r, req.TaskID)
	if !ok {
		return
	}
	var body fleet.Body
	switch req.Status {
	case wire.StatusInstalling:
		body = fleet.StartInstall{TaskID: t.ID, Generation: req.Generation, PlanHash: req.PlanHash, SessionHash: sessionOf(r)}
	case wire.StatusCompleted:
		body = fleet.FinishInstall{TaskID: t.ID, Generation: req.Generation, SessionHash: sessionOf(r)}
	case wire.StatusFailed:
		if req.Error == nil {
			problem(w, http.StatusBadRequest, "error: a failure needs its reason")
			return
		}
		cleanError(req.Error)
		body = fleet.FinishInstall{TaskID: t.ID, Generation: req.Generation, SessionHash: sessionOf(r), Error: req.Error}
	default:
		problem(w, http.StatusBadRequest, "status: an agent says installing, completed or failed, not %.20q", req.Status)
		return
	}
	if _, err := s.cfg.Cluster.Propose(r.Context(), body); err != nil {
		s.refused(w, r, "status "+string(req.Status), t.ID, err)
		return
	}
	if req.Status == wire.StatusInstalling { // what failed for an earlier try may be mended
		s.cfg.Scheduler.Forget(t.ID)
	}
	s.log.Info("task moved", "task", t.ID, "status", req.Status)
	w.WriteHeader(http.StatusNoContent)
}

// progress takes a percentage. A new stage is a decision and goes through the
// log at once; everything else takes the fast path.
func (s *Server) progress(w http.ResponseWriter, r *http.Request) {
	var req wire.ProgressRequest
	if !s.read(w, r, maxSmall, &req) {
		return
	}
	t, ok := s.task(w, r, req.TaskID)
	if !ok {
		return
	}
	if t.Status != wire.StatusInstalling || t.Generation != req.Generation {
		problem(w, http.StatusConflict, "task %s is %s in generation %d: it takes no progress for generation %d", t.ID, t.Status, t.Generation, req.Generation)
		return
	}
	req.Message = cleanString(req.Message)
	if p, ok := s.cfg.Cluster.Latest(t.ID); ok {
		newest := *t
		newest.Progress = &p
		t = &newest
	}
	switch err := fleet.CheckProgress(t, req.Progress); fleet.ErrorCode(err) {
	case "":
	case fleet.Conflict:
		// It runs backwards: a late message, or an agent that was started again
		// within its boot and goes over what is on the disk already. The most that
		// was reached stays; a refusal would tell the agent that the task is not
		// its own any more, and the install would end for nothing.
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		s.refused(w, r, "progress", t.ID, err)
		return
	}
	if t.Progress == nil || t.Progress.Stage != req.Stage {
		item := fleet.AdvanceItem{TaskID: t.ID, Generation: req.Generation, Progress: req.Progress}
		if _, err := s.cfg.Cluster.Propose(r.Context(), fleet.Advance{Items: []fleet.AdvanceItem{item}}); err != nil {
			s.refused(w, r, "progress", t.ID, err)
			return
		}
		s.log.Info("install stage", "task", t.ID, "stage", req.Stage)
	}
	s.cfg.Cluster.Progress(t.ID, req.Generation, req.Progress)
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) next(w http.ResponseWriter, r *http.Request) {
	var req wire.NextRequest
	if !s.read(w, r, maxReport, &req) {
		return
	}
	t, ok := s.task(w, r, req.TaskID)
	if !ok {
		return
	}
	if t.Status != wire.StatusInstalling || t.Plan == nil || t.Plan.Image.Digest != req.Image {
		problem(w, http.StatusConflict, "task %s is %s and asks for no chunks of this image", t.ID, t.Status)
		return
	}
	res, err := s.cfg.Scheduler.Next(r.Context(), baseURL(r), req)
	if err != nil {
		s.refused(w, r, "next chunk", t.ID, err)
		return
	}
	answer(w, res)
}

func (s *Server) console(w http.ResponseWriter, r *http.Request) {
	var req wire.LogRequest
	if !s.read(w, r, maxReport, &req) {
		return
	}
	var m *fleet.Machine
	s.cfg.Cluster.View(func(st *fleet.State) { m = st.MachineBySession(sessionOf(r)) })
	if m == nil {
		problem(w, http.StatusUnauthorized, "the node does not know this boot; report again")
		return
	}
	s.contacts.touch(m.ID, s.cfg.Now())
	s.consoles.add(m.ID, req.Lines)
	w.WriteHeader(http.StatusNoContent)
}

// up is the installed system's word from its own disk, as cloud-init's phone_home
// sends it. The token decides; the body is a courtesy.
func (s *Server) up(w http.ResponseWriter, r *http.Request) {
	hostname := ""
	if body, err := s.body(w, r, maxSmall); err == nil {
		if form, err := url.ParseQuery(string(body)); err == nil {
			hostname = form.Get("hostname")
		}
	}
	if !fleet.ValidHostname(hostname) {
		hostname = ""
	}
	ip, _, _ := net.SplitHostPort(r.RemoteAddr)
	token, known := r.PathValue("token"), false
	s.cfg.Cluster.View(func(st *fleet.State) { known = st.TaskByPhoneToken(token) != nil })
	if !known { // guessing costs no entry in the log
		problem(w, http.StatusNotFound, "nobody waits for this report")
		return
	}
	res, err := s.cfg.Cluster.Propose(r.Context(), fleet.ReportUp{PhoneToken: token, Hostname: hostname, IP: ip})
	if err != nil {
		s.refused(w, r, "up", ip, err)
		return
	}
	if t, ok := res.(*fleet.Task); ok && t.CameUp != nil {
		s.contacts.touch(t.MachineID, s.cfg.Now())
		s.log.Info("installed system came up", "task", t.ID, "hostname", hostname, "ip", ip)
	}
	w.WriteHeader(http.StatusNoContent)
}
