package main

import (
	"context"
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
			"  lpmos lab up          try it: a node and virtual machines on a network of their own\n" +
			"  lpmos serve           run a node on a real network\n" +
			"  lpmos task list       work with a running node",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })

	node := &nodeFlags{}
	root.PersistentFlags().StringVar(&node.url, "node", envOr("LPMOS_NODE", "http://127.0.0.1:8080"), "address of the node to work with (LPMOS_NODE)")
	root.PersistentFlags().BoolVar(&node.json, "json", false, "print JSON")
	root.AddCommand(serveCommand(), configCommand(), labCommand(),
		taskCommand(node), machineCommand(node), imageCommand(node))
	return root
}

func envOr(name, usual string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return usual
}
