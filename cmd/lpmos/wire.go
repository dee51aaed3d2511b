package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

// watchCommand tells what one machine does, from its first DISCOVER on.
func watchCommand(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "watch MAC|MACHINE", Short: "Tell what one machine does while it boots, and why it does not go on",
		Long: "Tells as sentences what a machine did and does, from its first word on the network to its running system:\n" +
			"what is remembered first, then what happens. Any node of a cluster tells what all of them see. A MAC that\n" +
			"nobody has seen yet is waited for. With --json each line is a JSON document.",
		Args: exactly(1, "a machine's MAC, id or name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			w := &machineWatch{out: cmd.OutOrStdout(), json: node.json, told: map[momentKey]bool{}, nodes: &ring{named: c}}
			return w.run(cmd.Context(), args[0])
		})}
}

// machineWatch tells each moment of a machine's timeline once.
type machineWatch struct {
	out   io.Writer
	json  bool
	nodes *ring

	id   string // of the machine, if it is known
	macs []string
	told map[momentKey]bool
}

// momentKey tells moments apart: a node that is asked anew tells all of them again.
type momentKey struct {
	at           time.Time
	source, text string
}

// watchedMoment is a line of --json.
type watchedMoment struct {
	MAC       string `json:"mac"`
	MachineID string `json:"machine_id,omitempty"`
	api.Moment
}

func (w *machineWatch) run(ctx context.Context, name string) error {
	if hw, err := net.ParseMAC(name); err == nil && len(hw) == 6 {
		w.macs = []string{hw.String()}
	} else {
		id, err := machineID(ctx, w.nodes.named, name)
		if err != nil {
			return err
		}
		m, err := w.nodes.named.Machine(ctx, id)
		if err != nil {
			return err
		}
		if len(m.IDs.MACs) == 0 {
			return fmt.Errorf("machine %s has no MAC to watch", id)
		}
		w.id, w.macs = m.ID, m.IDs.MACs
	}
	if seen, err := w.catchUp(ctx); err != nil {
		return err
	} else if !seen && !w.json {
		fmt.Fprintf(w.out, "nothing was seen of %s yet; waiting for its first word (Ctrl-C ends it)\n", w.macs[0])
	}
	return followAt(ctx, w.nodes, func(u client.Update) error {
		if u.Snapshot == nil && !w.concerns(u.Frame) {
			return nil
		}
		_, err := w.catchUp(ctx)
		var refused *client.Error
		if err != nil && (ctx.Err() != nil || !errors.As(err, &refused)) {
			return nil // the node is away; the next one tells it
		}
		return err
	})
}

// concerns says whether a frame may be news of the machine.
func (w *machineWatch) concerns(f *api.Frame) bool {
	switch {
	case f.Type == api.FrameSighting:
		return slices.Contains(w.macs, f.MAC)
	case f.Machine != nil && slices.ContainsFunc(f.Machine.IDs.MACs, func(mac string) bool { return slices.Contains(w.macs, mac) }):
		return true
	case f.Task != nil && slices.Contains(w.macs, f.Task.TargetMAC):
		return true
	}
	return w.id != "" && f.MachineID == w.id && len(f.Items) == 0 && f.Progress == nil
}

// catchUp tells what the node knows and was not told before.
func (w *machineWatch) catchUp(ctx context.Context) (seen bool, err error) {
	got, err := w.nodes.asked().Wire(ctx, w.macs[0])
	var refused *client.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if got.MachineID != "" && w.id == "" { // it was a stranger until now, and may have more cards
		w.id = got.MachineID
		if m, err := w.nodes.asked().Machine(ctx, w.id); err == nil && len(m.IDs.MACs) > 0 {
			w.macs = append(w.macs, slices.DeleteFunc(m.IDs.MACs, func(mac string) bool { return slices.Contains(w.macs, mac) })...)
		}
	}
	for _, m := range got.Timeline {
		key := momentKey{m.At, m.Source, m.Text}
		if w.told[key] {
			continue
		}
		w.told[key] = true
		if err := w.tell(m); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (w *machineWatch) tell(m api.Moment) error {
	if w.json {
		return json.NewEncoder(w.out).Encode(watchedMoment{MAC: w.macs[0], MachineID: w.id, Moment: m})
	}
	took := ""
	if m.TookMS >= 100 {
		took = fmt.Sprintf("+%.1f s", float64(m.TookMS)/1000)
	}
	text := m.Text
	switch {
	case m.Stall != "" && m.Hint != "":
		text = "STALLED: " + text
	case m.Milestone == "up":
		text = "DONE: " + text
	case m.Milestone == "failed":
		text = "FAILED: " + strings.TrimPrefix(text, "failed: ")
	}
	if m.Node != "" {
		text += " (at node " + m.Node + ")"
	}
	if _, err := fmt.Fprintf(w.out, "%s %9s  %s\n", m.At.Local().Format("15:04:05"), took, text); err != nil {
		return err
	}
	if m.Hint != "" {
		if _, err := fmt.Fprintf(w.out, "%18s  what to do: %s\n", "", m.Hint); err != nil {
			return err
		}
	}
	return nil
}
