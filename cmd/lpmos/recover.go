package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/consensus"
	"github.com/spf13/cobra"
)

func recoverCommand(node *nodeFlags) *cobra.Command {
	r := appliance.Recover{By: "operator (lpmos recover)"}
	var yes bool
	cmd := &cobra.Command{Use: "recover", Short: "Go on with one node when the majority is lost for ever", Args: cobra.NoArgs,
		Long: "Makes a node that has stopped a cluster of its own, with all it knows.\n\n" +
			"This is for the case that most nodes of the cluster will never come back. What only they knew is\n" +
			"lost. Should they come back all the same, there are two clusters with the same machines: keep them\n" +
			"off, empty their data directories and let them join anew.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.DataDir == "" {
				return &usageError{errors.New("give --data-dir, the directory of the node that is to go on")}
			}
			ownerAlone()
			r.Log = quietly(cmd)
			r.Confirm = func(s *consensus.Survivor) error { return confirmRecover(cmd, s, yes) }
			id, index, err := r.Run(cmd.Context())
			if errors.Is(err, appliance.ErrAlone) {
				return &hinted{&conflictError{err}, "start it with lpmos up"}
			}
			if err != nil {
				return stillThere(err)
			}
			return node.print(cmd.OutOrStdout(), map[string]any{"node_id": id, "index": index}, func(w io.Writer) {
				row(w, "recovered", "node "+id+" is a cluster of its own, at entry "+fmt.Sprint(index))
				row(w, "next", "lpmos up --data-dir "+r.DataDir+"; what was approved has to be approved again, and other nodes join anew with empty data directories")
			})
		}}
	cmd.Flags().StringVar(&r.DataDir, "data-dir", "", "`DIR` of the node that is to go on")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&r.Force, "force", false, "also while another node of the cluster answers")
	return cmd
}

func showSurvivor(w io.Writer, s *consensus.Survivor) {
	row(w, "node", s.Node+" goes on alone, with a new epoch")
	for _, m := range s.Others() {
		row(w, "given up", orDash("node", m.ID, m.Name, m.Region, m.Address))
	}
	row(w, "last entry", fmt.Sprintf("%d, of %s", s.Last, when(s.LastAt)))
	if s.Snapshot > 0 {
		row(w, "agreed on", fmt.Sprintf("for sure up to entry %d", s.Snapshot))
	}
	row(w, "lost", "whatever the others agreed on after entry "+fmt.Sprint(s.Last)+": everything done since "+when(s.LastAt)+" may be missing")
	if s.Last > s.Snapshot {
		row(w, "counts from now", fmt.Sprintf("also what the others may not have agreed on, of entries %d to %d", s.Snapshot+1, s.Last))
	}
	row(w, "void", "every approval that was not acted on")
}

// confirmRecover says what may be lost, and asks unless that was answered already.
func confirmRecover(cmd *cobra.Command, s *consensus.Survivor, yes bool) error {
	if err := (&nodeFlags{}).print(cmd.ErrOrStderr(), nil, func(w io.Writer) { showSurvivor(w, s) }); err != nil || yes {
		return err
	}
	if !isTerminal(cmd.InOrStdin()) {
		return &hinted{&usageError{errors.New("there is no terminal to ask on; nothing was changed")}, "give --yes"}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "\nType the id of the node to go on with (%s): ", s.Node)
	answer, err := readLine(cmd.Context(), cmd.InOrStdin())
	if ctxErr := cmd.Context().Err(); ctxErr != nil {
		fmt.Fprintln(cmd.ErrOrStderr())
		return ctxErr
	}
	if err != nil || answer != s.Node {
		return errors.New("that is not its id; nothing was changed")
	}
	return nil
}
