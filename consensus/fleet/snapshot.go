package fleet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// snapshotVersion is raised when an older node could not read a snapshot rightly. What
// says nothing that is new is written as it was before, so that one can go back.
const (
	snapshotVersion = 4
	snapshotNoBoots = 3 // knows neither boots into profiles nor addresses that people give
)

// ErrNewerSnapshot is met by a node older than the snapshot.
var ErrNewerSnapshot = errors.New("snapshot was made by a newer version; upgrade this node")

type snapshotHeader struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Index   uint64 `json:"index"`
	Records int    `json:"records"`
}

// snapshotRecord is one line. The kind comes first, so that it can be told before
// the value is read.
type snapshotRecord[T any] struct {
	Kind  string `json:"kind"`
	Value *T     `json:"value"`
}

// Snapshot is a picture of a state that can be written while the state moves on.
type Snapshot struct {
	index    uint64
	cluster  []*Cluster
	leader   []*Leader
	tokens   []*Token
	nodes    []*Node
	images   []*Image
	profiles []*Profile
	pools    []*Pool
	machines []*Machine
	claims   []*UsedClaim
	tasks    []*Task
	past     []*pack
	audit    []*AuditRecord
	guard    []*guardRecord
	done     []*doneRecord

	evidence  []*Evidence
	users     []*keptUser
	sessions  []*keptSession
	apiTokens []*keptAPIToken
	codes     []*keptCode
}

// What stands in a snapshot of people is more than what their JSON tells to others.
type (
	keptUser struct {
		User
		PasswordHash Secret `json:"password_hash,omitempty"`
	}
	keptSession struct {
		Session
		SecretHash Secret `json:"secret_hash"`
	}
	keptAPIToken struct {
		APIToken
		SecretHash Secret `json:"secret_hash"`
	}
	keptCode struct {
		OneUseCode
		SecretHash Secret `json:"secret_hash"`
	}
)

// doneRecord is a part of the window of what was done.
type doneRecord struct {
	Floor uint64  `json:"floor"`
	Deeds []*deed `json:"deeds"` // the oldest first
}

// deedsPerRecord keeps the lines of a snapshot short enough to look at.
const deedsPerRecord = 256

// Snapshot takes the picture; it copies pointers only.
func (s *State) Snapshot() *Snapshot {
	sn := &Snapshot{index: s.index, tokens: s.Tokens(), nodes: s.Nodes(), images: s.Images(), profiles: s.MadeProfiles(), pools: s.Pools(),
		machines: s.Machines(), claims: sorted(s.claims), tasks: s.CurrentTasks(), audit: slices.Clone(s.audit), guard: s.guardRecords(), evidence: slices.Clone(s.evidence)}
	if s.cluster != nil {
		sn.cluster = []*Cluster{s.cluster}
	}
	if s.leader.Term > 0 {
		leader := s.leader
		sn.leader = []*Leader{&leader}
	}
	for _, t := range s.past.list {
		if t.task != nil {
			sn.tasks = append(sn.tasks, t.task)
		}
	}
	sn.past = s.past.packs.all()
	for _, v := range sorted(s.users) {
		sn.users = append(sn.users, &keptUser{*v, v.PasswordHash})
	}
	for _, v := range sorted(s.sessions) {
		sn.sessions = append(sn.sessions, &keptSession{*v, v.SecretHash})
	}
	for _, v := range sorted(s.apiTokens) {
		sn.apiTokens = append(sn.apiTokens, &keptAPIToken{*v, v.SecretHash})
	}
	for _, v := range sorted(s.codes) {
		sn.codes = append(sn.codes, &keptCode{*v, v.SecretHash})
	}
	for part := range slices.Chunk(slices.Clone(s.done.order), deedsPerRecord) {
		sn.done = append(sn.done, &doneRecord{Floor: s.done.floor, Deeds: part})
	}
	return sn
}

// version is the oldest that can say it all: an older node drops fields that it does not
// know, in silence.
func (sn *Snapshot) version() int {
	for _, m := range sn.machines {
		if m.NextBoot != nil || m.LastBoot != nil || m.NotBooted != nil || m.Unseen != "" || len(m.Assigned) > 0 || len(m.Left) > 0 {
			return snapshotVersion
		}
	}
	return snapshotNoBoots
}

// Write puts the snapshot out as lines of JSON: a header, then one record a
// line in a fixed order, so that equal states give equal bytes.
func (sn *Snapshot) Write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 256<<10)
	enc := json.NewEncoder(bw)
	n := len(sn.cluster) + len(sn.leader) + len(sn.tokens) + len(sn.nodes) + len(sn.images) + len(sn.profiles) + len(sn.pools) +
		len(sn.machines) + len(sn.claims) + len(sn.tasks) + len(sn.past) + len(sn.audit) + len(sn.guard) + len(sn.done) +
		len(sn.evidence) + len(sn.users) + len(sn.sessions) + len(sn.apiTokens) + len(sn.codes)
	if err := enc.Encode(snapshotHeader{Format: "lpmos-fleet", Version: sn.version(), Index: sn.index, Records: n}); err != nil {
		return err
	}
	err := errors.Join(
		writeRecords(enc, "cluster", sn.cluster),
		writeRecords(enc, "leader", sn.leader),
		writeRecords(enc, "token", sn.tokens),
		writeRecords(enc, "user", sn.users),
		writeRecords(enc, "session", sn.sessions),
		writeRecords(enc, "api_token", sn.apiTokens),
		writeRecords(enc, "code", sn.codes),
		writeRecords(enc, "node", sn.nodes),
		writeRecords(enc, "image", sn.images),
		writeRecords(enc, "profile", sn.profiles),
		writeRecords(enc, "pool", sn.pools),
		writeRecords(enc, "machine", sn.machines),
		writeRecords(enc, "claim", sn.claims),
		writeRecords(enc, "task", sn.tasks),
		writeRecords(enc, "past", sn.past),
		writeRecords(enc, "evidence", sn.evidence),
		writeRecords(enc, "audit", sn.audit),
		writeRecords(enc, "guard", sn.guard),
		writeRecords(enc, "done", sn.done),
	)
	if err != nil {
		return err
	}
	return bw.Flush()
}

func writeRecords[T any](enc *json.Encoder, kind string, values []*T) error {
	for _, v := range values {
		if err := enc.Encode(snapshotRecord[T]{kind, v}); err != nil {
			return fmt.Errorf("write snapshot: %s: %w", kind, err)
		}
	}
	return nil
}
