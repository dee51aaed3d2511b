package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// run is the program without the process around it: tests run it as a command.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand(stdout, stderr)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return report(stderr, err)
	}
	return exitOK
}

func rootCommand(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "lpmos",
		Short: "Install operating systems on bare machines over the network",
		Long: "lpmos is a node that machines on its network boot from, and the tool to work with it.\n\n" +
			"  lpmos lab up          try it: nodes and virtual machines on a network of their own\n" +
			"  lpmos doctor          see what a real network lacks; changes nothing\n" +
			"  lpmos up              run a node on a real network\n" +
			"  lpmos status          see how a running node is\n" +
			"  lpmos task list       work with a running node\n" +
			"  lpmos watch MAC       see a machine boot, and why it does not",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })

	node := &nodeFlags{}
	root.PersistentFlags().StringVar(&node.url, "node", os.Getenv("LPMOS_NODE"), "address of the node to work with (LPMOS_NODE); if not given, the one on this host")
	root.PersistentFlags().BoolVar(&node.json, "json", false, "print JSON")
	root.AddCommand(upCommand(), configCommand(node), labCommand(node),
		taskCommand(node), machineCommand(node), leaseCommand(node), watchCommand(node), imageCommand(node), profileCommand(node), nodeCommand(node), auditCommand(node), policyCommand(node), statusCommand(node),
		loginCommand(node), logoutCommand(node), loginLinkCommand(node), setupCodeCommand(node), userCommand(node), sessionCommand(node), tokenCommand(node),
		backupCommand(node), restoreCommand(node), recoverCommand(node), doctorCommand(node), sbomCommand(), unitCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	return root
}

// strict makes every word that a command cannot use an error of the usage, in
// groups of commands too, where cobra would print help and call it well done.
func strict(cmd *cobra.Command) {
	if !cmd.Runnable() {
		cmd.DisableFlagsInUseLine = true
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := &usageError{fmt.Errorf("there is no command %q", cmd.CommandPath()+" "+args[0])}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return &hinted{err, "did you mean " + cmd.CommandPath() + " " + near[0] + "?"}
			}
			return err
		}
		cmd.SuggestionsMinimumDistance = 2
	} else if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			var usage *usageError
			err := check(cmd, args)
			switch {
			case err == nil || errors.As(err, &usage):
				return err
			case len(args) > 0:
				err = fmt.Errorf("%s takes no %q", cmd.CommandPath(), args[0])
			}
			return &usageError{err}
		}
	}
	for _, c := range cmd.Commands() {
		strict(c)
	}
}

func envOr(name, usual string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return usual
}
