package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// Health is a node's word on itself.
type Health struct {
	Status        string    `json:"status" doc:"ok"`
	Node          string    `json:"node"`
	Region        string    `json:"region"`
	Version       string    `json:"version"`
	Leader        string    `json:"leader" doc:"Id of the node that leads; empty while there is none"`
	Index         uint64    `json:"index"`
	UptimeSeconds int64     `json:"uptime_seconds"`
	Time          time.Time `json:"time"`
}

// RegionList is every region.
type RegionList struct {
	Regions []Region `json:"regions"`
}

// Network is what the node does on the wire.
type Network struct {
	Interfaces []Interface       `json:"interfaces"`
	Counters   map[string]uint64 `json:"counters" doc:"Packets since the start, by what became of them"`
	Transfers  Transfers         `json:"transfers" doc:"Boot files on their way to machines over HTTP"`
	Sightings  []Sighting        `json:"sightings" doc:"The last 200 of all machines, newest first"`
	Machines   []OnWire          `json:"machines" doc:"The machines seen last and those that do not go on, newest first"`
}

// Wire is what one hardware address did, and what was done to its machine.
type Wire struct {
	OnWire
	Timeline []Moment `json:"timeline" doc:"Oldest first"`
}

// shownSightings and shownMachines are how many of each the network view holds.
const (
	shownSightings = 200
	shownMachines  = 200
)

type wireMAC struct {
	MAC string `path:"mac" maxLength:"17" doc:"As 52:54:00:12:34:56"`
}

func (s *Server) clusterRoutes() {
	route(s, http.MethodGet, "/regions", 200, door.Viewer, "List regions", s.listRegions)
	route(s, http.MethodGet, "/stats", 200, door.Viewer, "The fleet in numbers", s.getStats)
	route(s, http.MethodGet, "/health", 200, door.Viewer, "How this node is", s.getHealth)
	route(s, http.MethodGet, "/network", 200, door.Viewer, "What this node does on the wire", s.getNetwork)

	route(s, http.MethodGet, "/wire/{mac}", 200, door.Viewer, "What one hardware address did, also if nobody knows it", s.getWire)

	// Served by the dashboard's hub, which has the frames; described with the rest.
	s.api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "get-events", Method: http.MethodGet, Path: "/api/v1/events", Tags: []string{"events"},
		Summary:     "What changes, as server-sent events",
		Description: "The frames of the socket /ws, one JSON document an event: hello, a snapshot, then what changes. With since, the changes after that index in place of a snapshot, if they are still kept.",
		Parameters:  []*huma.Param{{Name: "since", In: "query", Schema: &huma.Schema{Type: huma.TypeInteger}}},
		Responses: map[string]*huma.Response{"200": {Description: "A stream that does not end",
			Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}}}},
	})
}

func (s *Server) listRegions(context.Context, *struct{}) (*struct{ Body RegionList }, error) {
	var list RegionList
	s.cfg.Cluster.View(func(st *fleet.State) { list.Regions = Regions(st, s.cfg.Region) })
	return &struct{ Body RegionList }{list}, nil
}

func (s *Server) getStats(context.Context, *struct{}) (*struct{ Body Stats }, error) {
	return &struct{ Body Stats }{s.Count(s.Picture())}, nil
}

func (s *Server) getHealth(context.Context, *struct{}) (*struct{ Body Health }, error) {
	now := s.cfg.Now()
	h := Health{Status: "ok", Node: s.cfg.Name, Region: s.cfg.Region, Version: s.cfg.Version, Leader: s.cfg.Cluster.ID(),
		UptimeSeconds: int64(now.Sub(s.started).Seconds()), Time: now}
	if s.cfg.Membership != nil {
		h.Leader = s.cfg.Membership.Status().Leader
	}
	s.cfg.Cluster.View(func(st *fleet.State) { h.Index = st.Index() })
	return &struct{ Body Health }{h}, nil
}

func (s *Server) getNetwork(context.Context, *struct{}) (*struct{ Body Network }, error) {
	n := Network{Interfaces: s.cfg.Sightings.Interfaces(), Counters: s.cfg.Sightings.Counters(), Transfers: s.cfg.Sightings.Transfers(), Sightings: s.cfg.Sightings.Recent(shownSightings)}
	if n.Interfaces == nil {
		n.Interfaces = []Interface{}
	}
	if n.Counters == nil {
		n.Counters = map[string]uint64{}
	}
	if n.Sightings == nil {
		n.Sightings = []Sighting{}
	}
	n.Machines = s.named(s.cfg.Sightings.OnWire(shownMachines))
	return &struct{ Body Network }{n}, nil
}

// named says which of them are known, and as what.
func (s *Server) named(seen []OnWire) []OnWire {
	out := append([]OnWire{}, seen...)
	s.cfg.Cluster.View(func(st *fleet.State) {
		for i := range out {
			if m := st.MachineByMAC(out[i].MAC); m != nil {
				out[i].MachineID, out[i].Name = m.ID, m.Name
			}
		}
	})
	return out
}

func (s *Server) getWire(_ context.Context, in *wireMAC) (*struct{ Body Wire }, error) {
	mac := strings.ToLower(in.MAC)
	var m *fleet.Machine
	var t *fleet.Task
	s.cfg.Cluster.View(func(st *fleet.State) {
		if m = st.MachineByMAC(mac); m != nil {
			t = st.Task(m.TaskID)
		} else {
			t = st.TaskForMAC(mac)
		}
	})
	macs := []string{mac}
	if m != nil {
		macs = m.IDs.MACs
	}
	seen := s.sightings(macs)
	if m == nil && t == nil && len(seen) == 0 {
		return nil, NewProblem(http.StatusNotFound, "nothing was seen of "+clip(in.MAC)+" on the networks of this cluster, and no machine or task has it")
	}
	w := Wire{OnWire: OnWire{MAC: mac, Stall: s.Lens().StallOf(macs...)}, Timeline: Timeline(seen, m, t)}
	if m != nil {
		w.MachineID, w.Name, w.Address = m.ID, m.Name, m.AddressOf(mac)
	}
	for _, sg := range seen {
		if sg.Kind != "stall" {
			w.At, w.Text, w.Node = sg.At, sg.Text, sg.Node
		}
	}
	return &struct{ Body Wire }{w}, nil
}
