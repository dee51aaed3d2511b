package main

import (
	"cmp"
	"context"
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
	show := &cobra.Command{Use: "show MACHINE", Short: "Show one machine: hardware, disks, what it did on the wire", Args: exactly(1, "a machine's id or name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			id, err := machineID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			m, err := c.Machine(cmd.Context(), id)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { showMachine(w, m) })
		})}
	forget := &cobra.Command{Use: "forget MACHINE", Short: "Forget a machine that has no open task", Args: exactly(1, "a machine's id or name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			id, err := machineID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if err := c.DeleteMachine(cmd.Context(), id); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "forgotten", id)
		})}
	var accept bool
	settle := &cobra.Command{Use: "settle MACHINE", Short: "Answer a clash of ids: keep what is known, or --accept what was seen", Args: exactly(1, "a machine's id or name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			id, err := machineID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			m, err := c.Settle(cmd.Context(), id, accept)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { row(w, "settled", m.ID, m.Name, m.PhaseText) })
		})}
	settle.Flags().BoolVar(&accept, "accept", false, "the machine takes the ids that were seen")
	protect := machineVerb(node, "protect", "Protect a machine: nothing is approved for it", "protected",
		func(c *client.Client, ctx context.Context, id string) (api.Machine, error) {
			return c.Protect(ctx, id, true)
		})
	unprotect := machineVerb(node, "unprotect", "Take the protection off a machine", "not protected any more",
		func(c *client.Client, ctx context.Context, id string) (api.Machine, error) {
			return c.Protect(ctx, id, false)
		})
	release := machineVerb(node, "release", "Let a machine netboot again that is held because its agent never reported", "released", (*client.Client).Release)
	cmd.AddCommand(list, show, machineBoot(node), forget, settle, protect, unprotect, release, machineAddress(node))
	return cmd
}

// machineVerb is a command that does one thing to one machine, named by its id or
// its name.
func machineVerb(node *nodeFlags, verb, short, done string, do func(*client.Client, context.Context, string) (api.Machine, error)) *cobra.Command {
	return &cobra.Command{Use: verb + " MACHINE", Short: short, Args: exactly(1, "a machine's id or name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			id, err := machineID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			m, err := do(c, cmd.Context(), id)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { row(w, done, m.ID, m.Name) })
		})}
}

// machineID finds the machine that is called so: refusals name machines as people do.
func machineID(ctx context.Context, c *client.Client, name string) (string, error) {
	all, err := c.Machines(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, m := range all {
		if m.ID == name {
			return name, nil
		}
		if m.Name == name {
			found = append(found, m.ID)
		}
	}
	if len(found) > 1 {
		return "", &conflictError{fmt.Errorf("%d machines are called %s: give the id of one (%s)", len(found), name, strings.Join(found, ", "))}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return name, nil // the node says that there is none
}

func upDown(link bool) string {
	if link {
		return "up"
	}
	return "down"
}

func first(m api.Machine) (mac, ip string) {
	for _, mac := range m.IDs.MACs {
		if ip := cmp.Or(m.Assigned[mac], m.Addresses[mac]); ip != "" {
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
	for _, mac := range slices.Sorted(maps.Keys(m.Assigned)) {
		row(w, "address", m.Assigned[mac]+" ("+mac+"), given by hand")
	}
	for _, mac := range slices.Sorted(maps.Keys(m.Addresses)) {
		if m.Assigned[mac] == "" {
			row(w, "address", m.Addresses[mac]+" ("+mac+")")
		}
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
	if m.Stall != nil {
		row(w, "STALLED", m.Stall.Text+", since "+when(m.Stall.Since))
		row(w, "what to do", m.Stall.Hint)
	}
	if m.Held != nil {
		row(w, "HELD", m.Held.Reason+", since "+when(m.Held.Since))
	}
	if m.Protected {
		row(w, "protected", "nothing is approved for it")
	}
	if n := m.NextBoot; n != nil {
		row(w, "next boot", fmt.Sprintf("profile %s, asked by %s, %s, until %s", n.Profile, n.By, n.Waits, when(n.Expires)))
		if n.Erases {
			row(w, "may erase", fmt.Sprintf("disk %s, plan %s", n.Disk, n.PlanHash))
		}
	}
	if n := m.NotBooted; n != nil {
		row(w, "NOT BOOTED", n.Reason)
	}
	if b := m.LastBoot; b != nil {
		row(w, "last boot", fmt.Sprintf("profile %s, asked by %s, at %s", b.Profile, b.By, when(b.At)))
		if up := b.CameUp; up != nil {
			row(w, "reported", orDash(when(up.At), "as", up.Hostname, up.IP))
		}
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
	if len(m.Timeline) > 0 {
		fmt.Fprintln(w)
		for _, mo := range m.Timeline {
			row(w, when(mo.At), mo.Text)
		}
	}
}
