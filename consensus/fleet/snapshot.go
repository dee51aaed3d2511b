package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// snapshotVersion is raised when an older node could not read a snapshot rightly.
const snapshotVersion = 2

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
	cluster  []*Cluster
	leader   []*Leader
	tokens   []*Token
	nodes    []*Node
	images   []*Image
	pools    []*Pool
	machines []*Machine
	tasks    []*Task
	audit    []*AuditRecord
	done     []*doneRecord
}

// doneRecord is a part of the window of what was done.
type doneRecord struct {
	Floor uint64  `json:"floor"`
	Deeds []*deed `json:"deeds"` // the oldest first
}

// deedsPerRecord keeps the lines of a snapshot short enough to look at.
const deedsPerRecord = 256

// Snapshot takes the picture; it copies pointers only.
func (s *State) Snapshot() *Snapshot {
	sn := &Snapshot{index: s.index, tokens: s.Tokens(), nodes: s.Nodes(), images: s.Images(), pools: s.Pools(),
		machines: s.Machines(), tasks: s.Tasks(), audit: slices.Clone(s.audit)}
	if s.cluster != nil {
		sn.cluster = []*Cluster{s.cluster}
	}
	if s.leader.Term > 0 {
		leader := s.leader
		sn.leader = []*Leader{&leader}
	}
	for part := range slices.Chunk(slices.Clone(s.done.order), deedsPerRecord) {
		sn.done = append(sn.done, &doneRecord{Floor: s.done.floor, Deeds: part})
	}
	return sn
}

// Write puts the snapshot out as lines of JSON: a header, then one record a
// line in a fixed order, so that equal states give equal bytes.
func (sn *Snapshot) Write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 256<<10)
	enc := json.NewEncoder(bw)
	n := len(sn.cluster) + len(sn.leader) + len(sn.tokens) + len(sn.nodes) + len(sn.images) + len(sn.pools) +
		len(sn.machines) + len(sn.tasks) + len(sn.audit) + len(sn.done)
	if err := enc.Encode(snapshotHeader{Format: "lpmos-fleet", Version: snapshotVersion, Index: sn.index, Records: n}); err != nil {
		return err
	}
	for _, write := range []func() error{
		func() error { return writeRecords(enc, "cluster", sn.cluster) },
		func() error { return writeRecords(enc, "leader", sn.leader) },
		func() error { return writeRecords(enc, "token", sn.tokens) },
		func() error { return writeRecords(enc, "node", sn.nodes) },
		func() error { return writeRecords(enc, "image", sn.images) },
		func() error { return writeRecords(enc, "pool", sn.pools) },
		func() error { return writeRecords(enc, "machine", sn.machines) },
		func() error { return writeRecords(enc, "task", sn.tasks) },
		func() error { return writeRecords(enc, "audit", sn.audit) },
		func() error { return writeRecords(enc, "done", sn.done) },
	} {
		if err := write(); err != nil {
			return err
		}
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
	case "cluster":
		v, err := restoreValue[Cluster](rec.Value)
		if err != nil {
			return err
		}
		if v.ID == "" || s.cluster != nil {
			return fmt.Errorf("cluster %q is nameless or there twice", v.ID)
		}
		s.cluster = v
		return nil
	case "leader":
		v, err := restoreValue[Leader](rec.Value)
		if err != nil {
			return err
		}
		if v.Term == 0 || s.leader.Term != 0 {
			return fmt.Errorf("leader %q is without a term or there twice", v.NodeID)
		}
		s.leader = *v
		return nil
	case "token":
		return restoreInto(rec, s.tokens, func(v *Token) string { return v.ID }, nil)
	case "node":
		return restoreInto(rec, s.nodes, func(v *Node) string { return v.ID }, nil)
	case "image":
		return restoreInto(rec, s.images, func(v *Image) string { return v.Name }, nil)
	case "pool":
		return restoreInto(rec, s.pools, func(v *Pool) string { return v.Network }, nil)
	case "machine":
		return restoreInto(rec, s.machines, func(v *Machine) string { return v.ID }, s.indexMachine)
	case "task":
		return restoreInto(rec, s.tasks, func(v *Task) string { return v.ID }, s.indexTask)
	case "audit":
		v, err := restoreValue[AuditRecord](rec.Value)
		if err != nil {
			return err
		}
		if len(s.audit) == maxAudit {
			return fmt.Errorf("more than %d audit records", maxAudit)
		}
		s.audit = append(s.audit, v)
		return nil
	case "done":
		v, err := restoreValue[doneRecord](rec.Value)
		if err != nil {
			return err
		}
		return s.done.restore(v)
	}
	return fmt.Errorf("%w (record %q)", ErrNewerSnapshot, rec.Kind)
}

// restoreInto puts a record in its place by its name.
func restoreInto[T any](rec snapshotRecord, m map[string]*T, name func(*T) string, index func(*T)) error {
	v, err := restoreValue[T](rec.Value)
	if err != nil {
		return err
	}
	key := name(v)
	if key == "" || m[key] != nil {
		return fmt.Errorf("%s %q is nameless or there twice", rec.Kind, key)
	}
	m[key] = v
	if index != nil {
		index(v)
	}
	return nil
}

func restoreValue[T any](raw json.RawMessage) (*T, error) {
	v := new(T)
	return v, json.Unmarshal(raw, v)
}
