package api

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// The states of a Lease.
const (
	LeaseKept    = "kept"    // a known machine's for ever; every node gives it
	LeaseLent    = "lent"    // a machine has it until its time is over
	LeaseEnded   = "ended"   // its time is over; the machine gets it back if it asks soon
	LeaseResting = "resting" // somebody else was found to use it, so nobody gets it for a while
	// LeaseReserved is kept for a machine because the node's configuration says so.
	LeaseReserved = "reserved"
)

// Lease is an address and who has it.
type Lease struct {
	Address   string    `json:"address"`
	State     string    `json:"state" enum:"kept,lent,ended,resting,reserved"`
	MAC       string    `json:"mac,omitempty"`
	MachineID string    `json:"machine_id,omitempty" doc:"If the machine is known"`
	Machine   string    `json:"machine,omitempty" doc:"Its name"`
	Until     time.Time `json:"until,omitzero" doc:"When it ends or has ended; kept addresses do not"`
	Node      string    `json:"node,omitempty" doc:"The node that lent it and alone knows of it; empty for what all nodes know"`
	Why       string    `json:"why,omitempty" doc:"Why it rests or is kept, or for whom it is reserved"`
}

// LeaseList is every address in use as this node knows it.
type LeaseList struct {
	Leases []Lease `json:"leases"`
}

type listLeasesIn struct {
	All bool `query:"all" doc:"Those that have ended, too"`
}

type leaseAddress struct {
	Address string `path:"address" maxLength:"45"`
}

func (s *Server) leaseRoutes() {
	route(s, http.MethodGet, "/leases", 200, door.Viewer, "List addresses in use: lent by this node, and kept for known machines", s.listLeases)
	route(s, http.MethodPost, "/leases/{address}/release", 200, door.Operator, "Take an address back that this node has lent or lets rest", s.releaseLease)
}

func (s *Server) listLeases(_ context.Context, in *listLeasesIn) (*struct{ Body LeaseList }, error) {
	list := LeaseList{Leases: []Lease{}}
	var lent []Lease
	if s.cfg.Leases != nil {
		lent = s.cfg.Leases.Leases()
	}
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, m := range st.Machines() {
			for mac, addr := range m.Addresses {
				if m.Assigned[mac] != addr {
					list.Leases = append(list.Leases, Lease{Address: addr, State: LeaseKept, MAC: mac, MachineID: m.ID, Machine: m.Name})
				}
			}
			for mac, addr := range m.Assigned {
				list.Leases = append(list.Leases, Lease{Address: addr, State: LeaseKept, MAC: mac, MachineID: m.ID, Machine: m.Name, Why: "given by hand"})
			}
		}
		for _, l := range lent {
			if l.State == LeaseReserved && st.MachineByAddress(l.Address) != nil {
				continue // told already
			}
			if m := st.MachineByMAC(l.MAC); m != nil {
				l.MachineID, l.Machine = m.ID, m.Name
				if (m.Addresses[l.MAC] == l.Address || m.Assigned[l.MAC] == l.Address) && l.State != LeaseResting {
					continue // a lease from before it was known
				}
			}
			if l.State == LeaseEnded && !in.All {
				continue
			}
			l.Node = s.cfg.Name
			list.Leases = append(list.Leases, l)
		}
	})
	slices.SortStableFunc(list.Leases, func(a, b Lease) int {
		return cmp.Or(parsed(a.Address).Compare(parsed(b.Address)), cmp.Compare(a.MAC, b.MAC))
	})
	return &struct{ Body LeaseList }{list}, nil
}

// releaseLease acts on this node's own book, which is no part of the log: a stranger's
// lease costs the cluster nothing. Who did it is therefore told in the log of the node.
func (s *Server) releaseLease(ctx context.Context, in *leaseAddress) (*struct{ Body Lease }, error) {
	addr, err := netip.ParseAddr(in.Address)
	if err != nil || !addr.Is4() {
		return nil, NewProblem(http.StatusBadRequest, fmt.Sprintf("%.60q is no IPv4 address", in.Address))
	}
	var owner *fleet.Machine
	s.cfg.Cluster.View(func(st *fleet.State) { owner = st.MachineByAddress(addr.String()) })
	if owner != nil {
		return nil, NewProblem(http.StatusConflict, fmt.Sprintf("%s is kept for machine %s as long as that is known; forget the machine to free it", addr, owner.Name))
	}
	var was Lease
	ok := false
	if s.cfg.Leases != nil {
		if was, ok, err = s.cfg.Leases.Release(addr); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, NewProblem(http.StatusNotFound, fmt.Sprintf("node %s has not lent %s to anybody; a lease is ended at the node that gave it", s.cfg.Name, addr))
	}
	c := door.CallerOf(ctx)
	s.log.Info("an address was taken back by hand", slog.String("address", was.Address), slog.String("was", was.State), slog.String("mac", was.MAC),
		slog.String("by", c.Name), slog.String("from", c.From))
	was.Node = s.cfg.Name
	return &struct{ Body Lease }{was}, nil
}

func parsed(addr string) netip.Addr {
	a, _ := netip.ParseAddr(addr) // what is none comes first
	return a
}
