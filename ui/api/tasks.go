package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// Wish is what a person asks for: the body of POST /tasks and POST /plan.
type Wish struct {
	RegionID      string               `json:"region_id,omitempty" maxLength:"64" doc:"The machine's, or else this node's, if not given"`
	TargetMAC     string               `json:"target_mac,omitempty" maxLength:"17" doc:"The machine's MAC, or give machine_id"`
	MachineID     string               `json:"machine_id,omitempty" maxLength:"64"`
	OSType        string               `json:"os_type" maxLength:"64" example:"debian"`
	OSVersion     string               `json:"os_version,omitempty" maxLength:"64" example:"12"`
	DiskLayout    *fleet.DiskLayout    `json:"disk_layout,omitempty"`
	NetworkConfig *fleet.NetworkConfig `json:"network_config,omitempty"`
	UserData      string               `json:"user_data,omitempty" doc:"cloud-init user-data; 64 KiB at most"`
	Tags          map[string]string    `json:"tags,omitempty" maxProperties:"64"`
	Approve       *WishApproval        `json:"approve,omitempty" doc:"Make and approve in one step; if the plan is another, nothing is made"`
}

// WishApproval approves the plan that POST /plan has shown.
type WishApproval struct {
	PlanHash      string `json:"plan_hash,omitempty" maxLength:"64" doc:"Of the plan that was seen; needed"`
	ConfirmSerial string `json:"confirm_serial,omitempty" maxLength:"128" doc:"The last 4 characters of the plan's confirm, if it has one"`
	Notes         string `json:"notes,omitempty" maxLength:"4096"`
}

// Decision is the body of PUT /tasks/{id}/approve.
type Decision struct {
	Approved bool   `json:"approved"`
	Notes    string `json:"notes,omitempty" maxLength:"4096"`
	PlanHash string `json:"plan_hash,omitempty" maxLength:"64" doc:"The task's plan_hash as it was seen; needed to approve"`
	// ConfirmSerial shows that the person knows which disk dies.
	ConfirmSerial string `json:"confirm_serial,omitempty" maxLength:"128" doc:"The last 4 characters of the task's confirm, if it has one; needed to approve"`
}

// Preview is what a wish would do, with nothing made.
type Preview struct {
	Plan     *wire.Plan `json:"plan"`
	PlanHash string     `json:"plan_hash"`
	Problem  string     `json:"problem" doc:"Why there is no plan"`
	Confirm  string     `json:"confirm" doc:"The serial whose last 4 characters an approval has to give; empty when nothing would be lost"`
}

// TaskPage is a part of the list of tasks, newest first.
type TaskPage struct {
	Tasks      []Task `json:"tasks"`
	NextCursor string `json:"next_cursor,omitempty" doc:"Give it as cursor for the next page; absent on the last"`
}

type taskID struct {
	ID string `path:"id" maxLength:"64"`
}

type taskOut struct {
	ETag string `header:"ETag"`
	Body Task
}

type nothing struct{}

type listTasksIn struct {
	Status    string `query:"status" enum:"pending,ready,booting,pending_approval,needs_review,approved,installing,completed,failed,rejected,cancelled,interrupted"`
	RegionID  string `query:"region_id" maxLength:"64"`
	MachineID string `query:"machine_id" maxLength:"64"`
	Limit     int    `query:"limit" minimum:"1" maximum:"1000" default:"200"`
	Cursor    string `query:"cursor" maxLength:"64"`
}

type wishIn struct{ Body Wish }

type decideIn struct {
	ID      string `path:"id" maxLength:"64"`
	IfMatch string `header:"If-Match" maxLength:"128" doc:"The ETag of the task as it was seen"`
	Body    Decision
}

func (s *Server) taskRoutes() {
	route(s, http.MethodGet, "/tasks", 200, door.Viewer, "List tasks, newest first", s.listTasks)
	route(s, http.MethodPost, "/tasks", 201, door.Operator, "Make a task, approved too if asked", s.createTask)
	route(s, http.MethodGet, "/tasks/{id}", 200, door.Viewer, "One task", s.getTask)
	route(s, http.MethodDelete, "/tasks/{id}", 204, door.Operator, "Forget a task", s.deleteTask)
	route(s, http.MethodPut, "/tasks/{id}/approve", 200, door.Operator, "Approve or reject what a task would erase", s.decideTask)
	route(s, http.MethodPost, "/tasks/{id}/cancel", 200, door.Operator, "Stop a task", s.cancelTask)
	route(s, http.MethodPost, "/tasks/{id}/retry", 200, door.Operator, "Start an ended task anew", s.retryTask)
	route(s, http.MethodPost, "/plan", 200, door.Operator, "What a task would erase and write, making nothing", s.preview)
}

func (s *Server) listTasks(_ context.Context, in *listTasksIn) (*struct{ Body TaskPage }, error) {
	var found fleet.TaskPage
	machines := map[string]*fleet.Machine{}
	s.cfg.Cluster.View(func(st *fleet.State) {
		found = st.TaskPage(fleet.TaskQuery{Status: wire.Status(in.Status), RegionID: in.RegionID, MachineID: in.MachineID, Before: in.Cursor, Limit: in.Limit})
		for _, id := range found.MachineIDs() {
			machines[id] = st.Machine(id)
		}
	})
	page, lens := TaskPage{Tasks: []Task{}}, s.Lens()
	for _, t := range found.Tasks() {
		page.Tasks = append(page.Tasks, lens.Task(t, machines[t.MachineID]))
	}
	if found.More {
		page.NextCursor = page.Tasks[len(page.Tasks)-1].ID
	}
	return &struct{ Body TaskPage }{page}, nil
}

func (s *Server) getTask(ctx context.Context, in *taskID) (*taskOut, error) {
	out := s.showTask(in.ID)
	if out == nil {
		return nil, noTask(in.ID)
	}
	if !door.Operator.Met(door.CallerOf(ctx)) {
		out.Body.UserData = "" // passwords and keys are found in it
	}
	return out, nil
}

// showTask is the task as it is now, or nil.
func (s *Server) showTask(id string) *taskOut {
	var t *fleet.Task
	var m *fleet.Machine
	s.cfg.Cluster.View(func(st *fleet.State) {
		if t = st.Task(id); t != nil {
			m = st.Machine(t.MachineID)
		}
	})
	if t == nil {
		return nil
	}
	return &taskOut{ETag: etag(t), Body: s.Lens().FullTask(t, m)}
}

// etag changes with whatever an approval binds.
func etag(t *fleet.Task) string {
	hash := t.PlanHash
	if hash == "" {
		hash = "none"
	}
	return fmt.Sprintf(`"%d-%s"`, t.Generation, hash)
}

func noTask(id string) *Problem {
	return NewProblem(http.StatusNotFound, "there is no task "+clip(id))
}

func (s *Server) createTask(ctx context.Context, in *wishIn) (*taskOut, error) {
	m, mac, region, err := s.target(in.Body)
	if err != nil {
		return nil, err
	}
	cmd := fleet.CreateTask{ID: s.cfg.NewID(), RegionID: region, TargetMAC: mac, Spec: in.Body.spec(), PhoneToken: s.cfg.NewToken()}
	if a := in.Body.Approve; a != nil {
		if err := checkWord(a.PlanHash); err != nil {
			return nil, err
		}
		cmd.Approve = &fleet.Decision{PlanHash: a.PlanHash, Notes: a.Notes, By: who(ctx), ConfirmSerial: a.ConfirmSerial, CheckSerial: true}
	}
	_, err = s.cfg.Cluster.Propose(ctx, cmd)
	if fleet.ErrorCode(err) == fleet.Precondition {
		// Why there is no plan now, if there is none, the refusal says already.
		now, _ := s.planFor(m, mac, in.Body)
		return nil, s.stale(err, cmd.Approve.PlanHash, now.Plan)
	}
	return s.result(cmd.ID, err)
}

// result is the task after a command, or the command's refusal.
func (s *Server) result(id string, err error) (*taskOut, error) {
	if err != nil {
		return nil, err
	}
	out := s.showTask(id)
	if out == nil {
		return nil, NewProblem(http.StatusNotFound, "task "+clip(id)+" was deleted in the same moment")
	}
	return out, nil
}

// stale adds to a refusal what is different from the plan that was seen.
func (s *Server) stale(err error, seen string, now *wire.Plan) *Problem {
	p := s.problem(err)
	if old := s.plans.find(seen); old != nil && now != nil {
		if changed := fleet.PlanChanges(old, now); len(changed) > 0 {
			p.Changed = changed
		}
	}
	return p
}

// target finds the machine a wish is for. The machine is nil if only its MAC is
// known so far.
func (s *Server) target(w Wish) (m *fleet.Machine, mac, region string, err error) {
	if err := w.check(); err != nil {
		return nil, "", "", err
	}
	mac, region = strings.ToLower(w.TargetMAC), w.RegionID
	s.cfg.Cluster.View(func(st *fleet.State) {
		switch {
		case w.MachineID != "":
			if m = st.Machine(w.MachineID); m == nil {
				err = NewProblem(http.StatusNotFound, "there is no machine "+clip(w.MachineID))
			} else if other := st.MachineByMAC(mac); mac != "" && other != m {
				err = fieldProblem("target_mac", "MAC "+clip(mac)+" is not one of machine "+m.Name)
			}
		case mac != "":
			m = st.MachineByMAC(mac)
		default:
			err = fieldProblem("target_mac", "say for which machine: target_mac or machine_id")
		}
	})
	if err != nil {
		return nil, "", "", err
	}
	if m != nil && mac == "" {
		if mac = m.AgentMAC; mac == "" && len(m.IDs.MACs) > 0 {
			mac = m.IDs.MACs[0]
		}
	}
	if region == "" && m != nil {
		region = m.RegionID
	}
	if region == "" {
		region = s.cfg.Region
	}
	return m, mac, region, nil
}

// check refuses what no task could use, and what would make the log large: a task
// is kept, and sent to every viewer. The rules refuse the rest.
func (w Wish) check() error {
	if !printable(w.RegionID, 64) {
		return fieldProblem("region_id", "region_id has characters that cannot be shown")
	}
	for k, v := range w.Tags {
		if k == "" || !printable(k, 64) || !printable(v, 256) {
			return fieldProblem("tags", fmt.Sprintf("tag %.64q: names have 64 bytes at most and values 256, of what can be shown", k))
		}
	}
	if w.DiskLayout != nil && !printable(w.DiskLayout.Disk, 256) {
		return fieldProblem("disk_layout.disk", "disk has to be the serial number or WWN of a disk")
	}
	if w.NetworkConfig != nil && len(w.NetworkConfig.SSHKeys) > 100 {
		return fieldProblem("network_config.ssh_keys", fmt.Sprintf("%d keys; 100 at most", len(w.NetworkConfig.SSHKeys)))
	}
	return nil
}

// printable reports whether s is short enough and has nothing in it that steers a
// screen or a terminal.
func printable(s string, most int) bool {
	return len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

func fieldProblem(field, message string) *Problem {
	p := NewProblem(http.StatusBadRequest, message)
	p.Errors = []FieldError{{Location: strings.TrimSuffix("body."+field, "."), Message: message}}
	return p
}

func (w Wish) spec() fleet.Spec {
	sp := fleet.Spec{OSType: w.OSType, OSVersion: w.OSVersion, UserData: w.UserData, Tags: w.Tags}
	if w.DiskLayout != nil {
		sp.DiskLayout = *w.DiskLayout
	}
	if w.NetworkConfig != nil {
		sp.NetworkConfig = *w.NetworkConfig
	}
	return sp
}

func (s *Server) preview(_ context.Context, in *wishIn) (*struct{ Body Preview }, error) {
	m, mac, _, err := s.target(in.Body)
	if err != nil {
		return nil, err
	}
	p, err := s.planFor(m, mac, in.Body)
	if err != nil {
		return nil, err
	}
	return &struct{ Body Preview }{p}, nil
}

// planFor works out what a wish would do: the plan, or why there is none. The
// error is a wish that no machine could fulfil.
func (s *Server) planFor(m *fleet.Machine, mac string, w Wish) (Preview, error) {
	spec := w.spec()
	var img *fleet.Image
	var err error
	s.cfg.Cluster.View(func(st *fleet.State) {
		err = st.CheckTask(mac, spec) // what making the task would be refused for
		img = st.Image(spec.ImageName())
	})
	var plan wire.Plan
	switch {
	case err != nil:
	case m == nil:
		return Preview{Problem: "machine " + mac + " has not been seen yet; the plan is made when it has netbooted"}, nil
	default:
		plan, err = fleet.MakePlan(m, spec, img)
	}
	switch {
	case fleet.ErrorCode(err) == fleet.Invalid:
		return Preview{}, err
	case err != nil:
		return Preview{Problem: err.Error()}, nil
	}
	p := Preview{Plan: &plan, PlanHash: plan.Hash(), Confirm: fleet.Confirm(&plan)}
	s.plans.remember(p.PlanHash, p.Plan)
	return p, nil
}

func (s *Server) decideTask(ctx context.Context, in *decideIn) (*taskOut, error) {
	if in.IfMatch != "" && in.IfMatch != "*" {
		if err := s.checkMatch(in); err != nil {
			return nil, err
		}
	}
	if in.Body.Approved {
		if err := checkWord(in.Body.PlanHash); err != nil {
			return nil, err
		}
	}
	_, err := s.cfg.Cluster.Propose(ctx, fleet.DecideTask{TaskID: in.ID, Approved: in.Body.Approved,
		PlanHash: in.Body.PlanHash, Notes: in.Body.Notes, By: who(ctx), ConfirmSerial: in.Body.ConfirmSerial, CheckSerial: true})
	if fleet.ErrorCode(err) == fleet.Precondition {
		return nil, s.stale(err, in.Body.PlanHash, s.planOf(in.ID))
	}
	return s.result(in.ID, err)
}

// checkMatch refuses a decision on another task than was seen. What decides in
// the end is the plan's hash, which the rule compares inside the command.
func (s *Server) checkMatch(in *decideIn) error {
	var now string
	s.cfg.Cluster.View(func(st *fleet.State) {
		if t := st.Task(in.ID); t != nil {
			now = etag(t)
		}
	})
	switch now {
	case "":
		return noTask(in.ID)
	case in.IfMatch:
		return nil
	}
	return s.stale(&fleet.Error{Code: fleet.Precondition, Message: "task " + in.ID + " is not as you saw it; look at it again",
		Changed: []string{"its ETag is " + now}}, in.Body.PlanHash, s.planOf(in.ID))
}

func (s *Server) planOf(id string) (p *wire.Plan) {
	s.cfg.Cluster.View(func(st *fleet.State) {
		if t := st.Task(id); t != nil {
			p = t.Plan
		}
	})
	return p
}

func (s *Server) cancelTask(ctx context.Context, in *taskID) (*taskOut, error) {
	_, err := s.cfg.Cluster.Propose(ctx, fleet.CancelTask{TaskID: in.ID, By: who(ctx)})
	return s.result(in.ID, err)
}

func (s *Server) retryTask(ctx context.Context, in *taskID) (*taskOut, error) {
	_, err := s.cfg.Cluster.Propose(ctx, fleet.RetryTask{TaskID: in.ID, By: who(ctx), PhoneToken: s.cfg.NewToken()})
	return s.result(in.ID, err)
}

func (s *Server) deleteTask(ctx context.Context, in *taskID) (*nothing, error) {
	_, err := s.cfg.Cluster.Propose(ctx, fleet.DeleteTask{TaskID: in.ID})
	return nil, err
}
