package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func taskCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "task", Short: "Make, approve and follow installs"}
	cmd.AddCommand(taskList(node), taskShow(node), taskCreate(node), taskApprove(node), taskReject(node),
		taskVerb(node, "cancel", "Stop a task; an install that runs leaves its disk unfinished", (*client.Client).CancelTask),
		taskVerb(node, "retry", "Start an ended task anew; it has to be approved again", (*client.Client).RetryTask),
		taskDelete(node), taskWatch(node))
	return cmd
}

func taskList(node *nodeFlags) *cobra.Command {
	var f client.TaskFilter
	cmd := &cobra.Command{Use: "list", Short: "List tasks, newest first", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			tasks, err := c.Tasks(cmd.Context(), f)
			if err != nil {
				return err
			}
			if tasks == nil {
				tasks = []api.Task{} // in JSON, none is a list
			}
			return node.print(cmd.OutOrStdout(), tasks, func(w io.Writer) {
				row(w, "ID", "STATUS", "IMAGE", "MACHINE", "MAC", "MADE", "DETAIL")
				for _, t := range tasks {
					row(w, t.ID, t.Status, t.Image, t.MachineName, t.TargetMAC, when(t.CreatedAt), t.PhaseText)
				}
			})
		})}
	cmd.Flags().StringVar(&f.Status, "status", "", "only tasks in this status")
	cmd.Flags().StringVar(&f.RegionID, "region", "", "only tasks of this region")
	cmd.Flags().StringVar(&f.MachineID, "machine", "", "only tasks of this machine (its id)")
	return cmd
}

func taskShow(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "show TASK", Short: "Show one task with its plan and log", Args: exactly(1, "a task's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			t, err := c.Task(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), t, func(w io.Writer) { showTask(w, t) })
		})}
}

func showTask(w io.Writer, t api.Task) {
	row(w, "task", t.ID)
	row(w, "status", orDash(string(t.Status), "("+t.PhaseText+")"))
	row(w, "image", t.Image)
	row(w, "machine", orDash(t.MachineName, t.TargetMAC))
	if p := t.Progress; p != nil {
		row(w, "progress", fmt.Sprintf("%.0f %% %s %s", p.Percentage, p.Stage, p.Message))
	}
	if t.Problem != "" {
		row(w, "problem", t.Problem)
	}
	if t.Error != nil {
		row(w, "error", t.Error.Message)
	}
	if t.Approval != nil {
		row(w, "decided", fmt.Sprintf("by %s at %s %s", t.Approval.By, when(t.Approval.At), t.Approval.Notes))
	}
	if word := t.FirstWord; word != nil {
		row(w, "first word", fmt.Sprintf("by %s at %s; a second person has to approve it, too", word.By, when(word.At)))
	}
	if t.Status == wire.StatusNeedsReview {
		row(w, "REVIEW", t.Review)
	}
	if t.Held != nil {
		row(w, "HELD", t.Held.Reason+", since "+when(t.Held.Since))
	}
	if t.CameUp != nil {
		row(w, "came up", orDash(when(t.CameUp.At), "as", t.CameUp.Hostname, t.CameUp.IP))
	}
	if len(t.Actions) > 0 {
		row(w, "you can", strings.Join(t.Actions, ", "))
	}
	if t.Plan != nil {
		fmt.Fprintln(w)
		showPlan(w, t.Plan, t.PlanHash)
	}
	fmt.Fprintln(w)
	for _, l := range t.Logs {
		row(w, when(l.At), l.Text)
	}
}

// showPlan says what dies and what stays, in the words of the dashboard's dialog.
func showPlan(w io.Writer, p *wire.Plan, hash string) {
	row(w, "ERASE", fmt.Sprintf("%s %s, %s, serial %s%s", p.Erase.Name, p.Erase.Model, size(p.Erase.SizeBytes), p.Erase, wwn(p.Erase.WWN)))
	for _, line := range contents(p.Erase.Contents) {
		row(w, " ", "  "+line)
	}
	if p.Image.SizeBytes > 0 {
		row(w, "write", fmt.Sprintf("%s (%s), hostname %s", p.Image.Name, size(p.Image.SizeBytes), p.FirstBoot.Hostname))
	} else {
		row(w, "boot", p.Image.Name)
	}
	for _, d := range p.Untouched {
		row(w, "keep", fmt.Sprintf("%s %s, %s, serial %s", d.Name, d.Model, size(d.SizeBytes), d))
	}
	for _, warning := range p.Warnings {
		row(w, "note", warning)
	}
	row(w, "plan", hash)
}

func wwn(s string) string {
	if s == "" {
		return ""
	}
	return ", WWN " + s
}

// contents lists what lies on a disk.
func contents(c wire.Contents) []string {
	if c.Blank() {
		return []string{"nothing is on it"}
	}
	var out []string
	if c.OS != "" {
		out = append(out, "system: "+c.OS)
	}
	for _, p := range c.Partitions {
		out = append(out, fmt.Sprintf("partition %d: %s %s", p.Number, size(p.SizeBytes), orDash(p.Type, p.Filesystem, p.Label, p.FSLabel)))
	}
	if len(c.Signatures) > 0 {
		out = append(out, "holds: "+strings.Join(c.Signatures, ", "))
	}
	if c.Marker != nil {
		out = append(out, "installed by task "+c.Marker.TaskID)
	}
	if c.Unreadable != "" {
		out = append(out, "cannot be read: "+c.Unreadable)
	}
	return out
}

func taskCreate(node *nodeFlags) *cobra.Command {
	var wish api.Wish
	var disk, userData string
	var keyFiles []string
	net := fleet.NetworkConfig{}
	var layout fleet.DiskLayout
	cmd := &cobra.Command{Use: "create --mac MAC --os NAME [--os-version VERSION]", Short: "Ask for an install; it still has to be approved", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if wish.TargetMAC == "" && wish.MachineID == "" {
				return &usageError{errors.New("say which machine: --mac or --machine")}
			}
			if wish.OSType == "" {
				return &usageError{errors.New("say what to install: --os, for instance --os debian --os-version 12")}
			}
			layout.Disk = disk
			for _, f := range keyFiles {
				b, err := os.ReadFile(f)
				if err != nil {
					return fmt.Errorf("read SSH keys: %w", err)
				}
				for line := range strings.Lines(string(b)) {
					if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
						net.SSHKeys = append(net.SSHKeys, line)
					}
				}
			}
			if userData != "" {
				b, err := os.ReadFile(userData)
				if err != nil {
					return fmt.Errorf("read user data: %w", err)
				}
				wish.UserData = string(b)
			}
			wish.DiskLayout, wish.NetworkConfig = &layout, &net
			t, err := c.CreateTask(cmd.Context(), wish)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), t, func(w io.Writer) { showTask(w, t) })
		})}
	f := cmd.Flags()
	f.StringVar(&wish.TargetMAC, "mac", "", "MAC address of the machine, known or not yet")
	f.StringVar(&wish.MachineID, "machine", "", "id of a known machine")
	f.StringVar(&wish.OSType, "os", "", "what to install: an image's name or its part before the version")
	f.StringVar(&wish.OSVersion, "os-version", "", "version of the image")
	f.StringVar(&wish.RegionID, "region", "", "region of the task (the machine's if not given)")
	f.StringVar(&net.Hostname, "hostname", "", "hostname of the installed system")
	f.StringArrayVar(&keyFiles, "ssh-keys", nil, "`file` of public keys, as authorized_keys")
	f.StringVar(&disk, "disk", "", "serial or WWN of the disk to erase (the smallest that fits if not given)")
	f.BoolVar(&layout.KeepRoot, "keep-root-size", false, "do not grow the root partition")
	f.StringVar(&userData, "user-data", "", "file of cloud-init user-data")
	return cmd
}

func taskApprove(node *nodeFlags) *cobra.Command {
	var plan, serial, notes string
	var yes, showOnly bool
	cmd := &cobra.Command{Use: "approve TASK", Short: "Approve a task's plan: its disk is erased",
		Long: "Shows the plan and asks for the serial of the disk that will be erased. Without a terminal\n" +
			"give --yes with --expect-serial or with --plan-hash; anything else is refused.",
		Args: exactly(1, "a task's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			t, err := c.Task(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if t.Plan == nil {
				return &conflictError{fmt.Errorf("task %s has no plan to approve: %s", t.ID, orDash(t.PhaseText, t.Problem))}
			}
			if showOnly {
				return node.print(cmd.OutOrStdout(), t.Plan, func(w io.Writer) { showPlan(w, t.Plan, t.PlanHash) })
			}
			if serial != "" && serial != t.Plan.Erase.Serial && serial != t.Plan.Erase.WWN {
				return &hinted{&conflictError{fmt.Errorf("the plan erases %s, not %s; nothing was approved", t.Plan.Erase, serial)},
					"lpmos task approve " + t.ID + " --plan shows what it would erase"}
			}
			switch {
			case yes && serial == "" && plan == "":
				return &hinted{&usageError{errors.New("--yes needs to know what may be erased; nothing was approved")},
					"give --expect-serial with the disk's serial, or --plan-hash with the plan you saw"}
			case !yes && plan != "":
				return &usageError{errors.New("--plan-hash needs --yes: nobody is asked")}
			case !yes:
				if err := confirmErase(cmd, t); err != nil {
					return err
				}
			}
			if plan == "" {
				plan = t.PlanHash
			}
			t, err = c.Decide(cmd.Context(), t.ID, api.Decision{Approved: true, PlanHash: plan, ConfirmSerial: t.Confirm, Notes: notes})
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), t, func(w io.Writer) {
				if t.FirstWord != nil {
					row(w, "first word", t.ID, t.PhaseText)
					return
				}
				row(w, "approved", t.ID, t.PhaseText)
			})
		})}
	cmd.Flags().StringVar(&plan, "plan-hash", "", "approve this plan and no other")
	cmd.Flags().StringVar(&serial, "expect-serial", "", "serial or WWN of the disk that may be erased")
	cmd.Flags().StringVar(&notes, "notes", "", "kept with the approval")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&showOnly, "plan", false, "show the plan and change nothing")
	return cmd
}

func taskReject(node *nodeFlags) *cobra.Command {
	var notes string
	cmd := &cobra.Command{Use: "reject TASK", Short: "Reject a task's plan; the machine boots its own disk", Args: exactly(1, "a task's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			t, err := c.Decide(cmd.Context(), args[0], api.Decision{Notes: notes})
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), t, func(w io.Writer) { row(w, "rejected", t.ID) })
		})}
	cmd.Flags().StringVar(&notes, "notes", "", "kept with the decision")
	return cmd
}

// taskVerb is a command that does one thing to one task.
func taskVerb(node *nodeFlags, verb, short string, do func(*client.Client, context.Context, string) (api.Task, error)) *cobra.Command {
	return &cobra.Command{Use: verb + " TASK", Short: short, Args: exactly(1, "a task's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			t, err := do(c, cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), t, func(w io.Writer) { row(w, t.ID, t.Status, t.PhaseText) })
		})}
}

func taskDelete(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "delete TASK", Short: "Forget a task", Args: exactly(1, "a task's id"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := c.DeleteTask(cmd.Context(), args[0]); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "deleted", args[0])
		})}
}

// taskWatch prints what happens, one line an event, until it is told to stop.
func taskWatch(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "watch [TASK…]", Short: "Print what happens as it happens (NDJSON with --json)",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			for _, id := range args {
				if _, err := c.Task(cmd.Context(), id); err != nil {
					return err
				}
			}
			return watch(cmd.Context(), c, node.json, args, cmd.OutOrStdout())
		})}
}
