package main

import (
	"fmt"
	"io"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func policyCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "See and change how much may be erased on one person's word"}
	show := &cobra.Command{Use: "show", Short: "Show the policy", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			p, err := c.Policy(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), p, func(w io.Writer) { showPolicy(w, p) })
		})}
	var limit, window int
	var second string
	set := &cobra.Command{Use: "set", Short: "Change the policy; what is not given stays as it is", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			p, err := c.Policy(cmd.Context())
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("cap") {
				p.ApprovalCap = limit
			}
			if cmd.Flags().Changed("window") {
				p.ApprovalWindowMinutes = window
			}
			if cmd.Flags().Changed("second-approver") {
				p.SecondApprover = second
			}
			if p, err = c.SetPolicy(cmd.Context(), p.ErasePolicyWish); err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), p, func(w io.Writer) { showPolicy(w, p) })
		})}
	set.Flags().IntVar(&limit, "cap", 10, "how many plans may be approved in the window before a second person is asked")
	set.Flags().IntVar(&window, "window", 10, "the window, in minutes")
	set.Flags().StringVar(&second, "second-approver", "cap", "when a second person has to approve: cap (beyond the cap), always, never")
	cmd.AddCommand(show, set)
	return cmd
}

func showPolicy(w io.Writer, p api.ErasePolicy) {
	row(w, "cap", fmt.Sprintf("%d approvals in %d min", p.ApprovalCap, p.ApprovalWindowMinutes))
	row(w, "second approver", map[string]string{"cap": "cap: beyond the cap", "always": "always: for every plan", "never": "never"}[p.SecondApprover])
	if p.By != "" {
		row(w, "changed", fmt.Sprintf("by %s at %s", p.By, when(p.ChangedAt)))
	}
}
