package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Problem is an error as RFC 9457 has it.
type Problem struct {
	Type   string       `json:"type" doc:"about:blank: the status says it all"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail" doc:"What happened, in a sentence"`
	Errors []FieldError `json:"errors,omitempty" doc:"The fields at fault"`
	// Changed comes with 412: what is different from what was approved.
	Changed []string `json:"changed,omitempty" doc:"With 412: what is not as it was seen"`

	header http.Header // sent with it; nil for none
}

// FieldError names a field at fault.
type FieldError struct {
	Location string `json:"location" doc:"Such as body.network_config.hostname"`
	Message  string `json:"message"`
	Value    any    `json:"value,omitempty"`
}

// NewProblem is a problem with the sentence that tells it.
func NewProblem(status int, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// Error is the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is RFC 9457's.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders are the headers that go with it.
func (p *Problem) GetHeaders() http.Header { return p.header }

// WriteTo answers a request with the problem.
func (p *Problem) WriteTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), p.header)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	// An error here means that nobody reads the answer any more.
	_ = json.NewEncoder(w).Encode(p)
}

// problem turns any error into what a person is told. What is not a refusal is
// logged here, once, and told without its detail.
func (s *Server) problem(err error) *Problem {
	var p *Problem
	var refused *fleet.Error
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &refused):
		p = NewProblem(statusOf(refused.Code), refused.Message)
		p.Changed = refused.Changed
		if refused.Field != "" {
			p.Errors = []FieldError{{Location: "body." + refused.Field, Message: refused.Message}}
		}
		return p
	// Those of consensus go first: they may wrap the end of a context. What is not
	// known to have been done may wrap why no answer came.
	case errors.Is(err, consensus.ErrUncertain):
		s.log.Warn("a command may or may not have been carried out", slog.Any("error", err))
		return NewProblem(http.StatusServiceUnavailable, "it may have been done; look before you repeat it")
	case errors.Is(err, consensus.ErrNoSpace):
		return NewProblem(http.StatusInsufficientStorage, consensus.ErrNoSpace.Error())
	case errors.Is(err, consensus.ErrCutOff):
		return notNow("this node cannot reach a majority of the cluster, so nothing was done: machines it knows go on booting and approved installs go on, and nothing new can be decided until more nodes answer")
	case errors.Is(err, consensus.ErrNotReady):
		return notNow("this node cannot take commands now, so nothing was done; try again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return NewProblem(http.StatusServiceUnavailable, "the cluster did not answer in time; try again")
	}
	s.log.Error("request failed", slog.Any("error", err))
	return NewProblem(http.StatusInternalServerError, "the node could not do this; its log says why")
}

// notNow refuses what may be asked again: nothing was done.
func notNow(detail string) *Problem {
	p := NewProblem(http.StatusServiceUnavailable, detail)
	p.header = http.Header{"Retry-After": {retryAfter}}
	return p
}

// retryAfter is how many seconds a node needs as a rule to find a leader (RFC
// 9110 section 10.2.3).
const retryAfter = "2"

func statusOf(code fleet.Code) int {
	switch code {
	case fleet.NotFound:
		return http.StatusNotFound
	case fleet.Conflict, fleet.Uncertain:
		return http.StatusConflict
	case fleet.Precondition:
		return http.StatusPreconditionFailed
	}
	return http.StatusBadRequest
}

// The limits of what a refused request is told about itself.
const (
	maxErrors = 10
	maxEcho   = 200 // bytes of a value
)

// tame is a huma transformer: it gives huma's own errors our shape. Huma answers
// what does not fit the schema with 422 and with all of the body; here that is
// 400, with a few fields and short values.
func tame(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := NewProblem(ownStatus(m.Status), m.Detail)
	for i, e := range m.Errors {
		if i == maxErrors {
			break
		}
		f := FieldError{Location: clip(e.Location), Message: clip(e.Message)}
		switch val := e.Value.(type) {
		case string:
			if len(val) <= maxEcho && e.Location != "body" && !secret(e.Location) {
				f.Value = val
			}
		case bool, float64, int, int64:
			f.Value = val
		}
		p.Errors = append(p.Errors, f)
	}
	if len(p.Errors) > 0 && p.Status == http.StatusBadRequest {
		p.Detail = strings.TrimPrefix(p.Errors[0].Location+": "+p.Errors[0].Message, ": ")
	}
	return p, nil
}

// secret says whether a field holds what may not be repeated: an answer to a
// request that was refused ends up in logs.
func secret(location string) bool {
	_, field, _ := strings.Cut(location, ".")
	for _, word := range []string{"user_data", "network_config.config", "password", "passphrase", "secret", "token", "code"} {
		if strings.Contains(field, word) {
			return true
		}
	}
	return false
}

func clip(s string) string {
	if len(s) <= maxEcho {
		return s
	}
	return strings.ToValidUTF8(s[:maxEcho], "") + "…"
}

func ownStatus(status int) int {
	if status == http.StatusUnprocessableEntity {
		return http.StatusBadRequest
	}
	return status
}

// ownStatuses is an adapter that writes our statuses in place of huma's.
type ownStatuses struct{ huma.Adapter }

func (a ownStatuses) Handle(op *huma.Operation, handler func(huma.Context)) {
	a.Adapter.Handle(op, func(ctx huma.Context) { handler(statusContext{ctx}) })
}

// humaContext is huma.Context under a name that can be embedded: the interface
// has a method of its own name.
type humaContext = huma.Context

type statusContext struct{ humaContext }

func (c statusContext) SetStatus(status int) { c.humaContext.SetStatus(ownStatus(status)) }
func (c statusContext) Unwrap() huma.Context { return c.humaContext }
