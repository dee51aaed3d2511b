package fleet

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/lpmos/lpmos/agent/wire"
)

// Restore reads a snapshot into a new state. A cut or altered one is refused.
//
// Reading JSON is what takes long, so the lines go in batches through several
// goroutines, and come out in the order they lie in.
func Restore(r io.Reader) (*State, error) { return restore(r, NewState()) }

func restore(r io.Reader, s *State) (*State, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 256<<10), maxLine)
	h, err := readHeader(lines)
	if err != nil {
		return nil, err
	}
	s.index = h.Index
	cut := make(chan *lineBatch, restorers)
	read := make(chan *lineBatch, restorers)
	stop := make(chan struct{})
	go cutBatches(lines, cut, read, stop)
	for range restorers {
		go func() {
			for b := range cut {
				b.decode()
			}
		}()
	}
	n := 0
	for b := range read {
		<-b.decoded
		for _, v := range b.values {
			if n++; err == nil && n <= h.Records {
				if err = s.put(v); err != nil {
					err = fmt.Errorf("read snapshot record %d of %d: %w", n, h.Records, err)
				}
			}
		}
		if b.err != nil && err == nil {
			err = fmt.Errorf("read snapshot record %d of %d: %w", n+1, h.Records, b.err)
		}
		if err != nil && stop != nil {
			close(stop) // what is on its way still comes
			stop = nil
		}
	}
	switch {
	case err != nil:
		return nil, err
	case n < h.Records:
		return nil, fmt.Errorf("read snapshot: it ends after %d of %d records", n, h.Records)
	case n > h.Records:
		return nil, fmt.Errorf("read snapshot: more than the %d records it should hold", h.Records)
	}
	return s, s.restored()
}

const (
	// maxLine bounds one record. Nothing that comes through the log is as large.
	maxLine = 1 << 30
	// restorers is how many goroutines decode: more would wait for the one that reads.
	restorers = 4
	// batchBytes is how much one of them takes at a time.
	batchBytes = 128 << 10
)

func readHeader(lines *bufio.Scanner) (h snapshotHeader, err error) {
	if !lines.Scan() {
		return h, fmt.Errorf("read snapshot header: %w", errors.Join(io.ErrUnexpectedEOF, lines.Err()))
	}
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
		return h, fmt.Errorf("read snapshot header: %w", err)
	}
	if h.Format != "lpmos-fleet" {
		return h, fmt.Errorf("read snapshot: format %.40q is not ours", h.Format)
	}
	if h.Version > snapshotVersion {
		return h, fmt.Errorf("%w (version %d)", ErrNewerSnapshot, h.Version)
	}
	return h, nil
}

// lineBatch is some lines of a snapshot, and what they say once they are decoded.
type lineBatch struct {
	lines   []byte
	ends    []int
	values  []any // up to the first that cannot be read
	err     error
	decoded chan struct{} // closed when values and err are there
}

// cutBatches hands every batch to who decodes it and to who waits for it.
func cutBatches(lines *bufio.Scanner, cut, read chan<- *lineBatch, stop <-chan struct{}) {
	defer close(read)
	defer close(cut)
	for more := true; more; {
		b := &lineBatch{decoded: make(chan struct{})}
		for len(b.lines) < batchBytes {
			if more = lines.Scan(); !more {
				break
			}
			b.lines = append(b.lines, lines.Bytes()...)
			b.ends = append(b.ends, len(b.lines))
		}
		if !more {
			b.err = lines.Err()
		}
		select {
		case read <- b:
			cut <- b
		case <-stop:
			return
		}
	}
}

func (b *lineBatch) decode() {
	defer close(b.decoded)
	start := 0
	for _, end := range b.ends {
		v, err := decodeRecord(b.lines[start:end])
		if err != nil {
			b.err = err
			return
		}
		b.values = append(b.values, v)
		start = end
	}
}

// decodeRecord reads one line as Write has put it out.
func decodeRecord(line []byte) (any, error) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"kind":"`))
	kind, rest, ok2 := bytes.Cut(rest, []byte(`","value":`))
	rest, ok3 := bytes.CutSuffix(rest, []byte("}"))
	if !ok || !ok2 || !ok3 {
		return nil, fmt.Errorf("%.40q is no record", line)
	}
	switch string(kind) {
	case "cluster":
		return decodeValue[Cluster](rest)
	case "leader":
		return decodeValue[Leader](rest)
	case "token":
		return decodeValue[Token](rest)
	case "user":
		return decodeValue[keptUser](rest)
	case "session":
		return decodeValue[keptSession](rest)
	case "api_token":
		return decodeValue[keptAPIToken](rest)
	case "code":
		return decodeValue[keptCode](rest)
	case "node":
		return decodeValue[Node](rest)
	case "image":
		return decodeValue[Image](rest)
	case "profile":
		return decodeValue[Profile](rest)
	case "pool":
		return decodeValue[Pool](rest)
	case "machine":
		return decodeValue[Machine](rest)
	case "claim":
		return decodeValue[UsedClaim](rest)
	case "task":
		return decodeValue[Task](rest)
	case "past":
		return decodePast(rest)
	case "evidence":
		return decodeValue[Evidence](rest)
	case "audit":
		v := new(AuditRecord)
		if err := json.Unmarshal(rest, v); err != nil {
			return nil, err
		}
		return v, v.whole()
	case "guard":
		return decodeValue[guardRecord](rest)
	case "done":
		return decodeValue[doneRecord](rest)
	}
	return nil, fmt.Errorf("%w (record %.40q)", ErrNewerSnapshot, kind)
}

func decodeValue[T any](raw []byte) (any, error) {
	v := new(T)
	return v, json.Unmarshal(raw, v)
}

// decodePast reads past tasks. What is packed is most of the line and holds
// nothing that JSON would have to be asked about.
func decodePast(raw []byte) (any, error) {
	head, packed, ok := bytes.Cut(raw, []byte(`,"packed":"`))
	packed, ok2 := bytes.CutSuffix(packed, []byte(`"}`))
	if !ok || !ok2 {
		return nil, fmt.Errorf("%.40q are no past tasks", raw)
	}
	v := new(pack)
	if err := json.Unmarshal(slices.Concat(head, []byte("}")), v); err != nil {
		return nil, err
	}
	v.Packed = make([]byte, base64.StdEncoding.DecodedLen(len(packed)))
	n, err := base64.StdEncoding.Decode(v.Packed, packed)
	v.Packed = v.Packed[:n:n]
	return v, err
}

// put takes a record into a state that is being restored.
func (s *State) put(record any) error {
	switch v := record.(type) {
	case *Cluster:
		if v.ID == "" || s.cluster != nil {
			return fmt.Errorf("cluster %q is nameless or there twice", v.ID)
		}
		s.cluster = v
	case *Leader:
		if v.Term == 0 || s.leader.Term != 0 {
			return fmt.Errorf("leader %q is without a term or there twice", v.NodeID)
		}
		s.leader = *v
	case *Token:
		return putOnce("token", s.tokens, v.ID, v)
	case *Node:
		return putOnce("node", s.nodes, v.ID, v)
	case *Image:
		return putOnce("image", s.images, v.Name, v)
	case *Profile:
		if v.Digest != v.sum() {
			return fmt.Errorf("profile %.64q is not what its digest says", v.Name)
		}
		return putOnce("profile", s.profiles, v.Name, v)
	case *Pool:
		return putOnce("pool", s.pools, v.Network, v)
	case *Machine:
		if err := putOnce("machine", s.machines, v.ID, v); err != nil {
			return err
		}
		s.shared.inventory(v.Inventory)
		s.indexMachine(v)
	case *UsedClaim:
		return putOnce("claim", s.claims, v.ID, v)
	case *Task:
		if err := putOnce("task", s.tasks, v.ID, v); err != nil {
			return err
		}
		if !v.Open() {
			v.ended()
		}
		s.shared.task(v)
		s.indexTask(v)
	case *pack:
		if m := s.machines[v.MachineID]; m != nil {
			v.MachineID = m.ID
		}
		if err := s.past.packs.restore(v); err != nil {
			return err
		}
		for _, t := range v.Tasks {
			t.Status, t.RegionID = wire.Status(s.shared.word(string(t.Status))), s.shared.word(t.RegionID)
			if t.PhoneToken != "" {
				s.byToken[t.PhoneToken] = t.ID
			}
		}
		s.past.list = append(s.past.list, v.Tasks...)
	case *AuditRecord:
		if len(s.audit) == maxAudit {
			return fmt.Errorf("more than %d audit records", maxAudit)
		}
		var last *AuditRecord
		if len(s.audit) > 0 {
			last = s.audit[len(s.audit)-1]
		}
		if err := v.follows(last); err != nil {
			return err
		}
		s.audit = append(s.audit, v)
	case *guardRecord:
		return s.restoreGuard(v)
	case *doneRecord:
		return s.done.restore(v)
	case *Evidence:
		return s.restoreEvidence(v)
	case *keptUser:
		v.User.PasswordHash = v.PasswordHash
		return s.restoreUser(&v.User)
	case *keptSession:
		v.Session.SecretHash = v.SecretHash
		return s.restoreSession(&v.Session)
	case *keptAPIToken:
		v.APIToken.SecretHash = v.SecretHash
		return s.restoreAPIToken(&v.APIToken)
	case *keptCode:
		v.OneUseCode.SecretHash = v.SecretHash
		return s.restoreCode(&v.OneUseCode)
	}
	return nil
}

func putOnce[T any](kind string, m map[string]*T, name string, v *T) error {
	if name == "" || m[name] != nil {
		return fmt.Errorf("%s %q is nameless or there twice", kind, name)
	}
	m[name] = v
	return nil
}

// restored puts every task where it belongs, now that all machines are known.
func (s *State) restored() error {
	for _, id := range slices.Sorted(maps.Keys(s.tasks)) {
		if t := s.tasks[id]; s.isPast(t) {
			s.past.list = append(s.past.list, newPast(t))
			delete(s.tasks, id)
		}
	}
	if err := s.past.restored(); err != nil {
		return err
	}
	for _, p := range s.past.list {
		if s.tasks[p.ID] != nil {
			return fmt.Errorf("read snapshot: task %q is there twice", p.ID)
		}
	}
	for _, m := range s.machines {
		s.settle(m.TaskID)
	}
	return s.peopleRestored()
}
