package api

import (
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Stats are the fleet in numbers.
type Stats struct {
	Machines map[Phase]int       `json:"machines" doc:"Count by phase"`
	Tasks    map[wire.Status]int `json:"tasks" doc:"Count by status"`
	NeedsYou int                 `json:"needs_you" doc:"Machines that wait for a person, failed or are lost"`
	Images   int                 `json:"images"`
	Index    uint64              `json:"index" doc:"Of the last change"`
	Node     string              `json:"node" doc:"The node that counted"`
	Region   string              `json:"region"`
}

// Region is a place with nodes and machines.
type Region struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Nodes    int    `json:"nodes"`
	Machines int    `json:"machines"`
	Tasks    int    `json:"tasks" doc:"Open ones"`
}

// Regions lists every region anything is in, this node's own first.
func Regions(s *fleet.State, own string) []Region {
	var out []Region
	at := map[string]int{}
	of := func(id string) *Region {
		i, ok := at[id]
		if !ok {
			i = len(out)
			at[id] = i
			out = append(out, Region{ID: id, Name: id})
		}
		return &out[i]
	}
	of(own)
	for _, n := range s.Nodes() {
		of(n.RegionID).Nodes++
	}
	for _, m := range s.Machines() {
		of(m.RegionID).Machines++
	}
	for _, t := range s.CurrentTasks() {
		if t.Open() {
			of(t.RegionID).Tasks++
		}
	}
	return out
}
