package ui

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// hub knows the viewers. It feeds none of them: each follows the cluster itself,
// at its own pace.
type hub struct {
	cluster api.Cluster
	api     *api.Server
	cfg     Config
	limits  Limits
	log     *slog.Logger
	ctx     context.Context // ends with the hub
	close   func()

	mu      sync.Mutex
	viewers map[*viewer]struct{}

	pulseMu sync.Mutex
	pulsed  time.Time
	last    pulse
}

// pulse is what time alone may change.
type pulse struct {
	stats   api.Stats
	lost    map[string]string // machine, or task of one never seen → why it is lost or does not go on
	cluster *api.ClusterView
}

func newHub(cfg Config) *hub {
	return &hub{cluster: cfg.API.Cluster, cfg: cfg, limits: cfg.Limits.withDefaults(), log: cfg.API.Logger, viewers: map[*viewer]struct{}{}}
}

// open begins to listen to what machines do on the wire; close ends it and sends
// every viewer away.
func (h *hub) open(server *api.Server) {
	h.api = server
	ctx, cancel := context.WithCancel(context.Background())
	quiet := h.cfg.API.Sightings.Subscribe(h.sighting)
	h.ctx = ctx
	h.close = sync.OnceFunc(func() {
		cancel()
		quiet()
	})
}

func (h *hub) door() *door.Door { return h.api.Door() }

// join lets a viewer in, unless there are too many.
func (h *hub) join(v *viewer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.viewers) >= h.limits.Viewers || h.ctx.Err() != nil {
		return false
	}
	h.viewers[v] = struct{}{}
	return true
}

func (h *hub) leave(v *viewer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.viewers, v)
}

func (h *hub) each(f func(*viewer)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for v := range h.viewers {
		f(v)
	}
}

func (h *hub) sighting(s api.Sighting) { h.each(func(v *viewer) { v.sighting(s) }) }

func (h *hub) imports(p api.ImportProgress) { h.each(func(v *viewer) { v.imports(p) }) }

// pulse counts the fleet, at most once in the slow interval however many ask.
func (h *hub) pulse() pulse {
	h.pulseMu.Lock()
	defer h.pulseMu.Unlock()
	now := h.cfg.API.Now()
	if !h.pulsed.IsZero() && now.Sub(h.pulsed) < h.limits.Slow*9/10 && now.After(h.pulsed) {
		return h.last
	}
	p, lens := h.api.Picture(), h.api.Lens()
	next := pulse{stats: h.api.Count(p), lost: map[string]string{}, cluster: h.api.Cluster()}
	for _, m := range p.Machines {
		if t := p.Task(m.TaskID); lens.Lost(m, t) {
			next.lost[m.ID] = lens.Machine(m, t).PhaseText
		}
		if stall := lens.StallOf(m.IDs.MACs...); stall != nil {
			next.lost[m.ID] += "; " + stall.ID + " since " + stall.At.String()
		}
	}
	for _, t := range p.Tasks {
		if !t.Open() || t.MachineID != "" {
			continue
		}
		if stall := lens.StallOf(t.TargetMAC); stall != nil {
			next.lost[taskMark+t.ID] = stall.ID + " since " + stall.At.String()
		}
	}
	h.pulsed, h.last = now, next
	return next
}
