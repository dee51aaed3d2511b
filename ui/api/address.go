package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// AddressWish is the body of PUT /machines/{id}/address.
type AddressWish struct {
	Address string `json:"address" maxLength:"45" doc:"An IPv4 address of a network on which nodes lend addresses, outside of the range that new machines draw from"`
	MAC     string `json:"mac,omitempty" maxLength:"17" doc:"The card that gets it; by default the one that the machine's agent spoke from last"`
}

type assignIn struct {
	ID   string `path:"id" maxLength:"64"`
	Body AddressWish
}

type unassignIn struct {
	ID  string `path:"id" maxLength:"64"`
	MAC string `query:"mac" maxLength:"17" doc:"Of this card alone"`
}

func (s *Server) addressRoutes() {
	route(s, http.MethodPut, "/machines/{id}/address", 200, door.Operator, "Give a machine an address for good", s.assign)
	route(s, http.MethodDelete, "/machines/{id}/address", 200, door.Operator, "Take back the address that a machine was given", s.unassign)
}

// assign asks this node first for what only nodes know: its configuration and its book.
func (s *Server) assign(ctx context.Context, in *assignIn) (*struct{ Body Machine }, error) {
	addr, err := netip.ParseAddr(in.Body.Address)
	if err != nil || !addr.Is4() {
		return nil, NewProblem(http.StatusBadRequest, fmt.Sprintf("%.60q is no IPv4 address", in.Body.Address))
	}
	var m *fleet.Machine
	s.cfg.Cluster.View(func(st *fleet.State) { m = st.Machine(in.ID) })
	if m != nil && s.cfg.Leases != nil {
		if why := s.cfg.Leases.Objection(addr, m.IDs.MACs, []string{m.IDs.UUID, m.IDs.Serial}); why != "" {
			return nil, NewProblem(http.StatusConflict, fmt.Sprintf("%s %s", addr, why))
		}
	}
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.AssignAddress{MachineID: in.ID, MAC: in.Body.MAC, Address: addr.String(), By: who(ctx)}); err != nil {
		return nil, err
	}
	return s.getMachine(ctx, &machineID{ID: in.ID})
}

func (s *Server) unassign(ctx context.Context, in *unassignIn) (*struct{ Body Machine }, error) {
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.AssignAddress{MachineID: in.ID, MAC: in.MAC, By: who(ctx)}); err != nil {
		return nil, err
	}
	return s.getMachine(ctx, &machineID{ID: in.ID})
}
