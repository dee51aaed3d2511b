package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// follow hands every update to f and comes back after a cut where it was. It
// ends with ctx, with nil, or with f's error.
func follow(ctx context.Context, c *client.Client, f func(client.Update) error) error {
	var since uint64
	first := true
	for {
		w, err := c.Watch(ctx, since)
		if err == nil {
			err = w.Subscribe(ctx, api.Subscribe{Since: &since})
		}
		if first && err != nil {
			return err
		}
		first = false
		for err == nil {
			var u client.Update
			if u, err = w.Next(ctx); err != nil {
				break
			}
			switch {
			case u.Snapshot != nil:
				since = u.Snapshot.Index
			case u.Frame.Index > since:
				since = u.Frame.Index
			}
			if err := f(u); err != nil {
				w.Close()
				return err
			}
		}
		if w != nil {
			w.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		select { // the node is away; it is asked again until told to stop
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func watch(ctx context.Context, c *client.Client, asJSON bool, tasks []string, out io.Writer) error {
	enc := json.NewEncoder(out)
	return follow(ctx, c, func(u client.Update) error {
		if u.Frame == nil {
			if asJSON {
				return enc.Encode(u.Snapshot)
			}
			return nil
		}
		if len(tasks) > 0 && u.Frame.Type != api.FrameProgressBatch && !slices.Contains(tasks, u.Frame.TaskID) {
			return nil
		}
		if len(tasks) > 0 {
			u.Frame.Items = slices.DeleteFunc(u.Frame.Items, func(it api.ProgressItem) bool { return !slices.Contains(tasks, it.TaskID) })
			if u.Frame.Type == api.FrameProgressBatch && len(u.Frame.Items) == 0 {
				return nil
			}
		}
		if asJSON {
			return enc.Encode(u.Frame)
		}
		for _, line := range sentences(u.Frame) {
			fmt.Fprintf(out, "%s  %s\n", u.Frame.Time.Local().Format("15:04:05"), line)
		}
		return nil
	})
}

// sentences tells a frame in words; frames that say nothing new to a person give none.
func sentences(f *api.Frame) []string {
	switch f.Type {
	case "task_created", "status":
		if f.Task != nil {
			return []string{fmt.Sprintf("task %s for %s: %s, %s", f.TaskID, machineOf(f.Task), f.Task.Status, f.Task.PhaseText)}
		}
	case "task_deleted":
		return []string{"task " + f.TaskID + " deleted"}
	case "progress":
		return []string{fmt.Sprintf("task %s: %s", f.TaskID, f.PhaseText)}
	case api.FrameProgressBatch:
		var out []string
		for _, it := range f.Items {
			out = append(out, fmt.Sprintf("task %s: %s", it.TaskID, it.PhaseText))
		}
		return out
	case "hardware":
		if f.Machine != nil {
			return []string{fmt.Sprintf("machine %s reported: %s, %s", f.Machine.Name, hardware(f.Machine.Summary), f.Machine.PhaseText)}
		}
	case "image":
		return []string{"image " + f.Name + " is ready"}
	case api.FrameSighting:
		return []string{fmt.Sprintf("%s %s", f.MAC, f.Text)}
	}
	return nil
}

func machineOf(t *api.Task) string {
	if t.MachineName != "" {
		return t.MachineName
	}
	return t.TargetMAC
}

func hardware(s api.Summary) string {
	text := fmt.Sprintf("%s, %d threads, %s memory", s.Firmware, s.Threads, size(s.MemoryBytes))
	for _, d := range s.Disks {
		text += fmt.Sprintf(", disk %s %s (%s)", d.ID, size(d.SizeBytes), d.ContentsText)
	}
	return text
}
