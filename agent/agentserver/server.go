package agentserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
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
	// Verify returns when this node knows all that was decided anywhere before it
	// was called.
	Verify(ctx context.Context) error
	// Status says whether a majority is in reach, as far as is known.
	Status() consensus.Status
	// Defer keeps on disk what has happened, and proposes it when a majority is in
	// reach again. DeferredFor is the end of an install that is kept so.
	Defer(body fleet.Body) error
	DeferredFor(taskID string) (fleet.FinishInstall, bool)
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
	// Nodes are the base URLs of the other nodes that a machine may turn to which
	// reached this one at the given URL, best first. Nil: there are none.
	Nodes func(own string) []string
	// Sign signs grants with the cluster's key for them.
	Sign func(wire.Grant) (wire.SignedGrant, error)
	// Claim reads a claim code and checks that a node of the cluster made it. Nil: no
	// session can be begun.
	Claim func(code string) (Claim, error)
	// SameNetwork says whether two addresses are of one network that the cluster
	// serves. Nil: a machine has to come from the very address its code was given to.
	SameNetwork func(a, b netip.Addr) bool
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
	checking chan struct{} // one for each question to the other nodes under way
}

// New makes a Server. Notify has to be called with the events of the feed.
func New(cfg Config) *Server {
	if cfg.PollHold == 0 {
		cfg.PollHold = 25 * time.Second
	}
	if cfg.BodyTime == 0 {
		cfg.BodyTime = 20 * time.Second
	}
	return &Server{cfg: cfg, log: cfg.Logger, checking: make(chan struct{}, maxChecking)}
}

// Handler serves /api/v1/agent/ and /up/ on the provisioning side.
func (s *Server) Handler() http.Handler {
	agents := http.NewServeMux()
	agents.HandleFunc("POST /api/v1/agent/report", s.report)
	agents.HandleFunc("GET /api/v1/agent/approval/{mac}", s.approval)
	agents.HandleFunc("POST /api/v1/agent/status", s.status)
	agents.HandleFunc("POST /api/v1/agent/progress", s.progress)
	agents.HandleFunc("POST /api/v1/agent/next", s.next)
	agents.HandleFunc("POST /api/v1/agent/log", s.console)
	mux := http.NewServeMux()
	mux.Handle("/api/v1/agent/", OverTLS(Alive(s.signed(agents))))
	mux.HandleFunc("POST /up/{token}", s.up)
	return mux
}

// LastContact is when the agent of a machine last said anything to this node or,
// as far as is known, to another; zero if it never did.
func (s *Server) LastContact(machineID string) time.Time { return s.contacts.last(machineID) }

// Contacts are the machines whose agents have spoken to this node since then, and
// when they last did: what other nodes want to be told.
func (s *Server) Contacts(since time.Time) map[string]time.Time { return s.contacts.since(since) }

// Touched notes that the agent of a machine has spoken to another node. A time
// that lies before one that is known changes nothing.
func (s *Server) Touched(machineID string, at time.Time) { s.contacts.told(machineID, at) }

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
	renew, claim, err := s.admit(r, req, bootMAC)
	if err != nil {
		s.refuseReport(w, r, claim, err)
		return
	}
	ip := addressOf(r, req.IP)
	res, err := s.cfg.Cluster.Propose(r.Context(), fleet.ReportMachine{
		NewID: "m-" + strings.ToLower(ulid.Make().String()), RegionID: s.cfg.Region,
		BootID: req.BootID, SessionHash: sessionOf(r), MAC: mac.String(), BootMAC: bootMAC, IP: ip, Inventory: req.Inventory,
		Claim: claim.ID, ClaimMAC: claim.MAC, ClaimExpires: claim.Expires, Renew: renew, ClockOff: req.ClockOff,
	})
	if err != nil {
		s.refuseReport(w, r, claim, err)
		return
	}
	m := res.(*fleet.Machine)
	s.contacts.touch(m.ID, s.cfg.Now())
	s.log.Info("machine reported", "machine", m.Name, "mac", mac.String(), "ip", ip, "disks", len(req.Inventory.Disks))
	answer(w, wire.ReportResponse{MachineID: m.ID, Nodes: s.nodes(r)})
}

// addressOf is the address a machine asks from, which it keeps for ever: what it says
// itself might be another's. Over loopback nobody comes but this host, on which test
// rigs play machines, with addresses they only say they have.
func addressOf(r *http.Request, said string) string {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	ip := from.Addr().Unmap()
	if ip.IsLoopback() {
		return said
	}
	return ip.String()
}

// refuseReport tells an agent whether to try again or to start its machine anew.
func (s *Server) refuseReport(w http.ResponseWriter, r *http.Request, c Claim, err error) {
	if !s.notAccepted(sessionOf(r), c, err) {
		s.refused(w, r, "report", wire.PairingCode(sessionOf(r)), err)
		return
	}
	s.log.Warn("a boot was not accepted", "from", r.RemoteAddr, "pairing_code", wire.PairingCode(sessionOf(r)), "reason", err)
	problem(w, http.StatusUnauthorized, "%v", err)
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
