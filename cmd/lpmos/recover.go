package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/consensus"
	"github.com/spf13/cobra"
)

func recoverCommand(node *nodeFlags) *cobra.Command {
	var dir string
	var yes, force bool
	cmd := &cobra.Command{Use: "recover", Short: "Go on with one node when the majority is lost for ever", Args: cobra.NoArgs,
		Long: "Makes a node that has stopped a cluster of its own, with all it knows.\n\n" +
			"This is for the case that most nodes of the cluster will never come back. What only they knew is\n" +
			"lost. Should they come back all the same, there are two clusters with the same machines: keep them\n" +
			"off, empty their data directories and let them join anew.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return &usageError{errors.New("give --data-dir, the directory of the node that is to go on")}
			}
			s, err := consensus.OpenSurvivor(filepath.Join(dir, "raft"), quietly(cmd))
			if err != nil {
				return err
			}
			err = goOn(cmd, s, yes, force)
			if err := errors.Join(err, s.Close()); err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), map[string]any{"node": s.Node, "index": s.Last}, func(w io.Writer) {
				row(w, "recovered", "node "+s.Node+" is a cluster of its own, at entry "+fmt.Sprint(s.Last))
				row(w, "next", "lpmos up; what was approved has to be approved again, and other nodes join anew with empty data directories")
			})
		}}
	cmd.Flags().StringVar(&dir, "data-dir", "", "`DIR` of the node that is to go on")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "also while another node of the cluster answers")
	return cmd
}

// goOn says what may be lost, asks, and does it.
func goOn(cmd *cobra.Command, s *consensus.Survivor, yes, force bool) error {
	if len(s.Others()) == 0 {
		return &hinted{&conflictError{fmt.Errorf("node %s is a cluster of its own already; nothing was changed", s.Node)}, "start it with lpmos up"}
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	if alive := consensus.Answering(ctx, s.Others(), (&net.Dialer{}).DialContext); len(alive) > 0 && !force {
		return stillThere(&appliance.StillThere{Nodes: alive, What: "the cluster is not lost",
			Instead: "start the nodes that are left and take those that are gone out with lpmos node remove"})
	}
	if err := (&nodeFlags{}).print(cmd.ErrOrStderr(), nil, func(w io.Writer) { showSurvivor(w, s) }); err != nil {
		return err
	}
	if !yes {
		if err := confirmRecover(cmd, s); err != nil {
			return err
		}
	}
	return s.Recover("operator (lpmos recover)", fmt.Sprintf("the majority was lost, and node %s goes on alone from entry %d", s.Node, s.Last))
}

func showSurvivor(w io.Writer, s *consensus.Survivor) {
	row(w, "node", s.Node+" goes on alone, with a new epoch")
	for _, m := range s.Others() {
		row(w, "given up", orDash("node", m.ID, m.Name, m.Region, m.Address))
	}
	row(w, "last entry", fmt.Sprintf("%d, of %s", s.Last, when(s.LastAt)))
	row(w, "agreed on", fmt.Sprintf("for sure up to entry %d", s.Snapshot))
	row(w, "lost", "whatever the others agreed on after entry "+fmt.Sprint(s.Last)+": everything done since "+when(s.LastAt)+" may be missing")
	if s.Last > s.Snapshot {
		row(w, "counts from now", fmt.Sprintf("also what the others may not have agreed on, of entries %d to %d", s.Snapshot+1, s.Last))
	}
	row(w, "void", "every approval that was not acted on")
}

func confirmRecover(cmd *cobra.Command, s *consensus.Survivor) error {
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
