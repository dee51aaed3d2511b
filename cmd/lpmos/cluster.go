package main

import (
	"context"
	"errors"
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

func nodeCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "See and change which nodes are the cluster"}
	cmd.AddCommand(nodeToken(node), nodeList(node), nodeShow(node),
		nodeVerb(node, "promote", "Give a node a vote", "promoted", (*client.Client).Promote),
		nodeVerb(node, "demote", "Take a node's vote away; it still serves machines and people", "demoted", (*client.Client).Demote),
		nodeTransfer(node), nodeRemove(node))
	return cmd
}

func nodeToken(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "token", Short: "Print the command with which one more node joins", Args: cobra.NoArgs,
		Long: "Prints the command to run on the new node. Its token is good for one node, once.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			t, err := c.NewToken(cmd.Context())
			if err != nil {
				return err
			}
			if err := node.print(cmd.OutOrStdout(), t, func(w io.Writer) { fmt.Fprintln(w, "lpmos up --join", t.Token, t.Address) }); err != nil {
				return err
			}
			if !node.json {
				fmt.Fprintf(cmd.ErrOrStderr(), "run this on the new node before %s; it works once\n", when(t.ExpiresAt))
			}
			return nil
		})}
}

func nodeList(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the nodes of the cluster", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			v, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), v.Members, func(w io.Writer) {
				row(w, "NAME", "ID", "REGION", "ROLE", "REACHED", "BEHIND", "ROUND TRIP", "VERSION", "FREE", "ADDRESS", "DETAIL")
				for _, m := range v.Members {
					row(w, m.Name, m.ID, m.Region, standing(m), reached(m, v.Node), m.Lag, roundTrip(m, v.Node), m.Version,
						size(m.Described.FreeBytes), m.Address, strings.Join(m.Warnings, "; "))
				}
			})
		})}
}

// standing is what a node is in the cluster.
func standing(m api.Member) string {
	switch {
	case m.Leader:
		return "leader"
	case m.Voter:
		return "voter"
	}
	return "stands by"
}

func reached(m api.Member, here string) string {
	switch {
	case m.ID == here:
		return "this node"
	case m.Reachable:
		return "yes"
	case m.SeenAt.IsZero():
		return "never yet"
	}
	return "silent since " + when(m.SeenAt)
}

func roundTrip(m api.Member, here string) string {
	if m.ID == here || !m.Reachable {
		return ""
	}
	return fmt.Sprintf("%.1f ms", m.RoundTrip)
}

func nodeShow(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "See how the cluster looks from this node, and which node holds which image", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			v, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			images, err := c.Images(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), v, func(w io.Writer) { showCluster(w, v, images) })
		})}
}

func showCluster(w io.Writer, v api.ClusterView, images []api.Image) {
	row(w, "node", fmt.Sprintf("%s (%s)", nameOf(v, v.Node), v.Role))
	row(w, "cluster", v.Summary)
	row(w, "term", v.Term)
	row(w, "index", fmt.Sprintf("%d here, %d agreed on", v.Applied, v.Committed))
	if v.Problem != "" {
		row(w, "PROBLEM", v.Problem)
		if !v.Quorum {
			row(w, "as of", when(v.HeardAt))
		}
	}
	for _, m := range v.Members {
		fmt.Fprintln(w)
		row(w, m.Name, fmt.Sprintf("%s in %s, %s", standing(m), m.Region, m.ID))
		row(w, "  reached", reached(m, v.Node))
		if m.ID != v.Node {
			row(w, "  behind", fmt.Sprintf("%d entries", m.Lag))
			row(w, "  clock", fmt.Sprintf("%+.2f s", m.ClockOff))
		}
		row(w, "  version", m.Version)
		row(w, "  free", size(m.Described.FreeBytes))
		row(w, "  dashboard", m.Dashboard)
		row(w, "  for nodes", m.Address)
		for _, digest := range slices.Sorted(maps.Keys(m.Described.Images)) {
			h := m.Described.Images[digest]
			row(w, "  holds", fmt.Sprintf("%d of %d chunks of %s", h.Have, h.Total, imageNamed(images, digest)))
		}
		for _, text := range m.Warnings {
			row(w, "  WARNING", text)
		}
	}
}

func nameOf(v api.ClusterView, id string) string {
	for _, m := range v.Members {
		if m.ID == id {
			return m.Name
		}
	}
	return id
}

func imageNamed(images []api.Image, digest string) string {
	for _, i := range images {
		if i.Digest == digest {
			return "image " + i.Name
		}
	}
	return "an image that is forgotten, " + digest
}

// member finds a node by its id or, if only one has it, its name.
func member(ctx context.Context, c *client.Client, word string) (api.Member, error) {
	v, err := c.Cluster(ctx)
	if err != nil {
		return api.Member{}, err
	}
	var named []api.Member
	var all []string
	for _, m := range v.Members {
		if m.ID == word {
			return m, nil
		}
		if m.Name == word {
			named = append(named, m)
		}
		all = append(all, m.Name)
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return api.Member{}, &hinted{&client.Error{Problem: *api.NewProblem(http.StatusNotFound, "there is no node "+word)},
			"there are: " + strings.Join(all, ", ")}
	}
	var ids []string
	for _, m := range named {
		ids = append(ids, m.ID)
	}
	return api.Member{}, &hinted{&conflictError{fmt.Errorf("%d nodes are named %s", len(named), word)}, "say which by its id: " + strings.Join(ids, ", ")}
}

// nodeVerb is a command that does one thing to one node.
func nodeVerb(node *nodeFlags, verb, short, done string, do func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{Use: verb + " NODE", Short: short, Args: exactly(1, "a node's name or id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			m, err := member(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := do(c, cmd.Context(), m.ID); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), done, m.Name)
		})}
}

func nodeTransfer(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "transfer-leadership [NODE]", Short: "Let another node lead: the one that is named, or any",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{errors.New("give one node's name or id, or none")}
			}
			return nil
		},
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			to := ""
			if len(args) == 1 {
				m, err := member(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				to = m.ID
			}
			before, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.Transfer(cmd.Context(), to); err != nil {
				return err
			}
			leader, err := awaitLeader(cmd.Context(), c, func(id string) bool { return id == to || to == "" && id != before.Leader })
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), map[string]string{"leader": leader}, func(w io.Writer) { fmt.Fprintln(w, leader, "leads") })
		})}
}

// awaitLeader waits until the node that was asked knows of a leader that fits,
// and gives its name.
func awaitLeader(ctx context.Context, c *client.Client, fits func(id string) bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		v, err := c.Cluster(ctx)
		if err != nil {
			return "", err
		}
		if v.Leader != "" && fits(v.Leader) {
			return nameOf(v, v.Leader), nil
		}
		select {
		case <-ctx.Done():
			return "", errors.New("the leader was asked to hand over, and who leads is not known yet; lpmos node list shows it")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func nodeRemove(node *nodeFlags) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "remove NODE", Short: "Take a node out of the cluster for good", Args: exactly(1, "a node's name or id"),
		Long: "Takes a node out of the cluster. It loses its vote and hears of nothing any more; to come back it\n" +
			"has to join anew with an empty data directory. Machines that it alone can reach boot no longer.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			m, err := member(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := confirmRemove(cmd, m); err != nil {
					return err
				}
			}
			if err := c.RemoveNode(cmd.Context(), m.ID); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "removed", m.Name)
		})}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// confirmRemove makes sure that the person knows which node goes.
func confirmRemove(cmd *cobra.Command, m api.Member) error {
	if !isTerminal(cmd.InOrStdin()) {
		return &hinted{&usageError{errors.New("there is no terminal to ask on; nothing was removed")}, "give --yes"}
	}
	out := cmd.ErrOrStderr()
	fmt.Fprintf(out, "%s in %s (%s) leaves the cluster. To come back it has to join anew with an empty data directory.\n", m.Name, m.Region, standing(m))
	fmt.Fprintf(out, "Type its name to remove it (%s): ", m.Name)
	answer, err := readLine(cmd.Context(), cmd.InOrStdin())
	if ctxErr := cmd.Context().Err(); ctxErr != nil {
		fmt.Fprintln(out)
		return ctxErr
	}
	if err != nil || answer != m.Name {
		return errors.New("that is not its name; nothing was removed")
	}
	return nil
}
