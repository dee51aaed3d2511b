package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func machineCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "machine", Short: "See what is on the rack"}
	list := &cobra.Command{Use: "list", Short: "List machines", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Machines(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				row(w, "ID", "NAME", "STATE", "SERIAL", "MAC", "ADDRESS", "DETAIL")
				for _, m := range all {
					mac, ip := first(m)
					row(w, m.ID, m.Name, m.Phase, m.IDs.Serial, mac, ip, m.PhaseText)
				}
			})
		})}
	show := &cobra.Command{Use: "show MACHINE", Short: "Show one machine: hardware, disks, what it did on the wire", Args: exactly(1, "a machine's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			m, err := c.Machine(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { showMachine(w, m) })
		})}
	forget := &cobra.Command{Use: "forget MACHINE", Short: "Forget a machine that has no open task", Args: exactly(1, "a machine's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := c.DeleteMachine(cmd.Context(), args[0]); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "forgotten", args[0])
		})}
	var accept bool
	settle := &cobra.Command{Use: "settle MACHINE", Short: "Answer a clash of ids: keep what is known, or --accept what was seen", Args: exactly(1, "a machine's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			m, err := c.Settle(cmd.Context(), args[0], accept)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { row(w, "settled", m.ID, m.Name, m.PhaseText) })
		})}
	settle.Flags().BoolVar(&accept, "accept", false, "the machine takes the ids that were seen")
	cmd.AddCommand(list, show, forget, settle)
	return cmd
}

func upDown(link bool) string {
	if link {
		return "up"
	}
	return "down"
}

func first(m api.Machine) (mac, ip string) {
	for _, mac := range m.IDs.MACs {
		if ip := m.Addresses[mac]; ip != "" {
			return mac, ip
		}
	}
	if len(m.IDs.MACs) > 0 {
		return m.IDs.MACs[0], ""
	}
	return "", ""
}

func showMachine(w io.Writer, m api.Machine) {
	row(w, "machine", m.ID)
	row(w, "name", m.Name)
	row(w, "state", orDash(string(m.Phase), "("+m.PhaseText+")"))
	row(w, "serial", m.IDs.Serial)
	row(w, "uuid", m.IDs.UUID)
	row(w, "macs", strings.Join(m.IDs.MACs, ", "))
	for _, mac := range slices.Sorted(maps.Keys(m.Addresses)) {
		row(w, "address", m.Addresses[mac]+" ("+mac+")")
	}
	if m.Question != "" {
		row(w, "QUESTION", m.Question)
	}
	for _, t := range m.Troubles {
		row(w, "TROUBLE", t)
	}
	if m.PairingCode != "" {
		row(w, "pairing", m.PairingCode)
	}
	if i := m.Installed; i != nil {
		row(w, "installed", fmt.Sprintf("%s on %s at %s, came up %s", i.Image, i.Disk, when(i.At), when(i.CameUp)))
	}
	row(w, "reported", when(m.ReportedAt))
	if inv := m.Inventory; inv != nil {
		row(w, "system", orDash(inv.System.Vendor, inv.System.Product))
		row(w, "firmware", orDash(inv.Firmware.Mode, inv.Firmware.Vendor, inv.Firmware.Version))
		row(w, "cpu", fmt.Sprintf("%s, %d sockets, %d cores, %d threads", inv.CPU.Model, inv.CPU.Sockets, inv.CPU.Cores, inv.CPU.Threads))
		row(w, "memory", fmt.Sprintf("%s in %d modules", size(inv.Memory.TotalBytes), len(inv.Memory.DIMMs)))
		for _, n := range inv.NICs {
			row(w, "nic", fmt.Sprintf("%s %s %s, link %s", n.Name, n.MAC, n.Driver, upDown(n.Link)))
		}
		for _, d := range inv.Disks {
			row(w, "disk", fmt.Sprintf("%s %s, %s, serial %s%s, %s", d.Name, d.Model, size(d.SizeBytes), d.Serial, wwn(d.WWN), strings.Join(contents(d.Contents), "; ")))
		}
	}
	if len(m.Sightings) > 0 {
		fmt.Fprintln(w)
		for _, s := range m.Sightings {
			row(w, when(s.At), s.MAC+" "+s.Text)
		}
	}
}
