package main

import (
	"io"

	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func auditCommand(node *nodeFlags) *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "audit", Short: "List what people and nodes have done, the newest first", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Audit(cmd.Context(), limit)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				row(w, "WHEN", "INDEX", "WHAT")
				for _, r := range all {
					row(w, when(r.At), r.Index, r.What)
				}
			})
		})}
	cmd.Flags().IntVar(&limit, "limit", 200, "how many at most; 1,000 are kept")
	return cmd
}
