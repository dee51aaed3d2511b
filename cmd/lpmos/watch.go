package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// watch prints what happens to these tasks, or to all and to machines and images.
func watch(ctx context.Context, c *client.Client, asJSON bool, tasks []string, out io.Writer) error {
	enc := json.NewEncoder(out)
	told, by := statuses{}, ""
	return follow(ctx, c, func(u client.Update) error {
		if u.Snapshot != nil {
			lines := told.news(u.Snapshot, tasks)
			if asJSON {
				return enc.Encode(u.Snapshot)
			}
			return printLines(out, u.Snapshot.Time, lines)
		}
		if len(tasks) > 0 {
			u.Frame.Items = slices.DeleteFunc(u.Frame.Items, func(it api.ProgressItem) bool { return !slices.Contains(tasks, it.TaskID) })
			if len(u.Frame.Items) == 0 && !slices.Contains(tasks, u.Frame.TaskID) {
				return nil
			}
		}
		if u.Frame.Task != nil {
			told[u.Frame.TaskID] = u.Frame.Task.Status
		}
		if asJSON {
			return enc.Encode(u.Frame)
		}
		lines := sentences(u.Frame)
		if u.Frame.Type == api.FrameHello {
			name := fmt.Sprint(u.Frame.Node)
			if by != "" && by != name {
				lines = append(lines, "node "+by+" is away; going on with "+name)
			}
			by = name
		}
		return printLines(out, u.Frame.Time, lines)
	})
}

func printLines(out io.Writer, at time.Time, lines []string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintf(out, "%s  %s\n", at.Local().Format("15:04:05"), line); err != nil {
			return err
		}
	}
	return nil
}

// statuses are those a person knows of, by task.
type statuses map[string]wire.Status

// news is what a snapshot says that is not known yet: of the tasks that were
// named, or of all once the first snapshot was seen.
func (s statuses) news(snap *api.Snapshot, named []string) []string {
	var out []string
	if len(s) == 0 && len(named) == 0 {
		out = append(out, fmt.Sprintf("following %d machines and %d tasks", len(snap.Machines), len(snap.Tasks)))
		s[""] = "" // the first snapshot was seen, even if it is empty
		for _, t := range snap.Tasks {
			s[t.ID] = t.Status
		}
	}
	for _, t := range snap.Tasks {
		if s[t.ID] != t.Status && (len(named) == 0 || slices.Contains(named, t.ID)) {
			out = append(out, taskLine(&t))
		}
		s[t.ID] = t.Status
	}
	return out
}

func taskLine(t *api.Task) string {
	return fmt.Sprintf("task %s for %s: %s, %s", t.ID, machineOf(t), t.Status, t.PhaseText)
}

// sentences tells a frame in words; frames that say nothing new to a person give none.
func sentences(f *api.Frame) []string {
	switch f.Type {
	case "task_created", "status":
		if f.Task != nil {
			return []string{taskLine(f.Task)}
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
	case "node_deleted":
		return []string{"node " + f.Name + " left the cluster"}
	case "audit":
		if f.Audit != nil {
			return []string{f.Audit.What}
		}
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
