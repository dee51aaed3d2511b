package fleet

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// State is everything the nodes agree on. It has no lock: the consensus package
// owns it and lets readers in.
type State struct {
	index    uint64 // of the last entry applied
	machines map[string]*Machine
	tasks    map[string]*Task // the current ones; all others are past
	past     pastTasks
	shared   shared
	images   map[string]*Image
	nodes    map[string]*Node
	cluster  *Cluster
	tokens   map[string]*Token
	pools    map[string]*Pool // by network
	claims   map[string]*UsedClaim
	leader   Leader
	audit    []*AuditRecord      // the oldest first
	policy   *Policy             // nil: defaultPolicy
	profiles map[string]*Profile // that people have made
	words    []time.Time         // when plans were approved lately, the oldest first
	done     window

	evidence  []*Evidence // of tasks that are forgotten, the oldest first
	users     map[string]*User
	sessions  map[string]*Session
	apiTokens map[string]*APIToken
	codes     map[string]*OneUseCode

	// Indexes, rebuilt from the maps above on restore.
	byMAC     map[string]string // MAC → machine
	byUUID    map[string]string // UUID → machine
	byAddress map[string]string // IPv4 → machine
	byTarget  map[string]string // MAC → task waiting for a machine not seen yet
	byToken   map[string]string // phone token → task
	bySession map[string]string // hash of an agent's session → machine
	byFormer  map[string]string // hash of a session before that → machine
	byBoot    map[string]string // token of a boot into a profile → machine

	events []Event // of the entry being applied
}

// NewState is the state of a cluster that has agreed on nothing yet.
func NewState() *State {
	return &State{
		machines: map[string]*Machine{}, tasks: map[string]*Task{}, images: map[string]*Image{}, nodes: map[string]*Node{},
		tokens: map[string]*Token{}, pools: map[string]*Pool{}, claims: map[string]*UsedClaim{}, past: pastTasks{unpacked: unpackedPast}, done: window{byID: map[string]*deed{}},
		byMAC: map[string]string{}, byUUID: map[string]string{}, byAddress: map[string]string{},
		byTarget: map[string]string{}, byToken: map[string]string{}, bySession: map[string]string{}, byFormer: map[string]string{},
		users: map[string]*User{}, sessions: map[string]*Session{}, apiTokens: map[string]*APIToken{}, codes: map[string]*OneUseCode{},
		profiles: map[string]*Profile{}, byBoot: map[string]string{},
	}
}

// Index of the last entry applied.
func (s *State) Index() uint64 { return s.index }

// Apply changes the state by one command. The result is the rule's own; events
// tell what changed. A refused command changes nothing but the index, with two
// exceptions: a report whose ids clash is refused and the question it raises is
// kept, and so is the alarm of one with a claim code that another has used. Events
// come with the error then. A command that was done before is not
// done again: its answer is given anew.
func (s *State) Apply(index uint64, c Command) (result any, events []Event, err error) {
	events = s.ApplyAll(index, []Command{c}, func(_ Command, r any, e error) { result, err = r, e })
	return result, events, err
}

// ApplyAll is Apply for the commands of one entry, in order. Each is answered as
// soon as it is done; the events of all come together.
func (s *State) ApplyAll(index uint64, cmds []Command, answer func(c Command, result any, err error)) []Event {
	s.index = index
	s.events = make([]Event, 0, len(cmds))
	for _, c := range cmds {
		before := len(s.events)
		result, err := s.once(index, c)
		for i := before; i < len(s.events); i++ {
			s.events[i].Index, s.events[i].At = index, c.At
		}
		answer(c, result, err)
	}
	events := s.events
	s.events = nil
	return events
}

// once does a command unless it was done before.
func (s *State) once(index uint64, c Command) (any, error) {
	if c.counts() {
		if d := s.done.byID[c.ID]; d != nil {
			return s.answer(d)
		}
		if c.Retry && c.Since < s.done.floor {
			return nil, refuse(Uncertain, "it is not known any more whether this was done before; look before you ask again")
		}
	}
	result, err := c.Body.apply(s, c)
	if err != nil {
		result = nil
	}
	if c.counts() {
		s.done.keep(deedOf(index, c, result, err))
	}
	return result, err
}

// Machine by id, or nil.
func (s *State) Machine(id string) *Machine { return s.machines[id] }

// MachineByMAC finds the machine that has the hardware address, or nil.
func (s *State) MachineByMAC(mac string) *Machine { return s.machines[s.byMAC[strings.ToLower(mac)]] }

// MachineByAddress finds the machine that keeps the IPv4 address, or nil.
func (s *State) MachineByAddress(ip string) *Machine { return s.machines[s.byAddress[ip]] }

// MachineBySession finds the machine whose agent holds the session, or nil.
func (s *State) MachineBySession(hash string) *Machine {
	if hash == "" {
		return nil
	}
	return s.machines[s.bySession[hash]]
}

// MachineByFormerSession finds the machine whose agent held the session until
// another took its place, or nil.
func (s *State) MachineByFormerSession(hash string) *Machine { return s.machines[s.byFormer[hash]] }

// Task by id, or nil.
func (s *State) Task(id string) *Task {
	if t := s.tasks[id]; t != nil {
		return t
	}
	if p := s.past.get(id); p != nil {
		return p.full()
	}
	return nil
}

// TaskByPhoneToken finds the task whose installed system reports with the token.
func (s *State) TaskByPhoneToken(token string) *Task {
	if token == "" {
		return nil
	}
	return s.Task(s.byToken[token])
}

// TaskForMAC is the open task for the machine with this address, seen or not.
func (s *State) TaskForMAC(mac string) *Task {
	mac = strings.ToLower(mac)
	if m := s.MachineByMAC(mac); m != nil {
		if t := s.tasks[m.TaskID]; t != nil && t.Open() {
			return t
		}
	}
	return s.tasks[s.byTarget[mac]]
}

// Image by name, or nil.
func (s *State) Image(name string) *Image { return s.images[name] }

// Node by id, or nil.
func (s *State) Node(id string) *Node { return s.nodes[id] }

// Machines sorted by id, which is the order they were first seen in.
func (s *State) Machines() []*Machine { return sorted(s.machines) }

// Images sorted by name.
func (s *State) Images() []*Image { return sorted(s.images) }

// Nodes sorted by id.
func (s *State) Nodes() []*Node { return sorted(s.nodes) }

func sorted[T any](m map[string]*T) []*T {
	out := make([]*T, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

func (s *State) putTask(t *Task, event EventType) {
	token := ""
	if old := s.tasks[t.ID]; old != nil {
		token = old.PhoneToken
	} else if p := s.past.get(t.ID); p != nil {
		token = p.PhoneToken
		s.past.remove(t.ID)
	}
	if token != t.PhoneToken {
		delete(s.byToken, token)
	}
	if !t.Open() {
		t.ended()
	}
	s.tasks[t.ID] = t
	s.indexTask(t)
	s.settle(t.ID)
	s.events = append(s.events, Event{Type: event, TaskID: t.ID, MachineID: t.MachineID, Task: t})
}

func (s *State) indexTask(t *Task) {
	if t.PhoneToken != "" {
		s.byToken[t.PhoneToken] = t.ID
	}
	if t.MachineID == "" && t.Open() {
		s.byTarget[t.TargetMAC] = t.ID
	} else if s.byTarget[t.TargetMAC] == t.ID {
		delete(s.byTarget, t.TargetMAC)
	}
}

func (s *State) putMachine(m *Machine, event EventType) {
	old := s.machines[m.ID]
	if old != nil {
		s.unindexMachine(old)
	}
	s.machines[m.ID] = m
	s.indexMachine(m)
	if old != nil && old.TaskID != m.TaskID {
		s.settle(old.TaskID)
	}
	s.settle(m.TaskID)
	s.events = append(s.events, Event{Type: event, TaskID: m.TaskID, MachineID: m.ID, Machine: m})
}

func (s *State) indexMachine(m *Machine) {
	for _, mac := range m.IDs.MACs {
		s.byMAC[mac] = m.ID
	}
	if m.IDs.UUID != "" {
		s.byUUID[m.IDs.UUID] = m.ID
	}
	if m.SessionHash != "" {
		s.bySession[m.SessionHash] = m.ID
	}
	for _, session := range m.FormerSessions {
		s.byFormer[session] = m.ID
	}
	for _, ip := range m.Addresses {
		s.byAddress[ip] = m.ID
	}
	for _, ip := range m.Assigned {
		s.byAddress[ip] = m.ID
	}
	for _, token := range m.bootTokens() {
		s.byBoot[token] = m.ID
	}
}

func (s *State) unindexMachine(m *Machine) {
	for _, mac := range m.IDs.MACs {
		delete(s.byMAC, mac)
	}
	delete(s.byUUID, m.IDs.UUID)
	delete(s.bySession, m.SessionHash)
	for _, session := range m.FormerSessions {
		delete(s.byFormer, session)
	}
	for _, ip := range m.Addresses {
		delete(s.byAddress, ip)
	}
	for _, ip := range m.Assigned {
		delete(s.byAddress, ip)
	}
	for _, token := range m.bootTokens() {
		delete(s.byBoot, token)
	}
}
