package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// Membership is who is of the cluster, and how that is changed. A *fleet.Error
// or *Problem says that a change was refused, and what to do instead.
type Membership interface {
	// Status is how the cluster looks from here now.
	Status() consensus.Status
	// NewToken lets one node join, once. by is the person who asks, here as in
	// what follows.
	NewToken(ctx context.Context, by string) (JoinToken, error)
	// Promote gives a node a vote, Demote takes it away.
	Promote(ctx context.Context, id, by string) error
	Demote(ctx context.Context, id, by string) error
	// Remove takes a node out of the cluster for good.
	Remove(ctx context.Context, id, by string) error
	// Transfer lets another voter lead; an empty id means any.
	Transfer(ctx context.Context, to, by string) error
	// Backup writes one file with everything the cluster has agreed on.
	Backup(ctx context.Context, w io.Writer) error
}

// JoinToken lets one node into the cluster.
type JoinToken struct {
	Token     string    `json:"token" doc:"For one node, once: lpmos up --join TOKEN ADDRESS"`
	ExpiresAt time.Time `json:"expires_at"`
	Address   string    `json:"address" doc:"Where the new node reaches this one"`
}

// ClusterView is the cluster as one node sees it, with what may be done.
type ClusterView struct {
	consensus.Status
	Summary string   `json:"summary" doc:"The cluster in one sentence"`
	Members []Member `json:"members" doc:"By name, the node that tells this among them"`
	Alarms  []string `json:"alarms,omitempty" doc:"What is wrong on the networks this node serves, such as another DHCP server"`
}

// Member is a node of the cluster as people see it.
type Member struct {
	consensus.Member
	Warnings []string `json:"warnings" doc:"What is not as it should be with it, in short sentences"`
	Actions  []string `json:"actions" doc:"What a person may do with it now: promote, demote, transfer, remove"`
}

// Handover is the body of POST /cluster/transfer.
type Handover struct {
	To string `json:"to" maxLength:"64" doc:"Id of the voter that shall lead; empty for any other"`
}

// clockWarning is how far a node's clock may be off until people are told: what
// is written into the log bears the time of the node that was asked.
const clockWarning = 2 // seconds

// Cluster is how the cluster looks from this node, or nil if it is of none.
func (s *Server) Cluster() *ClusterView {
	if s.cfg.Membership == nil {
		return nil
	}
	v := viewCluster(s.cfg.Membership.Status())
	v.Alarms = s.cfg.Sightings.Alarms()
	return &v
}

func viewCluster(st consensus.Status) ClusterView {
	v := ClusterView{Status: st, Summary: clusterSummary(st), Members: make([]Member, 0, len(st.Members))}
	voters := 0
	for _, m := range st.Members {
		if m.Voter {
			voters++
		}
	}
	for _, m := range st.Members {
		v.Members = append(v.Members, Member{Member: m, Warnings: warnings(m), Actions: memberActions(m, voters)})
	}
	v.Status.Members = nil // told once, with what may be done
	return v
}

// clusterSummary says how many nodes there are, who leads, and how many more may
// be lost until nothing can be decided.
func clusterSummary(st consensus.Status) string {
	voters, up, upVoters, leads := 0, 0, 0, "nobody leads"
	for _, m := range st.Members {
		if m.Voter {
			voters++
		}
		if m.Reachable {
			up++
		}
		if m.Voter && m.Reachable {
			upVoters++
		}
		if m.ID == st.Leader {
			leads = m.Name + " leads"
		}
	}
	if len(st.Members) == 1 {
		return "one node, alone: if it is lost, so is everything it knows"
	}
	text := fmt.Sprintf("%d nodes, %d of them in reach, %s, %s", len(st.Members), up, counted(voters, "voter"), leads)
	switch spare := upVoters - (voters/2 + 1); {
	case spare == 0:
		text += "; no voter may be lost now"
	case spare > 0:
		text += "; " + counted(spare, "voter") + " may be lost"
	}
	return text
}

func warnings(m consensus.Member) []string {
	out := []string{}
	if m.Problem != "" {
		out = append(out, m.Problem)
	}
	if off := math.Abs(m.ClockOff); off > clockWarning {
		way := "ahead"
		if m.ClockOff < 0 {
			way = "behind"
		}
		out = append(out, fmt.Sprintf("its clock is %.1f s %s", off, way))
	}
	return out
}

// memberActions are what makes sense with a node. Whether it can be done just
// now is for consensus to say, which is asked when somebody does it.
func memberActions(m consensus.Member, voters int) []string {
	out := []string{}
	if !m.Voter {
		return append(out, "promote", "remove")
	}
	if voters > 1 {
		// On the leader it means: to any other.
		if m.Leader || m.Reachable {
			out = append(out, "transfer")
		}
		out = append(out, "demote", "remove")
	}
	return out
}

// AuditList is what people and nodes have done, the newest first.
type AuditList struct {
	Audit []fleet.AuditRecord `json:"audit"`
}

type listAuditIn struct {
	Limit int `query:"limit" minimum:"1" maximum:"10000" default:"200"`
}

type memberID struct {
	ID string `path:"id" maxLength:"64"`
}

type handoverIn struct{ Body Handover }

func (s *Server) memberRoutes() {
	route(s, http.MethodGet, "/cluster", 200, door.Viewer, "How the cluster looks from this node", s.getCluster)
	route(s, http.MethodPost, "/cluster/tokens", 201, door.Admin, "Let one more node join", s.newToken)
	route(s, http.MethodPost, "/cluster/nodes/{id}/promote", 204, door.Admin, "Give a node a vote", s.changeMember(Membership.Promote))
	route(s, http.MethodPost, "/cluster/nodes/{id}/demote", 204, door.Admin, "Take a node's vote away", s.changeMember(Membership.Demote))
	route(s, http.MethodDelete, "/cluster/nodes/{id}", 204, door.Admin, "Take a node out of the cluster", s.changeMember(Membership.Remove))
	route(s, http.MethodPost, "/cluster/transfer", 204, door.Admin, "Let another node lead", s.transfer)

	route(s, http.MethodGet, "/audit", 200, door.Viewer, "What people and nodes have done, newest first", s.listAudit)

	s.raw(&huma.Operation{
		OperationID: "get-audit-export", Method: http.MethodGet, Path: "/api/v1/audit/export", Tags: []string{"audit"}, DefaultStatus: 200,
		Summary:     "The whole audit, oldest first, one JSON document a line",
		Description: "Each record holds the hash of the one before it; lpmos audit verify checks them.",
		Responses: map[string]*huma.Response{"200": {Description: "The records",
			Content: map[string]*huma.MediaType{"application/x-ndjson": {Schema: &huma.Schema{Type: huma.TypeString}}}}},
	}, door.Viewer, func(ctx huma.Context) {
		_, w := humago.Unwrap(ctx)
		s.exportAudit(w)
	})

	op := huma.Operation{
		OperationID: "get-backup", Method: http.MethodGet, Path: "/api/v1/backup", Tags: []string{"backup"}, DefaultStatus: 200,
		Summary: "Everything the cluster has agreed on, as one file",
		Description: "The file is whole if the answer ends as HTTP says it has to; a connection that is cut before means that it is not. " +
			"It checks itself when it is restored.",
		Responses: map[string]*huma.Response{"200": {Description: "The file",
			Content: map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}},
	}
	s.raw(&op, door.Admin, func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		s.backup(w, r)
	})
}

// errAlone is met where a node was put together without a cluster.
func errAlone() *Problem {
	return NewProblem(http.StatusNotImplemented, "this node is of no cluster")
}

func (s *Server) getCluster(context.Context, *struct{}) (*struct{ Body ClusterView }, error) {
	v := s.Cluster()
	if v == nil {
		return nil, errAlone()
	}
	return &struct{ Body ClusterView }{*v}, nil
}

func (s *Server) newToken(ctx context.Context, _ *struct{}) (*struct{ Body JoinToken }, error) {
	if s.cfg.Membership == nil {
		return nil, errAlone()
	}
	t, err := s.cfg.Membership.NewToken(ctx, who(ctx))
	if err != nil {
		return nil, err
	}
	return &struct{ Body JoinToken }{t}, nil
}

func (s *Server) changeMember(f func(m Membership, ctx context.Context, id, by string) error) func(context.Context, *memberID) (*nothing, error) {
	return func(ctx context.Context, in *memberID) (*nothing, error) {
		if s.cfg.Membership == nil {
			return nil, errAlone()
		}
		return nil, f(s.cfg.Membership, ctx, in.ID, who(ctx))
	}
}

func (s *Server) transfer(ctx context.Context, in *handoverIn) (*nothing, error) {
	if s.cfg.Membership == nil {
		return nil, errAlone()
	}
	return nil, s.cfg.Membership.Transfer(ctx, in.Body.To, who(ctx))
}

func (s *Server) listAudit(_ context.Context, in *listAuditIn) (*struct{ Body AuditList }, error) {
	list := AuditList{Audit: []fleet.AuditRecord{}}
	s.cfg.Cluster.View(func(st *fleet.State) { list.Audit = append(list.Audit, st.Audit(in.Limit)...) })
	return &struct{ Body AuditList }{list}, nil
}

func (s *Server) exportAudit(w http.ResponseWriter) {
	var all []*fleet.AuditRecord
	s.cfg.Cluster.View(func(st *fleet.State) { all = st.AuditTrail() })
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Content-Disposition", `attachment; filename="lpmos-`+s.cfg.Now().UTC().Format("20060102-150405")+`-audit.ndjson"`)
	enc := json.NewEncoder(w)
	for _, r := range all {
		if enc.Encode(r) != nil {
			return // nobody reads the answer any more
		}
	}
}

// backup sends the file as it is written. What goes wrong before its first byte
// is told; after it, only a cut connection says that the file is not whole.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Membership == nil {
		errAlone().WriteTo(w)
		return
	}
	// The server's time limits are for answers that fit in memory. A writer
	// without deadlines has none to lift.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	out := &backupWriter{w: w, name: "lpmos-" + s.cfg.Now().UTC().Format("20060102-150405") + ".backup"}
	err := s.cfg.Membership.Backup(r.Context(), out)
	if err == nil {
		return
	}
	if !out.begun {
		s.problem(err).WriteTo(w)
		return
	}
	if !errors.Is(err, context.Canceled) {
		s.log.Error("a backup was cut", "error", err)
	}
	panic(http.ErrAbortHandler)
}

// backupWriter says what is sent when the first of it comes.
type backupWriter struct {
	w     http.ResponseWriter
	name  string
	begun bool
}

func (b *backupWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // nothing of it has come, and what goes wrong can still be told
	}
	if !b.begun {
		b.begun = true
		h := b.w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Disposition", `attachment; filename="`+b.name+`"`)
	}
	return b.w.Write(p)
}
