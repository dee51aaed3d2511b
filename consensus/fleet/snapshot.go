package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// snapshotVersion is raised when an older node could not read a snapshot rightly.
const snapshotVersion = 1

// ErrNewerSnapshot is met by a node older than the snapshot.
var ErrNewerSnapshot = errors.New("snapshot was made by a newer version; upgrade this node")

type snapshotHeader struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Index   uint64 `json:"index"`
	Records int    `json:"records"`
}

type snapshotRecord struct {
	Kind  string          `json:"kind"`
	Value json.RawMessage `json:"value"`
}

// Snapshot is a picture of a state that can be written while the state moves on.
type Snapshot struct {
	index    uint64
	machines []*Machine
	tasks    []*Task
	images   []*Image
	nodes    []*Node
}

// Snapshot takes the picture; it copies pointers only.
func (s *State) Snapshot() *Snapshot {
	return &Snapshot{index: s.index, machines: s.Machines(), tasks: s.Tasks(), images: s.Images(), nodes: s.Nodes()}
}

// Write puts the snapshot out as lines of JSON: a header, then one record a
// line in a fixed order, so that equal states give equal bytes.
func (sn *Snapshot) Write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 256<<10)
	enc := json.NewEncoder(bw)
	n := len(sn.machines) + len(sn.tasks) + len(sn.images) + len(sn.nodes)
	if err := enc.Encode(snapshotHeader{Format: "lpmos-fleet", Version: snapshotVersion, Index: sn.index, Records: n}); err != nil {
		return err
	}
	if err := writeRecords(enc, "node", sn.nodes); err != nil {
		return err
	}
	if err := writeRecords(enc, "image", sn.images); err != nil {
		return err
	}
	if err := writeRecords(enc, "machine", sn.machines); err != nil {
		return err
	}
	if err := writeRecords(enc, "task", sn.tasks); err != nil {
		return err
	}
	return bw.Flush()
}

func writeRecords[T any](enc *json.Encoder, kind string, values []*T) error {
	for _, v := range values {
		if err := enc.Encode(struct {
			Kind  string `json:"kind"`
			Value *T     `json:"value"`
		}{kind, v}); err != nil {
			return fmt.Errorf("write snapshot: %s: %w", kind, err)
		}
	}
	return nil
}

// Restore reads a snapshot into a new state. A cut or altered one is refused.
func Restore(r io.Reader) (*State, error) {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 256<<10))
	var h snapshotHeader
	if err := dec.Decode(&h); err != nil {
		return nil, fmt.Errorf("read snapshot header: %w", err)
	}
	if h.Format != "lpmos-fleet" {
		return nil, fmt.Errorf("read snapshot: format %.40q is not ours", h.Format)
	}
	if h.Version > snapshotVersion {
		return nil, fmt.Errorf("%w (version %d)", ErrNewerSnapshot, h.Version)
	}
	s := NewState()
	s.index = h.Index
	for i := range h.Records {
		var rec snapshotRecord
		if err := dec.Decode(&rec); err != nil {
			return nil, fmt.Errorf("read snapshot record %d of %d: %w", i+1, h.Records, err)
		}
		if err := s.restoreRecord(rec); err != nil {
			return nil, fmt.Errorf("read snapshot record %d of %d: %w", i+1, h.Records, err)
		}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read snapshot: more than the %d records it should hold", h.Records)
	}
	return s, nil
}

func (s *State) restoreRecord(rec snapshotRecord) error {
	switch rec.Kind {
	case "node":
		v, err := restoreValue[Node](rec.Value)
		if err != nil {
			return err
		}
		if v.ID == "" || s.nodes[v.ID] != nil {
			return fmt.Errorf("node %q is nameless or there twice", v.ID)
		}
		s.nodes[v.ID] = v
	case "image":
		v, err := restoreValue[Image](rec.Value)
		if err != nil {
			return err
		}
		if v.Name == "" || s.images[v.Name] != nil {
			return fmt.Errorf("image %q is nameless or there twice", v.Name)
		}
		s.images[v.Name] = v
	case "machine":
		v, err := restoreValue[Machine](rec.Value)
		if err != nil {
			return err
		}
		if v.ID == "" || s.machines[v.ID] != nil {
			return fmt.Errorf("machine %q is nameless or there twice", v.ID)
		}
		s.machines[v.ID] = v
		s.indexMachine(v)
	case "task":
		v, err := restoreValue[Task](rec.Value)
		if err != nil {
			return err
		}
		if v.ID == "" || s.tasks[v.ID] != nil {
			return fmt.Errorf("task %q is nameless or there twice", v.ID)
		}
		s.tasks[v.ID] = v
		s.indexTask(v)
	default:
		return fmt.Errorf("%w (record %q)", ErrNewerSnapshot, rec.Kind)
	}
	return nil
}

func restoreValue[T any](raw json.RawMessage) (*T, error) {
	v := new(T)
	return v, json.Unmarshal(raw, v)
}
