package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

// nodeStatus is what a node says of itself, its networks and its fleet.
type nodeStatus struct {
	Health     api.Health      `json:"health"`
	Interfaces []api.Interface `json:"interfaces"`
	Stats      api.Stats       `json:"stats"`
	// Cluster is nil for a node that is of none.
	Cluster *api.ClusterView `json:"cluster"`
}

func statusCommand(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "See how a running node is: its cluster, networks, machines and tasks", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			var s nodeStatus
			var err error
			if s.Health, err = c.Health(cmd.Context()); err != nil {
				return err
			}
			network, err := c.Network(cmd.Context())
			if err != nil {
				return err
			}
			s.Interfaces = network.Interfaces
			if s.Stats, err = c.Stats(cmd.Context()); err != nil {
				return err
			}
			switch cluster, err := c.Cluster(cmd.Context()); {
			case err == nil:
				s.Cluster = &cluster
			case client.StatusOf(err) != http.StatusNotImplemented:
				return err
			}
			return node.print(cmd.OutOrStdout(), s, func(w io.Writer) { showStatus(w, s) })
		})}
}

func showStatus(w io.Writer, s nodeStatus) {
	h := s.Health
	row(w, "node", fmt.Sprintf("%s in region %s, %s, version %s", h.Node, h.Region, h.Status, h.Version))
	row(w, "running for", time.Duration(h.UptimeSeconds)*time.Second)
	if s.Cluster != nil {
		row(w, "cluster", s.Cluster.Summary)
		if s.Cluster.Problem != "" {
			row(w, "PROBLEM", s.Cluster.Problem)
		}
		for _, a := range s.Cluster.Alarms {
			row(w, "ALARM", a)
		}
	}
	for _, i := range s.Interfaces {
		row(w, "network", networkLine(i))
	}
	if len(s.Interfaces) == 0 {
		row(w, "network", "none is served (--interface names one)")
	}
	row(w, "machines", counts(s.Stats.Machines))
	row(w, "tasks", counts(s.Stats.Tasks))
	row(w, "images", s.Stats.Images)
	row(w, "needs you", s.Stats.NeedsYou)
}

// networkLine is a network as a line: where its machines are, and what they are given.
func networkLine(i api.Interface) string {
	where := i.Address
	if i.BehindRelays != "" {
		where = i.BehindRelays + " behind relays"
	}
	return orDash(i.Name, i.Mode, where, i.Range)
}

// counts says how many there are of each kind, without those of which there is none.
func counts[K ~string](of map[K]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(of)) {
		if of[k] > 0 {
			out = append(out, fmt.Sprintf("%d %s", of[k], k))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
