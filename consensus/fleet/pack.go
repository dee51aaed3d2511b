package fleet

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// packSize is how many past tasks of a machine are packed together. They are much
// alike: eight together are a third of what they are one by one, and more would
// gain little and make it slow to take one out.
const packSize = 8

// pack holds some past tasks of one machine, in the order of their ids. Like every
// value of the state it is never changed.
type pack struct {
	MachineID string      `json:"machine_id,omitempty"`
	Tasks     []*pastTask `json:"tasks"`
	Packed    []byte      `json:"packed"` // the rest of each, as a line of JSON; deflated
}

// lines are the tasks as JSON. What cannot be read, which nobody has written, is
// told instead of them.
func (k *pack) lines() [][]byte {
	r := flate.NewReaderDict(bytes.NewReader(k.Packed), []byte(packedWords))
	b, err := io.ReadAll(io.LimitReader(r, maxLine))
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	if err == nil && len(lines) != len(k.Tasks) {
		err = errors.New("there are other tasks in it than it says")
	}
	if err != nil {
		lines = nil
		for range k.Tasks {
			lines = append(lines, unreadable(err))
		}
	}
	return lines
}

func unreadable(err error) []byte {
	return []byte(asJSON(Task{Problem: cut("what was kept of this task cannot be read: " + err.Error())}))
}

// line is the part of a task that does not stand in its pastTask.
func (t *pastTask) line() []byte {
	c := *t.task
	c.ID, c.Status, c.RegionID, c.MachineID, c.PhoneToken = "", "", "", "", ""
	return []byte(asJSON(c))
}

// from makes the task out of the lines of its pack.
func (t *pastTask) from(lines [][]byte) *Task {
	out := new(Task)
	if err := json.Unmarshal(lines[slices.Index(t.pack.Tasks, t)], out); err != nil {
		out = new(Task)
		json.Unmarshal(unreadable(err), out) //nolint:errcheck // we have just written it
	}
	out.ID, out.Status, out.RegionID, out.MachineID, out.PhoneToken = t.ID, t.Status, t.RegionID, t.MachineID, t.PhoneToken
	return out
}

// unpack gives tasks in full, and opens each pack once.
func unpack(past []*pastTask) []*Task {
	out := make([]*Task, len(past))
	opened := map[*pack][][]byte{}
	for i, t := range past {
		if t.task != nil {
			out[i] = t.task
			continue
		}
		if opened[t.pack] == nil {
			opened[t.pack] = t.pack.lines()
		}
		out[i] = t.from(opened[t.pack])
	}
	return out
}

// packs are those of each machine, in the order of the tasks in them. All but the
// last of a machine are full, so that they are the same whatever the order their
// tasks came in.
type packs struct {
	of     map[string][]*pack
	packer *flate.Writer // made when it is needed first
}

// all are the packs in a fixed order.
func (p *packs) all() (out []*pack) {
	machines := make([]string, 0, len(p.of))
	for id := range p.of {
		machines = append(machines, id)
	}
	slices.Sort(machines)
	for _, id := range machines {
		out = append(out, p.of[id]...)
	}
	return out
}

// add packs a task. It gives the past tasks as they are now, the others that it
// moved among them.
func (p *packs) add(t *pastTask) (changed []*pastTask) {
	of := p.of[t.MachineID]
	at := slices.IndexFunc(of, func(k *pack) bool { return len(k.Tasks) < packSize || t.ID < k.Tasks[len(k.Tasks)-1].ID })
	if at < 0 {
		at = len(of)
	}
	tasks, lines := contents(of[at:])
	i, _ := slices.BinarySearchFunc(tasks, t.ID, func(o *pastTask, id string) int { return strings.Compare(o.ID, id) })
	return p.repack(t.MachineID, at, slices.Insert(tasks, i, t), slices.Insert(lines, i, t.line()))
}

// remove takes a task out, and gives those that it moved.
func (p *packs) remove(t *pastTask) (changed []*pastTask) {
	of := p.of[t.MachineID]
	at := slices.Index(of, t.pack)
	tasks, lines := contents(of[at:])
	i := slices.Index(tasks, t)
	return p.repack(t.MachineID, at, slices.Delete(tasks, i, i+1), slices.Delete(lines, i, i+1))
}

func contents(of []*pack) (tasks []*pastTask, lines [][]byte) {
	for _, k := range of {
		tasks, lines = append(tasks, k.Tasks...), append(lines, k.lines()...)
	}
	return tasks, lines
}

// repack puts new packs in place of those of a machine from one on.
func (p *packs) repack(machine string, at int, tasks []*pastTask, lines [][]byte) (changed []*pastTask) {
	of := p.of[machine][:at]
	for from := 0; from < len(tasks); from += packSize {
		end := min(from+packSize, len(tasks))
		k := &pack{MachineID: machine, Packed: p.deflate(lines[from:end])}
		for _, t := range tasks[from:end] {
			moved := *t
			moved.task, moved.pack = nil, k
			k.Tasks = append(k.Tasks, &moved)
		}
		of, changed = append(of, k), append(changed, k.Tasks...)
	}
	if p.of == nil {
		p.of = map[string][]*pack{}
	}
	if p.of[machine] = of; len(of) == 0 {
		delete(p.of, machine)
	}
	return changed
}

func (p *packs) deflate(lines [][]byte) []byte {
	var out bytes.Buffer
	var err error
	if p.packer == nil {
		p.packer, err = flate.NewWriterDict(&out, flate.DefaultCompression, []byte(packedWords))
	} else {
		p.packer.Reset(&out)
	}
	for _, line := range lines {
		if err == nil {
			_, err = p.packer.Write(append(line, '\n'))
		}
	}
	if err == nil {
		err = p.packer.Close()
	}
	if err != nil {
		panic("fleet: cannot pack: " + err.Error())
	}
	return bytes.Clone(out.Bytes())
}

// restore takes a pack that was read.
func (p *packs) restore(k *pack) error {
	of := p.of[k.MachineID]
	if n := len(k.Tasks); n == 0 || n > packSize || len(of) > 0 && len(of[len(of)-1].Tasks) < packSize {
		return errors.New("past tasks are not packed as they are")
	}
	last := ""
	if len(of) > 0 {
		last = of[len(of)-1].Tasks[packSize-1].ID
	}
	for _, t := range k.Tasks {
		if t == nil || t.ID <= last || (&Task{Status: t.Status}).Open() {
			return errors.New("a past task is nameless, open or out of order")
		}
		t.MachineID, t.pack, last = k.MachineID, k, t.ID
	}
	if p.of == nil {
		p.of = map[string][]*pack{}
	}
	p.of[k.MachineID] = append(of, k)
	return nil
}
