package agentserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// task finds the task and checks that the caller's session is its machine's. The
// task is one as the request wants it, unless all that was decided says otherwise.
func (s *Server) task(w http.ResponseWriter, r *http.Request, id string, wanted func(*fleet.Task) bool) (*fleet.Task, bool) {
	var t *fleet.Task
	var m *fleet.Machine
	err := s.sure(r.Context(), func(st *fleet.State) bool {
		t, m = st.Task(id), st.MachineBySession(sessionOf(r))
		return m != nil && t != nil && t.MachineID == m.ID && wanted(t)
	})
	switch {
	case err != nil:
		s.refused(w, r, "task", id, err)
		return nil, false
	case m == nil:
		problem(w, http.StatusUnauthorized, "the node does not know this boot; report again")
	case t == nil:
		problem(w, http.StatusNotFound, "there is no task %.60q", id)
	case t.MachineID != m.ID:
		problem(w, http.StatusForbidden, "task %s is not for this machine", t.ID)
	default:
		s.contacts.touch(m.ID, s.cfg.Now())
		return t, true
	}
	return nil, false
}

// whole is body, or an answer that says what is wrong with it.
func (s *Server) whole(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, bool) {
	b, err := s.body(w, r, limit)
	if err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			problem(w, http.StatusRequestEntityTooLarge, "body is larger than %d bytes", limit)
		} else {
			problem(w, http.StatusBadRequest, "body could not be read")
		}
	}
	return b, err == nil
}

func (s *Server) read(w http.ResponseWriter, r *http.Request, limit int64, v any) bool {
	b, ok := s.whole(w, r, limit)
	if !ok {
		return false
	}
	if err := json.Unmarshal(b, v); err != nil {
		problem(w, http.StatusBadRequest, "body: %v", err)
		return false
	}
	return true
}

// body reads a body of up to limit bytes, and gives up on one that trickles in:
// whoever sent a byte a minute would hold a connection for good.
func (s *Server) body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	// A writer that knows no deadlines is no connection that could be held.
	timed := http.NewResponseController(w)
	_ = timed.SetReadDeadline(time.Now().Add(s.cfg.BodyTime))
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil { // else it stays: the server itself still waits for the rest
		_ = timed.SetReadDeadline(time.Time{})
	}
	return b, err
}

// refused answers with what a rule said; anything else is ours to look into.
func (s *Server) refused(w http.ResponseWriter, r *http.Request, what, who string, err error) {
	status := http.StatusServiceUnavailable
	switch fleet.ErrorCode(err) {
	case fleet.Invalid:
		status = http.StatusBadRequest
	case fleet.NotFound:
		status = http.StatusNotFound
	case fleet.Conflict:
		status = http.StatusConflict
	case fleet.Precondition:
		status = http.StatusPreconditionFailed
	}
	if r.Context().Err() == nil {
		s.log.Warn("agent refused", "what", what, "who", who, "from", r.RemoteAddr, "reason", err)
	}
	if errors.Is(err, consensus.ErrNoSpace) {
		problem(w, http.StatusInsufficientStorage, "%v", consensus.ErrNoSpace)
		return
	}
	if notReady(err) && !s.cfg.Cluster.Status().Quorum {
		problem(w, status, "%s", cutOff)
		return
	}
	problem(w, status, "%v", err)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the agent asks again
}

// problem is an RFC 9457 answer.
func problem(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the agent asks again
		"title": http.StatusText(status), "status": status, "detail": fmt.Sprintf(format, args...)})
}

// baseURL is the node as the agent reached it: that address works for it.
func baseURL(r *http.Request) string {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return "https://" + a.String()
	}
	return "https://" + r.Host
}

// nodes are the nodes that who asks may turn to, this one first.
func (s *Server) nodes(r *http.Request) []string {
	if s.cfg.Nodes == nil {
		return nil
	}
	own := baseURL(r)
	return wire.Nodes([]string{own}, s.cfg.Nodes(own))
}

func hasMAC(m *fleet.Machine, mac string) bool {
	mac = strings.ToLower(mac)
	for _, have := range m.IDs.MACs {
		if have == mac {
			return true
		}
	}
	return false
}
