package api

import (
	"context"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// ErasePolicyWish is the body of PUT /policy.
type ErasePolicyWish struct {
	ApprovalCap           int    `json:"approval_cap" minimum:"1" maximum:"1000" doc:"How many plans may be approved in the window before a second person is asked"`
	ApprovalWindowMinutes int    `json:"approval_window_minutes" minimum:"1" maximum:"1440"`
	SecondApprover        string `json:"second_approver" enum:"cap,always,never" doc:"When a second person has to approve: beyond the cap, every plan, or never"`
}

// ErasePolicy says how much may be erased on one person's word.
type ErasePolicy struct {
	ErasePolicyWish
	By        string    `json:"by,omitempty" doc:"Who changed it last"`
	ChangedAt time.Time `json:"changed_at,omitzero"`
}

type policyOut struct{ Body ErasePolicy }

type policyIn struct{ Body ErasePolicyWish }

func (s *Server) guardRoutes() {
	route(s, http.MethodPost, "/machines/{id}/protect", 200, door.Operator, "Protect a machine: nothing is approved for it", s.protect(true))
	route(s, http.MethodPost, "/machines/{id}/unprotect", 200, door.Admin, "Take the protection off a machine", s.protect(false))
	route(s, http.MethodPost, "/machines/{id}/release", 200, door.Operator, "Let a machine that is held netboot again", s.letGo)
	route(s, http.MethodPost, "/tasks/{id}/release", 200, door.Operator, "Let the machine netboot again that a task waits for", s.releaseTask)
	route(s, http.MethodGet, "/policy", 200, door.Viewer, "How much may be erased on one person's word", s.getPolicy)
	route(s, http.MethodPut, "/policy", 200, door.Admin, "Change how much may be erased on one person's word", s.putPolicy)
}

func (s *Server) protect(protected bool) func(context.Context, *machineID) (*struct{ Body Machine }, error) {
	return func(ctx context.Context, in *machineID) (*struct{ Body Machine }, error) {
		if _, err := s.cfg.Cluster.Propose(ctx, fleet.ProtectMachine{MachineID: in.ID, Protected: protected, By: who(ctx)}); err != nil {
			return nil, err
		}
		return s.getMachine(ctx, in)
	}
}

func (s *Server) letGo(ctx context.Context, in *machineID) (*struct{ Body Machine }, error) {
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.ReleaseHold{MachineID: in.ID, By: who(ctx)}); err != nil {
		return nil, err
	}
	return s.getMachine(ctx, in)
}

func (s *Server) releaseTask(ctx context.Context, in *taskID) (*taskOut, error) {
	_, err := s.cfg.Cluster.Propose(ctx, fleet.ReleaseHold{TaskID: in.ID, By: who(ctx)})
	return s.result(in.ID, err)
}

func (s *Server) getPolicy(context.Context, *nothing) (*policyOut, error) {
	var p fleet.Policy
	s.cfg.Cluster.View(func(st *fleet.State) { p = st.Policy() })
	return &policyOut{ErasePolicy{ErasePolicyWish{ApprovalCap: p.ApprovalCap, ApprovalWindowMinutes: int(p.ApprovalWindow.Minutes()), SecondApprover: p.SecondApprover}, p.By, p.ChangedAt}}, nil
}

func (s *Server) putPolicy(ctx context.Context, in *policyIn) (*policyOut, error) {
	_, err := s.cfg.Cluster.Propose(ctx, fleet.PutPolicy{ApprovalCap: in.Body.ApprovalCap,
		ApprovalWindow: time.Duration(in.Body.ApprovalWindowMinutes) * time.Minute, SecondApprover: in.Body.SecondApprover, By: who(ctx)})
	if err != nil {
		return nil, err
	}
	return s.getPolicy(ctx, nil)
}

// checkWord refuses an approval of nothing in particular. The rest is the rule's,
// which has the plan that is approved, while what this node sees may be older.
func checkWord(planHash string) error {
	if planHash == "" {
		return NewProblem(http.StatusPreconditionRequired, "say which plan is approved: plan_hash is the plan's hash as you saw it; nothing was approved")
	}
	return nil
}
