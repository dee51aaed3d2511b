package api

import (
	"context"
	"net/http"

	"github.com/lpmos/lpmos/ui/door"
)

// Examination is what lpmos doctor finds from inside of a node: the checks in the
// order of their tree.
type Examination struct {
	Verdict string  `json:"verdict" enum:"ok,warn,fail" doc:"The worst of all"`
	Checks  []Check `json:"checks" doc:"The first that failed is the cause"`
}

// Check is one thing that was looked at.
type Check struct {
	ID      string `json:"id"`
	Of      string `json:"of,omitempty" doc:"Which of several: an interface"`
	Depth   int    `json:"depth" doc:"How deep in the tree; what is below one that failed is left out"`
	Verdict string `json:"verdict" enum:"ok,warn,fail,skip"`
	Reason  string `json:"reason"`
	Fix     string `json:"fix,omitempty" doc:"The command that mends it, or what to change where"`
}

// getDoctor makes the checks, one request after the other: they measure the disk.
func (s *Server) getDoctor(ctx context.Context, _ *struct{}) (*struct{ Body Examination }, error) {
	if s.cfg.Examine == nil {
		return nil, NewProblem(http.StatusNotImplemented, "this node cannot look at its host")
	}
	select {
	case s.examining <- struct{}{}:
		defer func() { <-s.examining }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e := s.cfg.Examine(ctx)
	if e.Checks == nil {
		e.Checks = []Check{}
	}
	return &struct{ Body Examination }{e}, nil
}

func (s *Server) doctorRoutes() {
	route(s, http.MethodGet, "/doctor", 200, door.Operator, "What this node's host lacks to boot machines", s.getDoctor)
}
