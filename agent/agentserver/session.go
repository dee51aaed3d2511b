package agentserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Claim is what a claim code says: who was given it, where, and until when it
// begins a session.
type Claim struct {
	ID      string
	MAC     string // lower case, colons
	IP      netip.Addr
	Expires time.Time
}

// OverTLS refuses what did not come over TLS.
func OverTLS(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			w.Header().Set("Upgrade", "TLS/1.3, HTTP/1.1")
			w.Header().Set("Connection", "Upgrade")
			problem(w, http.StatusUpgradeRequired, "this is answered over TLS only, on this same port")
			return
		}
		h.ServeHTTP(w, r)
	})
}

// sessionKey is where a request's session is kept in its context.
type sessionKey struct{}

// signed lets requests through that prove whose they are: signed with a key, over
// the TLS connection they came on. What they ask for is another matter.
func (s *Server) signed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := s.whole(w, r, maxReport)
		if !ok {
			return
		}
		exported, err := r.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterBytes)
		if err != nil {
			problem(w, http.StatusUnauthorized, "%v", wire.ErrSignature)
			return
		}
		session, err := wire.CheckRequest(r.Header.Get(wire.HeaderKey), r.Header.Get(wire.HeaderSignature), exported, r.Method, r.RequestURI, body)
		if err != nil {
			problem(w, http.StatusUnauthorized, "%v", err)
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, session))
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.noteDisplaced(r)
		h.ServeHTTP(w, r)
	})
}

// noteDisplaced gives the alarm when an agent asks whose session another took. A
// machine that started anew has lost that session's key. Only what a request finds
// when it comes counts: a long poll may outlive the boot that sent it.
func (s *Server) noteDisplaced(r *http.Request) {
	session, displaced := sessionOf(r), false
	s.cfg.Cluster.View(func(st *fleet.State) {
		displaced = st.MachineBySession(session) == nil && st.MachineByFormerSession(session) != nil
	})
	if !displaced {
		return
	}
	s.log.Warn("an agent asks whose session another took", "from", r.RemoteAddr, "pairing_code", wire.PairingCode(session))
	if _, err := s.cfg.Cluster.Propose(r.Context(), fleet.NoteDisplaced{SessionHash: session}); err != nil {
		s.log.Warn("it could not be kept that a machine has two agents; it is when the agent asks again", "reason", err)
	}
}

// sessionOf is the session that a request was signed with, or "".
func sessionOf(r *http.Request) string {
	session, _ := r.Context().Value(sessionKey{}).(string)
	return session
}

// errNotAccepted is a report that neither goes on with a session nor may begin one.
var errNotAccepted = errors.New("this boot is not accepted")

// admit says how a report may be taken: as one more of a session that there is, or
// as the first of one, by a claim code. A stranger without either costs the log
// nothing.
func (s *Server) admit(r *http.Request, req wire.ReportRequest, bootMAC string) (renew bool, c Claim, err error) {
	err = s.sure(r.Context(), func(st *fleet.State) bool {
		renew = st.MachineBySession(sessionOf(r)) != nil
		return renew
	})
	if err != nil || renew {
		return renew, c, err
	}
	refuse := func(why string) (bool, Claim, error) {
		return false, Claim{}, fmt.Errorf("%w: %s", errNotAccepted, why)
	}
	if s.cfg.Claim == nil || req.Claim == "" {
		return refuse("it shows no claim code and has no session; start the machine anew")
	}
	if c, err = s.cfg.Claim(req.Claim); err != nil {
		return refuse(err.Error())
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	switch mac := strings.ToLower(req.MAC); {
	case err != nil || !s.isNear(c.IP, from.Addr().Unmap()):
		return refuse("its claim code was given to " + c.IP.String() + ", and it asks from another network; start the machine anew")
	case c.MAC == "" || c.MAC != mac && c.MAC != bootMAC:
		return refuse("its claim code was given to the machine with MAC " + c.MAC + "; start the machine anew")
	case s.cfg.Now().After(c.Expires):
		return refuse("its claim code has expired; start the machine anew")
	}
	return false, c, nil
}

// isNear says whether a machine that was given a code at one address may show it
// from another. Firmware and agent each ask for an address, and where several nodes
// lend, two of them may have answered. Whoever is on the machine's own wire could
// take its address anyway.
func (s *Server) isNear(given, from netip.Addr) bool {
	return given == from || s.cfg.SameNetwork != nil && s.cfg.SameNetwork(given, from)
}

// notAccepted says whether a rule has refused a report for good: however often an
// agent repeats it, it needs another boot.
func (s *Server) notAccepted(session string, c Claim, err error) bool {
	switch fleet.ErrorCode(err) {
	case fleet.Precondition:
		return true
	case fleet.Conflict:
		used := false
		s.cfg.Cluster.View(func(st *fleet.State) {
			if u := st.UsedClaim(c.ID); u != nil {
				m := st.Machine(u.MachineID)
				used = u.SessionHash != session || m != nil && m.SessionHash != session
			}
		})
		return used
	}
	return errors.Is(err, errNotAccepted)
}
