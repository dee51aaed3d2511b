package agentserver

import (
	"context"
	"net"
	"net/http"
	"net/url"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	var req wire.StatusRequest
	if !s.read(w, r, maxSmall, &req) {
		return
	}
	t, ok := s.task(w, r, req.TaskID, func(*fleet.Task) bool { return true })
	if !ok {
		return
	}
	var err error
	switch req.Status {
	case wire.StatusInstalling:
		// Never on this node's word alone, also not again: only the log knows who
		// has won.
		_, err = s.cfg.Cluster.Propose(r.Context(), fleet.StartInstall{TaskID: t.ID, Generation: req.Generation, PlanHash: req.PlanHash, SessionHash: sessionOf(r), Epoch: req.Epoch})
	case wire.StatusCompleted:
		err = s.finish(r.Context(), t, fleet.FinishInstall{TaskID: t.ID, Generation: req.Generation, SessionHash: sessionOf(r)}, req)
	case wire.StatusFailed:
		if req.Error == nil {
			problem(w, http.StatusBadRequest, "error: a failure needs its reason")
			return
		}
		cleanError(req.Error)
		err = s.finish(r.Context(), t, fleet.FinishInstall{TaskID: t.ID, Generation: req.Generation, SessionHash: sessionOf(r), Error: req.Error}, req)
	default:
		problem(w, http.StatusBadRequest, "status: an agent says installing, completed or failed, not %.20q", req.Status)
		return
	}
	if err != nil {
		s.refused(w, r, "status "+string(req.Status), t.ID, err)
		return
	}
	if req.Status == wire.StatusInstalling { // what failed for an earlier try may be mended
		s.cfg.Scheduler.Forget(t.ID)
	}
	s.log.Info("task moved", "task", t.ID, "status", req.Status)
	w.WriteHeader(http.StatusNoContent)
}

// finish ends an install: in the log if it can be or, once the agent has asked
// everybody else, kept here until it can.
func (s *Server) finish(ctx context.Context, t *fleet.Task, end fleet.FinishInstall, req wire.StatusRequest) error {
	words := []fleet.Body{end}
	if p := req.Progress; p != nil && end.Error == nil && (t.Progress == nil || t.Progress.Stage != p.Stage) {
		// The rule takes no end of an install that is not known to have come to its
		// last stage. Another node may have been told, which is gone by now or could
		// not write it down.
		p.Message = cleanString(p.Message)
		words = []fleet.Body{fleet.Advance{Items: []fleet.AdvanceItem{{TaskID: end.TaskID, Generation: end.Generation, Progress: *p}}}, end}
	}
	err := each(words, func(b fleet.Body) error {
		_, err := s.cfg.Cluster.Propose(ctx, b)
		return err
	})
	if !req.Keep || !notReady(err) {
		return err
	}
	s.log.Warn("an install has ended while the other nodes cannot be reached; they are told later", "task", end.TaskID)
	return each(words, s.cfg.Cluster.Defer)
}

// each does something with one after the other until it fails.
func each(bodies []fleet.Body, do func(fleet.Body) error) error {
	for _, b := range bodies {
		if err := do(b); err != nil {
			return err
		}
	}
	return nil
}

// progress takes a percentage. A new stage is a decision and goes through the
// log at once; everything else takes the fast path, and so does a stage while no
// majority is in reach: an install that was allowed to begin goes on.
func (s *Server) progress(w http.ResponseWriter, r *http.Request) {
	var req wire.ProgressRequest
	if !s.read(w, r, maxSmall, &req) {
		return
	}
	t, ok := s.task(w, r, req.TaskID, func(t *fleet.Task) bool {
		return t.Status == wire.StatusInstalling && t.Generation == req.Generation
	})
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
		if _, err := s.cfg.Cluster.Propose(r.Context(), fleet.Advance{Items: []fleet.AdvanceItem{item}}); err != nil && !notReady(err) {
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
	t, ok := s.task(w, r, req.TaskID, func(t *fleet.Task) bool {
		return t.Status == wire.StatusInstalling && t.Plan != nil && t.Plan.Image.Digest == req.Image
	})
	if !ok {
		return
	}
	if t.Status != wire.StatusInstalling || t.Plan == nil || t.Plan.Image.Digest != req.Image {
		problem(w, http.StatusConflict, "task %s is %s and asks for no chunks of this image", t.ID, t.Status)
		return
	}
	res, err := s.cfg.Scheduler.Next(r.Context(), wire.PlainURL(baseURL(r)), req)
	if err != nil {
		s.refused(w, r, "next chunk", t.ID, err)
		return
	}
	answer(w, res)
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
	token := r.PathValue("token")
	var waiting *fleet.Task
	var booted *fleet.Machine // or what a profile has installed
	err := s.sure(r.Context(), func(st *fleet.State) bool {
		waiting, booted = st.TaskByPhoneToken(token), st.MachineByBoot(token)
		return waiting != nil || booted != nil
	})
	if err == nil && waiting == nil && booted == nil { // guessing costs no entry in the log
		problem(w, http.StatusNotFound, "nobody waits for this report")
		return
	}
	if err != nil {
		s.refused(w, r, "up", ip, err)
		return
	}
	word := fleet.ReportUp{PhoneToken: token, Hostname: hostname, IP: ip}
	res, err := s.cfg.Cluster.Propose(r.Context(), word)
	// It has happened and is told later, like the end of its install before it.
	if waiting != nil {
		if _, kept := s.cfg.Cluster.DeferredFor(waiting.ID); notReady(err) || kept && fleet.ErrorCode(err) == fleet.Conflict {
			err = s.cfg.Cluster.Defer(word)
		}
	} else if notReady(err) {
		err = s.cfg.Cluster.Defer(word)
	}
	if err != nil {
		s.refused(w, r, "up", ip, err)
		return
	}
	if t, ok := res.(*fleet.Task); ok && t.CameUp != nil {
		s.contacts.touch(t.MachineID, s.cfg.Now())
		s.log.Info("installed system came up", "task", t.ID, "hostname", hostname, "ip", ip)
	}
	if booted != nil {
		s.log.Info("what a profile started has reported", "machine", booted.Name, "profile", booted.LastBoot.Profile, "hostname", hostname, "ip", ip)
	}
	w.WriteHeader(http.StatusNoContent)
}
