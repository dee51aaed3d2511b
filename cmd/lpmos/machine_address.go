package main

import (
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

// machineAddress shows which addresses a machine has, or gives it one.
func machineAddress(node *nodeFlags) *cobra.Command {
	var clear bool
	var mac string
	cmd := &cobra.Command{Use: "address MACHINE [ADDRESS|--clear]", Short: "Give a machine an address for good, on every node, or see which it has",
		Long: `Give a machine that is known an address for good. Every node gives it that, whatever it had before, from its next request on.
The address has to be of a network on which nodes lend addresses and outside of the range that new machines draw from, or
the one that the machine has already. --clear takes it back: the machine draws from the range again.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 || len(args) > 2:
				return &usageError{errors.New("give a machine's id or name, and perhaps an address")}
			case len(args) == 2 && clear:
				return &usageError{errors.New("give an address or --clear, not both")}
			}
			return nil
		},
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			id, err := machineID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			var m api.Machine
			switch {
			case clear:
				m, err = c.ClearAddress(cmd.Context(), id, mac)
			case len(args) == 2:
				m, err = c.AssignAddress(cmd.Context(), id, api.AddressWish{Address: args[1], MAC: mac})
			default:
				m, err = c.Machine(cmd.Context(), id)
			}
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) {
				if len(m.Addresses)+len(m.Assigned) == 0 {
					row(w, "none", m.ID, m.Name)
				}
				addresses(w, m, "given", "kept")
			})
		})}
	f := cmd.Flags()
	f.BoolVar(&clear, "clear", false, "take back what the machine was given")
	f.StringVar(&mac, "mac", "", "the card, by default the one that it boots from; with --clear, this card alone")
	return cmd
}

// addresses are a machine's, those that a person has given it first. What a card keeps
// beside that is not used.
func addresses(w io.Writer, m api.Machine, given, kept string) {
	for _, mac := range slices.Sorted(maps.Keys(m.Assigned)) {
		row(w, given, m.Assigned[mac], mac)
	}
	for _, mac := range slices.Sorted(maps.Keys(m.Addresses)) {
		if m.Assigned[mac] == "" {
			row(w, kept, m.Addresses[mac], mac)
		}
	}
}
