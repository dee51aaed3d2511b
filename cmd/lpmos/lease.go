package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func leaseCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "lease", Short: "See which addresses are in use, and take one back"}
	var all bool
	list := &cobra.Command{Use: "list", Short: "List addresses in use: kept for known machines, lent by this node, or resting", Args: cobra.NoArgs,
		Long: "kept     a known machine's for ever; every node gives it\n" +
			"lent     by this node, to a machine that is not known, until the time beside it\n" +
			"reserved for a machine by this node's configuration\n" +
			"resting  somebody else was found to use it, so nobody gets it for a while\n" +
			"ended    (with --all) the machine gets it back if it asks before it is needed\n\n" +
			"What another node of the cluster has lent, that node lists: --node names it.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			leases, err := c.Leases(cmd.Context(), all)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), leases, func(w io.Writer) {
				row(w, "ADDRESS", "STATE", "MAC", "MACHINE", "UNTIL", "NODE", "DETAIL")
				for _, l := range leases {
					row(w, l.Address, l.State, l.MAC, l.Machine, when(l.Until), l.Node, l.Why)
				}
			})
		})}
	list.Flags().BoolVar(&all, "all", false, "leases that have ended, too")
	cmd.AddCommand(list, leaseExport(node), leaseRelease(node))
	return cmd
}

func leaseExport(node *nodeFlags) *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "export", Short: "Print addresses in use for another program: csv, dnsmasq or isc", Args: cobra.NoArgs,
		Long: "csv      one line an address, with a heading\n" +
			"dnsmasq  a file for dnsmasq's dhcp-hostsfile: MAC,ADDRESS,NAME\n" +
			"isc      host declarations for dhcpd.conf\n\n" +
			"dnsmasq and isc name kept, reserved and lent addresses of which the MAC is known.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			write, ok := leaseFormats[format]
			if !ok {
				return &usageError{fmt.Errorf("there is no format %q; there are csv, dnsmasq and isc", format)}
			}
			leases, err := c.Leases(cmd.Context(), false)
			if err != nil {
				return err
			}
			return write(cmd.OutOrStdout(), leases)
		})}
	cmd.Flags().StringVar(&format, "format", "csv", "csv, dnsmasq or isc")
	return cmd
}

var leaseFormats = map[string]func(io.Writer, []api.Lease) error{"csv": leasesCSV, "dnsmasq": leasesDnsmasq, "isc": leasesISC}

func leasesCSV(w io.Writer, leases []api.Lease) error {
	out := csv.NewWriter(w)
	lines := [][]string{{"address", "state", "mac", "machine", "until", "node"}}
	for _, l := range leases {
		until := ""
		if !l.Until.IsZero() {
			until = l.Until.UTC().Format(time.RFC3339)
		}
		lines = append(lines, []string{l.Address, l.State, l.MAC, l.Machine, until, l.Node})
	}
	return out.WriteAll(lines) // which flushes
}

func leasesDnsmasq(w io.Writer, leases []api.Lease) error {
	for _, l := range held(leases) {
		line := l.MAC + "," + l.Address
		if name := hostName(l.Machine); name != "" {
			line += "," + name
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func leasesISC(w io.Writer, leases []api.Lease) error {
	for _, l := range held(leases) {
		// The MAC makes it unique: machines may be called alike and have several cards.
		name := strings.Trim(hostName(l.Machine)+"-"+strings.ReplaceAll(l.MAC, ":", ""), "-")
		if _, err := fmt.Fprintf(w, "host %s { hardware ethernet %s; fixed-address %s; }\n", name, l.MAC, l.Address); err != nil {
			return err
		}
	}
	return nil
}

// held are the leases of which somebody has the address.
func held(leases []api.Lease) (out []api.Lease) {
	for _, l := range leases {
		if slices.Contains([]string{api.LeaseKept, api.LeaseLent, api.LeaseReserved}, l.State) && l.MAC != "" {
			out = append(out, l)
		}
	}
	return out
}

var notInHostNames = regexp.MustCompile(`[^a-z0-9-]+`)

// hostName is a machine's name as a host may be called: firmware's words are in it,
// and none of them may end up as another program's configuration.
func hostName(name string) string {
	name = notInHostNames.ReplaceAllString(strings.ToLower(name), "-")
	return strings.Trim(name[:min(len(name), 40)], "-")
}

func leaseRelease(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "release ADDRESS", Short: "Take an address back that this node has lent, or end its rest", Args: exactly(1, "an IPv4 address"),
		Long: "The machine that has the address is not asked. It may go on using it until it wants to renew it:\n" +
			"release what is not in use any more. Who did it is written into the log of the node.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			l, err := c.ReleaseLease(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), l, func(w io.Writer) { row(w, "released", l.Address, "was "+l.State, l.MAC) })
		})}
}
