package main

import (
	"fmt"

	"github.com/lpmos/lpmos/appliance/systemd"
	"github.com/spf13/cobra"
)

func unitCommand() *cobra.Command {
	return &cobra.Command{Use: "unit", Short: "Print a node as a service of systemd", Args: cobra.NoArgs,
		Long: "Prints a unit that runs a node closed in as far as it can be, as a user of its own and with the rights\n" +
			"to open low ports and to send to machines without an address:\n\n" +
			"  lpmos unit > /etc/systemd/system/lpmos.service",
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), systemd.Unit) }}
}
