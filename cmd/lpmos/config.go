package main

import (
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/spf13/cobra"
)

func configCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Print and check a node's configuration"}
	cmd.AddCommand(&cobra.Command{
		Use:   "reference",
		Short: "Print a commented file with every key and its default",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), config.Reference()) },
	})

	check := &cobra.Command{Use: "check", Short: "Check a configuration; exit 0 if a node would take it", Args: cobra.NoArgs}
	loadCheck := configFlags(check)
	check.RunE = func(cmd *cobra.Command, _ []string) error {
		if _, _, err := loadCheck(); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), "the configuration is good")
		return nil
	}

	show := &cobra.Command{Use: "show", Short: "Print what is in force", Args: cobra.NoArgs}
	origin := show.Flags().Bool("origin", false, "say where each value came from")
	loadShow := configFlags(show)
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, from, err := loadShow()
		if err != nil {
			return err
		}
		if !*origin {
			from = nil
		}
		if node.json {
			values, err := yaml.MarshalWithOptions(cfg, yaml.JSON())
			if err != nil {
				return fmt.Errorf("print the configuration: %w", err)
			}
			return node.print(cmd.OutOrStdout(), struct {
				Values  json.RawMessage `json:"values"`
				Origins config.Origins  `json:"origins,omitempty"`
			}{values, from}, nil)
		}
		fmt.Fprint(cmd.OutOrStdout(), config.Show(cfg, from))
		return nil
	}
	cmd.AddCommand(check, show)
	return cmd
}
