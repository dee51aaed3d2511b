// Package ui is the dashboard of a node: its static files, the socket that feeds
// them, and the door both stand behind together with the REST API.
//
// A browser gets a snapshot with its index first, then what changes. Changes of
// state are told at once; percentages are conflated per viewer, so that the
// newest value wins and nobody has a backlog: ten times a second for the rows on
// the screen, every 0.8 s for the others. A viewer that cannot keep up is cut
// and comes back with the last index it has seen.
package ui

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// Config is what a dashboard is made of. API and Static must be set.
type Config struct {
	// API is what the REST API is made of; its cluster feeds the socket too.
	API api.Config
	// Static holds the dashboard's files: Static() or, to edit them, the files on
	// a disk with Reload.
	Static fs.FS
	// Reload reads the files anew for each request.
	Reload bool
	// Hosts are the names and addresses people reach this node by, without port.
	// Loopback ones always work. If there are none, any IP address is taken too.
	Hosts []string
	// Origins may open the socket beside the node's own, as "https://name:port".
	Origins []string
	Limits  Limits
	// Figures, if set, are what the consensus node has counted of itself.
	Figures func() consensus.Figures
}

// Limits bound what viewers may cost. Zero values mean the defaults.
type Limits struct {
	Viewers    int           // at once; 64
	FrameBytes int64         // of a frame from a viewer; 32 KiB
	Write      time.Duration // for one frame to leave; 10 s
	KeepAlive  time.Duration // between pings; 20 s
	Fast       time.Duration // between progress of rows on the screen; 100 ms
	Slow       time.Duration // between progress of the others, and counts; 800 ms
}

func (l Limits) withDefaults() Limits {
	set(&l.Viewers, 64)
	set(&l.FrameBytes, 32<<10)
	set(&l.Write, 10*time.Second)
	set(&l.KeepAlive, 20*time.Second)
	set(&l.Fast, 100*time.Millisecond)
	set(&l.Slow, 800*time.Millisecond)
	return l
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// UI is the handler of a node's listener for people.
type UI struct {
	handler http.Handler
	hub     *hub
	door    *door.Door
	api     *api.Server
	mux     *door.Mux
}

// New puts static files, API and socket together behind one door.
func New(cfg Config) (*UI, error) {
	if cfg.Static == nil {
		return nil, errors.New("ui: no static files given")
	}
	if cfg.API.Logger == nil {
		cfg.API.Logger = slog.New(slog.DiscardHandler)
	}
	files, err := newStatic(cfg.Static, cfg.Reload)
	if err != nil {
		return nil, err
	}
	h := newHub(cfg)
	cfg.API.OnImport = h.imports
	server, err := api.New(cfg.API)
	if err != nil {
		return nil, err
	}
	figures, err := metrics(h)
	if err != nil {
		return nil, err
	}
	h.open(server)
	mux := door.NewMux(api.Refuse)
	mux.Handle("/api/", door.Inside, server)
	mux.Handle("/openapi.json", door.Inside, server)
	mux.Handle("/healthz", door.Inside, server)
	mux.Handle("GET /api/v1/events", door.Viewer, http.HandlerFunc(h.events))
	mux.Handle("/api/v1/events", door.Anyone, readOnly{})
	mux.Handle("GET /ws", door.Viewer, http.HandlerFunc(h.socket))
	mux.Handle("GET /metrics", door.Viewer, figures)
	mux.Handle("/metrics", door.Anyone, readOnly{})
	mux.Handle("/", door.Anyone, files) // the page that asks who one is
	return &UI{handler: guard(cfg, server.Door().Enter(mux)), hub: h, door: server.Door(), api: server, mux: mux}, nil
}

// Routes are all patterns of the listener with what they need.
func (u *UI) Routes() map[string]door.Need {
	all := u.mux.Routes()
	maps.Copy(all, u.api.Routes())
	return all
}

// Door is who lets people in.
func (u *UI) Door() *door.Door { return u.door }

// ServeHTTP answers a request of a browser or a script.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) { u.handler.ServeHTTP(w, r) }

// Close sends every viewer away. The HTTP server's own shutdown knows nothing of
// them once their connections are sockets.
func (u *UI) Close() {
	u.hub.close()
	u.door.Close()
}
