package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// maxBody is the size of a JSON body, in bytes.
const maxBody = 1 << 20

// Server answers the REST routes. It is an http.Handler for /api/v1/,
// /openapi.json and /healthz.
type Server struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	mux     *door.Mux
	door    *door.Door
	api     huma.API
	openapi []byte
	plans   planMemory

	examining chan struct{} // a place for the one examination under way
}

// New makes a server. It fails if something it stands on is not given.
func New(cfg Config) (*Server, error) {
	if cfg.Cluster == nil || cfg.Images == nil || cfg.Sightings == nil || cfg.Contact == nil || cfg.Now == nil || cfg.NewID == nil || cfg.NewToken == nil {
		return nil, errors.New("api: the configuration is not complete")
	}
	s := &Server{cfg: cfg, log: cfg.Logger, started: cfg.Now(), mux: door.NewMux(Refuse), examining: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.door = door.New(door.Config{Cluster: cfg.Cluster, Now: cfg.Now, Logger: s.log})
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: decodeJSON}
	s.api = huma.NewAPI(huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "LPMOS", Version: "v1",
				Description: "Machines, tasks and images of a fleet. Every change is a command that the cluster agrees on; " +
					"the answer says heard or refused, and what changed is told on the socket /ws."},
			Components:     &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)},
			OnAddOperation: []huma.AddOpFunc{describeErrors},
		},
		// The short name is what huma makes of application/problem+json.
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		Transformers:                 []huma.Transformer{tame},
		RejectUnknownQueryParameters: true,
	}, ownStatuses{humago.NewAdapter(s.mux, "")})
	s.taskRoutes()
	s.machineRoutes()
	s.addressRoutes()
	s.guardRoutes()
	s.leaseRoutes()
	s.imageRoutes()
	s.profileRoutes()
	s.clusterRoutes()
	s.doctorRoutes()
	s.memberRoutes()
	s.signInRoutes()
	s.peopleRoutes()
	for _, unused := range []string{"ErrorModel", "ErrorDetail"} { // huma's, which tame replaces
		delete(s.api.OpenAPI().Components.Schemas.Map(), unused)
	}
	doc, err := json.MarshalIndent(s.api.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	s.openapi = append(doc, '\n')
	s.mux.Handle("GET /openapi.json", door.Anyone, http.HandlerFunc(s.getOpenAPI))
	s.mux.Handle("GET /healthz", door.Anyone, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	}))
	return s, nil
}

// Door is who lets people and programs in.
func (s *Server) Door() *door.Door { return s.door }

// Routes are all patterns with what they need.
func (s *Server) Routes() map[string]door.Need { return s.mux.Routes() }

// Refuse answers who may not: 401 to who is not signed in, else 403.
func Refuse(w http.ResponseWriter, r *http.Request, need door.Need) {
	w.Header().Set("Cache-Control", "no-store")
	c := door.CallerOf(r.Context())
	switch {
	case !c.SignedIn():
		p := NewProblem(http.StatusUnauthorized, "sign in first")
		p.header = http.Header{"WWW-Authenticate": {`Bearer realm="lpmos"`}}
		p.WriteTo(w)
	case need == door.Local:
		NewProblem(http.StatusForbidden, "this is done on the node's own host alone, by who may read its data directory").WriteTo(w)
	default:
		NewProblem(http.StatusForbidden, fmt.Sprintf("%s is %s, and this needs %s", c.Name, c.Role, need)).WriteTo(w)
	}
}

// OpenAPI is the document served at /openapi.json.
func (s *Server) OpenAPI() []byte { return s.openapi }

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json")
	// An error here means that nobody reads the answer any more.
	_, _ = w.Write(s.openapi)
}

// ServeHTTP answers a request; also one that fits no route gets a problem.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	defer func() {
		fault := recover()
		switch fault {
		case nil:
			return
		case http.ErrAbortHandler:
			panic(fault)
		}
		s.log.Error("request panicked", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("panic", fault))
		NewProblem(http.StatusInternalServerError, "the node could not do this; its log says why").WriteTo(w)
	}()
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.noRoute(w, r)
		return
	}
	s.mux.ServeHTTP(w, withRequest(r))
}

// noRoute lets the mux find out whether path or method is at fault.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	rec := statusRecorder{header: http.Header{}}
	s.mux.ServeHTTP(&rec, r)
	if rec.status == http.StatusMethodNotAllowed {
		allow := rec.header.Get("Allow")
		w.Header().Set("Allow", allow)
		NewProblem(rec.status, fmt.Sprintf("%s does not take %.20s; it takes %s", clip(r.URL.Path), r.Method, allow)).WriteTo(w)
		return
	}
	NewProblem(http.StatusNotFound, "there is nothing at "+clip(r.URL.Path)).WriteTo(w)
}

// statusRecorder keeps what the mux says and drops its text.
type statusRecorder struct {
	header http.Header
	status int
}

func (r *statusRecorder) Header() http.Header         { return r.header }
func (r *statusRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *statusRecorder) WriteHeader(status int)      { r.status = status }

// describeErrors documents what every operation may answer beside its success.
func describeErrors(oapi *huma.OpenAPI, op *huma.Operation) {
	schema := oapi.Components.Schemas.Schema(problemType, true, "Problem")
	for status := range op.Responses {
		if code, err := strconv.Atoi(status); err != nil || code >= 400 {
			delete(op.Responses, status)
		}
	}
	op.Responses["default"] = &huma.Response{Description: "A problem as RFC 9457 has it",
		Content: map[string]*huma.MediaType{"application/problem+json": {Schema: schema}}}
}

// who names who asks, for approvals and the audit.
func who(ctx context.Context) string { return door.CallerOf(ctx).Name }

// Lens is what is known beside the log now.
func (s *Server) Lens() Lens {
	return Lens{Now: s.cfg.Now(), Started: s.started, Contact: s.cfg.Contact.LastContact,
		Latest: s.cfg.Cluster.Latest, Stall: s.cfg.Sightings.Stall, Plan: s.plans.remember}
}

// Picture of the fleet now.
func (s *Server) Picture() (p *Picture) {
	s.cfg.Cluster.View(func(st *fleet.State) { p = PictureOf(st) })
	return p
}

// Count is the fleet in numbers as this node sees it.
func (s *Server) Count(p *Picture) Stats {
	stats := s.Lens().Count(p)
	stats.Node, stats.Region = s.cfg.Name, s.cfg.Region
	return stats
}

// route registers an operation under /api/v1, for those who meet the need.
func route[I, O any](s *Server, method, path string, status int, need door.Need, summary string, f func(context.Context, *I) (*O, error)) {
	op := huma.Operation{
		OperationID: operationID(method, path), Method: method, Path: "/api/v1" + path, Summary: summary, Description: needText(need),
		Tags: []string{firstSegment(path)}, DefaultStatus: status, MaxBodyBytes: maxBody, BodyReadTimeout: 10 * time.Second,
	}
	s.mux.Need(method+" "+op.Path, need)
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, s.problem(err)
		}
		return out, nil
	})
}

// raw registers an operation that reads and writes on its own.
func (s *Server) raw(op *huma.Operation, need door.Need, f func(huma.Context)) {
	op.Description = strings.TrimSpace(op.Description + " " + needText(need))
	s.mux.Need(op.Method+" "+op.Path, need)
	s.api.OpenAPI().AddOperation(op)
	s.api.Adapter().Handle(op, f)
}

// needText says in the document who may call an operation.
func needText(need door.Need) string {
	switch need {
	case door.Anyone:
		return "For everybody."
	case door.Local:
		return "On the node's own socket alone."
	}
	return fmt.Sprintf("Needs the role %s.", need)
}

// operationID names an operation for makers of clients: "put-tasks-id-approve".
func operationID(method, path string) string {
	var id []byte
	for _, c := range []byte(method + path) {
		switch {
		case c >= 'A' && c <= 'Z':
			id = append(id, c+'a'-'A')
		case c == '/':
			id = append(id, '-')
		case c != '{' && c != '}':
			id = append(id, c)
		}
	}
	return string(id)
}

func firstSegment(path string) string {
	path = path[1:]
	if i := slices.Index([]byte(path), '/'); i >= 0 {
		return path[:i]
	}
	return path
}
