package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// Answer settles a clash of ids: the body of POST /machines/{id}/settle.
type Answer struct {
	Accept bool `json:"accept" doc:"The machine takes the new ids; otherwise they are forgotten"`
}

// MachineList is a part of the list of machines, in the order they were first seen.
type MachineList struct {
	Machines   []Machine `json:"machines"`
	NextCursor string    `json:"next_cursor,omitempty" doc:"Give it as cursor for the next page; absent on the last"`
}

type machineID struct {
	ID string `path:"id" maxLength:"64"`
}

type listMachinesIn struct {
	Phase    string `query:"phase" enum:"discovered,waiting,queued,erasing,installing,installed,failed,lost"`
	RegionID string `query:"region_id" maxLength:"64"`
	Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"200"`
	Cursor   string `query:"cursor" maxLength:"64"`
}

type settleIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body Answer
}

func (s *Server) machineRoutes() {
	route(s, http.MethodGet, "/machines", 200, door.Viewer, "List machines", s.listMachines)
	route(s, http.MethodGet, "/machines/{id}", 200, door.Viewer, "One machine, its hardware and what it did on the wire", s.getMachine)
	route(s, http.MethodDelete, "/machines/{id}", 204, door.Operator, "Forget a machine", s.deleteMachine)
	route(s, http.MethodPost, "/machines/{id}/settle", 200, door.Operator, "Settle a clash of ids", s.settle)
}

func (s *Server) listMachines(_ context.Context, in *listMachinesIn) (*struct{ Body MachineList }, error) {
	list := MachineList{Machines: []Machine{}}
	p, lens := s.Picture(), s.Lens()
	for _, m := range p.Machines {
		if m.ID <= in.Cursor || in.RegionID != "" && m.RegionID != in.RegionID {
			continue
		}
		t := p.Task(m.TaskID)
		if phase, _ := lens.phase(m, t); in.Phase != "" && string(phase) != in.Phase {
			continue
		}
		if len(list.Machines) == in.Limit {
			list.NextCursor = list.Machines[in.Limit-1].ID
			break
		}
		list.Machines = append(list.Machines, lens.Machine(m, t))
	}
	return &struct{ Body MachineList }{list}, nil
}

func (s *Server) getMachine(_ context.Context, in *machineID) (*struct{ Body Machine }, error) {
	var m *fleet.Machine
	var t *fleet.Task
	s.cfg.Cluster.View(func(st *fleet.State) {
		if m = st.Machine(in.ID); m != nil {
			t = st.Task(m.TaskID)
		}
	})
	if m == nil {
		return nil, NewProblem(http.StatusNotFound, "there is no machine "+clip(in.ID))
	}
	return &struct{ Body Machine }{s.Lens().FullMachine(m, t, s.sightings(m.IDs.MACs))}, nil
}

// sightings of all the machine's cards, oldest first.
func (s *Server) sightings(macs []string) []Sighting {
	var all []Sighting
	for _, mac := range macs {
		all = append(all, s.cfg.Sightings.Of(mac)...)
	}
	slices.SortStableFunc(all, func(a, b Sighting) int { return a.At.Compare(b.At) })
	return all
}

func (s *Server) deleteMachine(ctx context.Context, in *machineID) (*nothing, error) {
	_, err := s.cfg.Cluster.Propose(ctx, fleet.DeleteMachine{MachineID: in.ID})
	return nil, err
}

func (s *Server) settle(ctx context.Context, in *settleIn) (*struct{ Body Machine }, error) {
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.SettleQuestion{MachineID: in.ID, Accept: in.Body.Accept, Remember: true}); err != nil {
		return nil, err
	}
	return s.getMachine(ctx, &machineID{ID: in.ID})
}
