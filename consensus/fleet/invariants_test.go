package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lpmos/lpmos/agent/wire"
)

// anyBody draws a command out of few enough names that they meet each other.
func anyBody(t *rapid.T, r *rig) Body {
	fresh := fmt.Sprintf("%04d", r.index)
	macs := []string{mac1, mac2, "52:54:00:00:00:03"}
	task := rapid.SampledFrom(append([]string{"none"}, keysOf(r.s.Tasks(), func(t *Task) string { return t.ID })...)).Draw(t, "task")
	machine := rapid.SampledFrom(append([]string{"none"}, keysOf(r.s.Machines(), func(m *Machine) string { return m.ID })...)).Draw(t, "machine")
	session, generation, hash := "nobody", uint64(0), "x"
	if tk := r.s.Task(task); tk != nil {
		generation, hash = tk.Generation, tk.PlanHash
		if m := r.s.Machine(tk.MachineID); m != nil {
			session = m.SessionHash
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
		generation, hash = generation+1, "stale"
	}
	switch rapid.IntRange(0, 33).Draw(t, "kind") {
	case 0:
		node := rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node")
		if rapid.IntRange(0, 3).Draw(t, "seat") == 0 {
			return SeatNode{ID: node, StandsBy: rapid.Bool().Draw(t, "stands by"), By: "ann"}
		}
		return PutNode{Node{ID: node}}
	case 1:
		b := debian()
		b.Image.SizeBytes = rapid.Uint64Range(0, 200*gb).Draw(t, "size")
		return b
	case 2:
		return DeleteImage{Name: "debian-12"}
	case 3, 4:
		mac := rapid.SampledFrom(macs).Draw(t, "mac")
		mine := []string{mac}
		if rapid.Bool().Draw(t, "two cards") {
			mine = append(mine, rapid.SampledFrom(macs).Draw(t, "mac 2"))
		}
		uuid := rapid.SampledFrom([]string{"", uuid1, uuid2}).Draw(t, "uuid")
		serial := rapid.SampledFrom([]string{"", "A", "B"}).Draw(t, "serial")
		disks := []wire.Disk{disk(rapid.SampledFrom([]string{"D1", "D2"}).Draw(t, "disk"), 50)}
		session, claim := "s"+fresh, ""
		if rapid.Bool().Draw(t, "with a code") {
			session, claim = rapid.SampledFrom([]string{"k1", "k2"}).Draw(t, "key"), rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "code")
		}
		return ReportMachine{Claim: claim, ClaimMAC: rapid.SampledFrom(macs).Draw(t, "claim's mac"), ClaimExpires: r.at.Add(time.Duration(rapid.IntRange(-1, 9).Draw(t, "lasts")) * time.Second), Renew: rapid.IntRange(0, 9).Draw(t, "renews") == 0,
			NewID: "m" + fresh, MAC: mac, IP: rapid.SampledFrom([]string{"", "10.0.0.1", "10.0.0.2"}).Draw(t, "ip"),
			BootID: rapid.SampledFrom([]string{"b1", "b2"}).Draw(t, "boot"), SessionHash: session, Inventory: inventory(uuid, serial, mine, disks...)}
	case 5:
		if rapid.Bool().Draw(t, "displaced") {
			return NoteDisplaced{SessionHash: rapid.SampledFrom([]string{"", "k1", "k2"}).Draw(t, "session")}
		}
		if rapid.Bool().Draw(t, "leave") {
			return LeaveAgent{SessionHash: rapid.SampledFrom([]string{"", "s1", "s2", "s3"}).Draw(t, "session")}
		}
		return ServeBoot{MAC: rapid.SampledFrom(macs).Draw(t, "mac")}
	case 6:
		b := create("t" + fresh)
		b.TargetMAC = rapid.SampledFrom(macs).Draw(t, "mac")
		if rapid.Bool().Draw(t, "at once") {
			b.Approve = &Decision{PlanHash: hash, By: "ann"}
		}
		return b
	case 7:
		return DecideTask{TaskID: task, Approved: rapid.IntRange(0, 3).Draw(t, "yes") > 0, PlanHash: hash,
			By: rapid.SampledFrom([]string{"ann", "ann", "bob"}).Draw(t, "by")}
	case 8:
		return StartInstall{TaskID: task, Generation: generation, PlanHash: hash, SessionHash: session}
	case 9:
		stage := rapid.SampledFrom(wire.Stages).Draw(t, "stage")
		from, to, _ := stage.Span()
		return Advance{[]AdvanceItem{{TaskID: task, Generation: generation, Progress: wire.Progress{Stage: stage,
			Percentage: rapid.Float64Range(from, to).Draw(t, "percentage")}}}}
	case 10:
		b := FinishInstall{TaskID: task, Generation: generation, SessionHash: session}
		if rapid.Bool().Draw(t, "failed") {
			b.Error = &wire.TaskError{Code: rapid.SampledFrom([]string{wire.CodeInternal, wire.CodePlanMismatch}).Draw(t, "code")}
		}
		return b
	case 11:
		if tk := r.s.Task(task); tk != nil {
			return ReportUp{PhoneToken: tk.PhoneToken}
		}
		return ReportUp{}
	case 12:
		return CancelTask{TaskID: task, By: "ann"}
	case 13:
		return RetryTask{TaskID: task, By: "ann", PhoneToken: "token-" + fresh}
	case 14:
		return SettleQuestion{MachineID: machine, Accept: rapid.Bool().Draw(t, "accept")}
	case 15:
		if rapid.Bool().Draw(t, "what") {
			return DeleteTask{TaskID: task}
		}
		return DeleteMachine{MachineID: machine}
	case 16, 17, 18, 19, 20:
		return anyClusterBody(t, r)
	case 21, 22:
		return anyGuardBody(t, task, machine)
	case 23, 24, 25:
		return anyBootBody(t, r, machine, fresh)
	default:
		return anyPersonBody(t, r)
	}
}

// anyGuardBody is anyBody of what stands between a word and a disk.
func anyGuardBody(t *rapid.T, task, machine string) Body {
	switch rapid.IntRange(0, 6).Draw(t, "guard kind") {
	case 6:
		return AssignAddress{MachineID: machine, MAC: rapid.SampledFrom([]string{"", mac1, mac2}).Draw(t, "card"), By: "ann",
			Address: rapid.SampledFrom([]string{"", "10.0.0.200", "10.0.0.201", "10.0.0.201", "10.0.0.1", "10.0.0.255", "10.9.0.1"}).Draw(t, "address")}
	case 0:
		return ProtectMachine{MachineID: machine, Protected: rapid.Bool().Draw(t, "protected"), By: "ann"}
	case 1:
		return LapseApproval{TaskID: task}
	case 2:
		return PutGrantKey{ClusterID: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "cluster"), Cert: []byte{1}, Sealed: []byte{2}}
	case 3:
		if rapid.Bool().Draw(t, "machine's") {
			return ReleaseHold{MachineID: machine, By: "ann"}
		}
		return ReleaseHold{TaskID: task, By: "ann"}
	case 4:
		return ServeBoot{MAC: mac1} // often enough for a hold
	default:
		return PutPolicy{ApprovalCap: rapid.IntRange(0, 3).Draw(t, "cap"), ApprovalWindow: time.Minute,
			SecondApprover: rapid.SampledFrom([]string{SecondOverCap, SecondAlways, SecondNever}).Draw(t, "second"), By: "ann"}
	}
}

// anyBootBody is anyBody of boots into profiles.
func anyBootBody(t *rapid.T, r *rig, machine, fresh string) Body {
	wish, m := "none", r.s.Machine(machine)
	if m != nil && m.NextBoot != nil {
		wish = m.NextBoot.ID
	}
	switch rapid.IntRange(0, 6).Draw(t, "boot kind") {
	case 0:
		b := installer()
		b.Profile.Text = rapid.SampledFrom([]string{"", "another"}).Draw(t, "text")
		return b
	case 1:
		return DeleteProfile{Name: "d-i"}
	case 2:
		return CancelBoot{MachineID: machine, By: "ann"}
	case 3:
		return LapseBoot{MachineID: machine, ID: wish}
	case 4:
		return TakeBoot{MAC: rapid.SampledFrom([]string{mac1, mac2}).Draw(t, "mac"), ID: wish,
			UUIDs: rapid.SampledFrom([][]string{nil, {uuid1}, {uuid2}}).Draw(t, "firmware's uuid")}
	case 5:
		if m != nil && m.LastBoot != nil {
			return ReportUp{PhoneToken: m.LastBoot.Token, Hostname: "up" + fresh}
		}
	}
	b := AskBoot{ID: "b" + fresh, MachineID: machine, Profile: rapid.SampledFrom([]string{"rescue", "d-i"}).Draw(t, "profile"), Token: "boot-" + fresh,
		By: rapid.SampledFrom([]string{"ann", "ann", "bob"}).Draw(t, "by")}
	if p := r.s.Profile(b.Profile); p != nil && p.Erases && m != nil {
		if plan, err := ProfilePlan(m, p, ""); err == nil {
			b.Approve = &Decision{PlanHash: plan.Hash(), ConfirmSerial: Confirm(&plan)}
		}
	}
	return b
}

// anyClusterBody is anyBody of what nodes ask about their cluster.
func anyClusterBody(t *rapid.T, r *rig) Body {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")
	id := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "id")
	places := rapid.SliceOfN(rapid.IntRange(0, 7), 0, 4).Draw(t, "places")
	switch rapid.IntRange(0, 9).Draw(t, "cluster kind") {
	case 0:
		return PutCluster{Cluster{ID: id}}
	case 1:
		return RaiseEpoch{Reason: "fire", By: "ann", NewIdentity: rapid.Bool().Draw(t, "new identity")}
	case 2:
		return CreateToken{ID: id, SecretHash: "h", ExpiresAt: r.at.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "lasts")) * time.Second)}
	case 3:
		return RedeemToken{ID: id, SecretHash: rapid.SampledFrom([]string{"h", "h", "x"}).Draw(t, "secret"), NodeID: node}
	case 4:
		return RemoveNode{ID: node, By: "ann", Gone: rapid.Bool().Draw(t, "gone")}
	case 5:
		return NoteLeader{NodeID: node, Term: rapid.Uint64Range(0, 9).Draw(t, "term")}
	case 6:
		return YieldPool{NodeID: node, Network: lan, Blocks: places}
	case 7:
		return TakePool{NodeID: node, Network: lan, Blocks: places}
	default:
		first := rapid.IntRange(0, 9).Draw(t, "first")
		return claim(node, fmt.Sprint(first), fmt.Sprint(rapid.IntRange(first, 12).Draw(t, "last")))
	}
}

func keysOf[T any](values []T, key func(T) string) (out []string) {
	for _, v := range values {
		out = append(out, key(v))
	}
	return out
}

// mirror is what a viewer knows who got every event.
type mirror struct {
	tasks    map[string]*Task
	machines map[string]*Machine
	images   map[string]*Image
	nodes    map[string]*Node
	cluster  *Cluster
	tokens   map[string]*Token
	pools    map[string]*Pool
	leader   Leader
	audit    []*AuditRecord
	policy   *Policy
	profiles map[string]*Profile

	evidence  []*Evidence
	users     map[string]*User
	sessions  map[string]*Session
	apiTokens map[string]*APIToken
	codes     map[string]*OneUseCode
}

func newMirror() *mirror {
	return &mirror{profiles: map[string]*Profile{}, tasks: map[string]*Task{}, machines: map[string]*Machine{}, images: map[string]*Image{},
		nodes: map[string]*Node{}, tokens: map[string]*Token{}, pools: map[string]*Pool{},
		users: map[string]*User{}, sessions: map[string]*Session{}, apiTokens: map[string]*APIToken{}, codes: map[string]*OneUseCode{}}
}

func mirrorOf(s *State) *mirror {
	tasks := map[string]*Task{}
	for _, t := range s.Tasks() {
		tasks[t.ID] = t
	}
	return &mirror{profiles: s.profiles, tasks: tasks, machines: s.machines, images: s.images, nodes: s.nodes, cluster: s.cluster,
		tokens: s.tokens, pools: s.pools, leader: s.leader, audit: s.audit, policy: s.policy,
		evidence: s.evidence, users: s.users, sessions: s.sessions, apiTokens: s.apiTokens, codes: s.codes}
}

func (m *mirror) see(ev Event) {
	switch ev.Type {
	case EventNodeDeleted:
		delete(m.nodes, ev.ID)
	case EventCluster:
		m.cluster = ev.Cluster
	case EventToken:
		m.tokens[ev.ID] = ev.Token
	case EventTokenDeleted:
		delete(m.tokens, ev.ID)
	case EventPool:
		m.pools[ev.Name] = ev.Pool
	case EventLeader:
		m.leader = *ev.Leader
	case EventAudit:
		m.audit = append(m.audit, ev.Audit)
	case EventPolicy:
		m.policy = ev.Policy
	case EventProfile:
		m.profiles[ev.Name] = ev.Profile
	case EventProfileDeleted:
		delete(m.profiles, ev.Name)
	case EventEvidence:
		m.evidence = append(m.evidence, ev.Evidence)
	case EventUser:
		m.users[ev.ID] = ev.User
	case EventUserDeleted:
		delete(m.users, ev.ID)
	case EventSession:
		m.sessions[ev.ID] = ev.Session
	case EventSessionEnded:
		delete(m.sessions, ev.ID)
	case EventAPIToken:
		m.apiTokens[ev.ID] = ev.APIToken
	case EventAPITokenDeleted:
		delete(m.apiTokens, ev.ID)
	case EventCode:
		m.codes[ev.ID] = ev.Code
	case EventCodeDeleted:
		delete(m.codes, ev.ID)
	case EventTaskDeleted:
		delete(m.tasks, ev.TaskID)
	case EventMachineDeleted:
		delete(m.machines, ev.MachineID)
	case EventImageDeleted:
		delete(m.images, ev.Name)
	case EventImage:
		m.images[ev.Name] = ev.Image
	case EventNode:
		m.nodes[ev.Node.ID] = ev.Node
	case EventHardware, EventMachine:
		m.machines[ev.MachineID] = ev.Machine
	default:
		m.tasks[ev.TaskID] = ev.Task
	}
}

func TestNoSequenceOfCommandsBreaksAnInvariant(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		r.s.past.unpacked = 1 // so that most of what is past is packed
		seen := newMirror()
		handedOut := map[any]string{}
		// twin is a node that began with a snapshot of the other, lately.
		var twin *State
		var done []Command
		step := func(b Body) {
			if rapid.IntRange(0, 19).Draw(rt, "a day passes") == 0 {
				r.at = r.at.Add(poolRest)
			}
			before := content(t, r.s)
			c := r.command(b)
			if len(done) > 0 && rapid.IntRange(0, 7).Draw(rt, "repeated") == 0 {
				c = rapid.SampledFrom(done).Draw(rt, "command")
				c.Retry, c.At, b = true, r.at, c.Body
			}
			done = append(done, c)
			was := erasingWish(r.s, b)
			result, events, err := r.s.Apply(r.index, c)
			r.events = events
			if was != nil && err == nil && !c.Retry {
				checkTaken(rt, was)
			}
			if twin != nil {
				result2, events2, err2 := twin.Apply(r.index, c)
				if asJSON(result2) != asJSON(result) || asJSON(events2) != asJSON(events) || asJSON(err2) != asJSON(err) {
					rt.Fatalf("%s gives %s, %s, %v;\nwho began with a snapshot gives %s, %s, %v", b.commandType(),
						asJSON(result), asJSON(events), err, asJSON(result2), asJSON(events2), err2)
				}
				if !bytes.Equal(snapshotOf(t, twin), snapshotOf(t, r.s)) {
					rt.Fatalf("after %s who began with a snapshot has another state", b.commandType())
				}
			}
			if twin == nil || rapid.IntRange(0, 9).Draw(rt, "snapshot") == 0 {
				twin = restoredOf(rt, r.s)
			}
			question := false // or an alarm: a report that is refused leaves it behind
			for _, ev := range r.events {
				if ev.Index != r.index || !ev.At.Equal(r.at) {
					rt.Fatalf("event %+v is not of entry %d at %v", ev, r.index, r.at)
				}
				seen.see(ev)
				question = question || ev.Type == EventMachine && (ev.Machine.Question != "" || ev.Machine.Doubled.Equal(r.at) ||
					ev.Machine.NotBooted != nil && ev.Machine.NotBooted.Since.Equal(r.at))
			}
			if err != nil && ErrorCode(err) == "" {
				rt.Fatalf("%s: %v is no refusal", b.commandType(), err)
			}
			lapsed := false
			if start, is := b.(StartInstall); is && err != nil && len(r.events) > 0 {
				lapsed = r.s.Task(start.TaskID).Status == wire.StatusPendingApproval
			}
			_, leaves := b.(ReportMachine)
			if _, takes := b.(TakeBoot); takes {
				leaves = true
			}
			if err != nil && !(leaves && question) && !lapsed && content(t, r.s) != before {
				rt.Fatalf("%s was refused (%v) and changed the state", b.commandType(), err)
			}
			for v, was := range handedOut {
				if got := asJSON(v); got != was {
					rt.Fatalf("%s changed a value that was handed out\nfrom %s\nto   %s", b.commandType(), was, got)
				}
			}
			clear(handedOut)
			for _, v := range r.s.Tasks() {
				handedOut[v] = asJSON(v)
			}
			for _, v := range r.s.Machines() {
				handedOut[v] = asJSON(v)
			}
			for _, v := range r.s.Pools() {
				handedOut[v] = asJSON(v)
			}
			for _, v := range r.s.Tokens() {
				handedOut[v] = asJSON(v)
			}
			for _, v := range r.s.Users() {
				handedOut[v] = asJSON(v)
			}
			if want := mirrorOf(r.s); !reflect.DeepEqual(seen, want) {
				rt.Fatalf("after %s somebody who got every event does not know the state", b.commandType())
			}
			checkInvariants(rt, r.s)
		}
		step(debian())
		for range rapid.IntRange(10, 40).Draw(rt, "steps") {
			step(anyBody(rt, r))
		}
	})
}

func checkInvariants(t *rapid.T, s *State) {
	open := map[string]string{}
	for _, task := range s.Tasks() {
		m := s.Machine(task.MachineID)
		if task.Open() && task.MachineID != "" {
			if other := open[task.MachineID]; other != "" {
				t.Fatalf("machine %s has open tasks %s and %s", task.MachineID, other, task.ID)
			}
			open[task.MachineID] = task.ID
			if m == nil || m.TaskID != task.ID {
				t.Fatalf("open task %s is not known to its machine: %+v", task.ID, m)
			}
		}
		if task.Plan != nil && task.Plan.Hash() != task.PlanHash {
			t.Fatalf("task %s has plan hash %s, its plan %s", task.ID, task.PlanHash, task.Plan.Hash())
		}
		if task.Status == wire.StatusApproved || task.Status == wire.StatusInstalling {
			if task.Approval == nil || !task.Approval.Approved || task.Approval.PlanHash != task.PlanHash || task.Plan == nil {
				t.Fatalf("task %s is %s by approval %+v of plan %s", task.ID, task.Status, task.Approval, task.PlanHash)
			}
		}
		if w := task.FirstWord; w != nil && (w.PlanHash != task.PlanHash || task.Status != wire.StatusPendingApproval && task.Status != wire.StatusNeedsReview) {
			t.Fatalf("task %s, which is %s, has a first word %+v for plan %s", task.ID, task.Status, w, task.PlanHash)
		}
		if task.Status == wire.StatusApproved && m != nil && m.Protected {
			t.Fatalf("task %s is approved for machine %s, which is protected", task.ID, m.ID)
		}
		if task.Status == wire.StatusInstalling && (m == nil || !m.Unfinished || task.InstallBootID != m.BootID) {
			t.Fatalf("task %s is installing in boot %s of %+v", task.ID, task.InstallBootID, m)
		}
	}
	macs, addresses, uuids := map[string]string{}, map[string]string{}, map[string]string{}
	for _, m := range s.Machines() {
		once := func(what string, owner map[string]string, key string) {
			if other := owner[key]; key != "" && other != "" && other != m.ID {
				t.Fatalf("%s %s belongs to %s and to %s", what, key, other, m.ID)
			}
			owner[key] = m.ID
		}
		for _, mac := range m.IDs.MACs {
			once("MAC", macs, mac)
		}
		once("UUID", uuids, m.IDs.UUID)
		for _, ip := range m.Addresses {
			once("address", addresses, ip)
		}
		for _, ip := range m.Assigned {
			once("address", addresses, ip)
		}
	}
	for _, p := range s.Pools() {
		checkPool(t, s, p)
	}
	for _, m := range s.Machines() {
		if m.Netboots > maxNetboots || m.Held != nil && m.Netboots < maxNetboots {
			t.Fatalf("machine %s netbooted %d times, held: %v", m.ID, m.Netboots, m.Held)
		}
	}
	for _, m := range s.Machines() {
		checkBoots(t, s, m)
	}
	checkPeople(t, s)
	if err := VerifyAudit(s.AuditTrail()); err != nil {
		t.Fatal(err)
	}
	if len(s.audit) > maxAudit || len(s.words) > maxCap || len(s.done.order) != len(s.done.byID) {
		t.Fatalf("%d audit records, %d done, %d of them by id", len(s.audit), len(s.done.order), len(s.done.byID))
	}
	restored := restoredOf(t, s)
	for name, pair := range map[string][2]map[string]string{
		"byMAC": {s.byMAC, restored.byMAC}, "byUUID": {s.byUUID, restored.byUUID}, "byAddress": {s.byAddress, restored.byAddress},
		"byTarget": {s.byTarget, restored.byTarget}, "byToken": {s.byToken, restored.byToken}, "bySession": {s.bySession, restored.bySession},
		"byFormer": {s.byFormer, restored.byFormer}, "byBoot": {s.byBoot, restored.byBoot},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Fatalf("%s is %v, rebuilt it is %v", name, pair[0], pair[1])
		}
	}
}

// erasingWish is the machine, as it is now, that the command would hand a profile that
// may erase, or nil.
func erasingWish(s *State, b Body) *Machine {
	if take, is := b.(TakeBoot); is {
		if m := s.MachineByMAC(take.MAC); m != nil && m.NextBoot != nil && m.NextBoot.Erases && m.NextBoot.ID == take.ID {
			return m
		}
	}
	return nil
}

// checkTaken: what a machine was given that may erase was approved for this very
// machine, with these disks and what lies on them.
func checkTaken(t *rapid.T, m *Machine) {
	p := m.NextBoot.Plan
	if p.MachineID != m.ID || p.SystemUUID != m.IDs.UUID || p.SystemSerial != m.IDs.Serial {
		t.Fatalf("approved was %s with serial %q, and %+v was given what erases", p.SystemUUID, p.SystemSerial, m.IDs)
	}
	disks := append([]wire.PlanDisk{p.Erase}, p.Untouched...)
	if len(disks) != len(m.Inventory.Disks) {
		t.Fatalf("approved was a machine with %d disks, it has %d", len(disks), len(m.Inventory.Disks))
	}
	for _, d := range m.Inventory.Disks {
		if !slices.ContainsFunc(disks, func(p wire.PlanDisk) bool { return asJSON(p) == asJSON(planDisk(d)) }) {
			t.Fatalf("disk %+v is not of the plan that was approved: %+v", d, disks)
		}
	}
}

// anyMixUp draws a command out of what mixes up two machines with one card, of which
// one is asked to boot what erases.
func anyMixUp(t *rapid.T, r *rig) Body {
	m := r.s.Machine("m1")
	switch rapid.IntRange(0, 8).Draw(t, "kind") {
	case 0:
		if m.Unseen == "" && m.NextBoot == nil {
			b := r.askErase("ann")
			b.ID, b.Token = fmt.Sprint("b", r.index), fmt.Sprint("tok", r.index)
			return b
		}
	case 1:
		return SettleQuestion{MachineID: "m1", Accept: rapid.Bool().Draw(t, "accept"), Remember: rapid.Bool().Draw(t, "remember")}
	case 2:
		return seen("m2", uuid2, "SER2", mac1)
	case 3:
		return report(fmt.Sprint("boot-", r.index), withDebian(sda()), disk("DISK-B", 500))
	case 4:
		return CancelBoot{MachineID: "m1"}
	case 5, 6:
		return report(fmt.Sprint("boot-", r.index), withDebian(sda()))
	}
	if m.NextBoot != nil {
		return TakeBoot{MAC: mac1, ID: m.NextBoot.ID}
	}
	return report(fmt.Sprint("boot-", r.index), withDebian(sda()))
}

func TestNothingErasesAMachineThatWasNotApproved(t *testing.T) {
	taken := 0
	rapid.Check(t, func(rt *rapid.T) {
		r := reported(t)
		for range 40 {
			b := anyMixUp(rt, r)
			was := erasingWish(r.s, b)
			if _, err := r.do(b); was != nil && err == nil {
				taken++
				checkTaken(rt, was)
			}
			checkInvariants(rt, r.s)
		}
	})
	if taken == 0 {
		t.Error("no machine was given anything that erases, so this has shown nothing")
	}
}

func checkBoots(t *rapid.T, s *State, m *Machine) {
	n := m.NextBoot
	if n == nil {
		return
	}
	task := s.Task(m.TaskID)
	switch p := s.Profile(n.Profile); {
	case task != nil && task.Open():
		t.Fatalf("machine %s is to boot %s beside open task %s", m.ID, n.Profile, task.ID)
	case p == nil || p.Digest != n.Digest || p.Erases != n.Erases:
		t.Fatalf("machine %s is to boot %+v, and the profile is %+v", m.ID, n, p)
	case n.Erases && m.Protected:
		t.Fatalf("machine %s is protected and to boot %s, which erases", m.ID, n.Profile)
	case n.Erases && (n.Plan == nil || n.Plan.Hash() != n.PlanHash || (n.Approval == nil) == (n.FirstWord == nil)):
		t.Fatalf("machine %s is to boot %+v", m.ID, n)
	case n.Approval != nil && n.Approval.PlanHash != n.PlanHash:
		t.Fatalf("machine %s is to boot %+v by approval %+v", m.ID, n, n.Approval)
	}
}

// restoredOf is the state as a snapshot gives it, which has to be the same.
func restoredOf(t *rapid.T, s *State) *State {
	var b bytes.Buffer
	if err := s.Snapshot().Write(&b); err != nil {
		t.Fatal(err)
	}
	was := b.String()
	restored := NewState()
	restored.past.unpacked = s.past.unpacked
	if _, err := restore(&b, restored); err != nil {
		t.Fatalf("the state cannot be restored: %v", err)
	}
	b.Reset()
	if err := restored.Snapshot().Write(&b); err != nil || b.String() != was {
		t.Fatalf("restored, the state is another (%v):\n%s\nit was:\n%s", err, b.String(), was)
	}
	return restored
}

func TestAnEventCarriesItsNameIntoJSON(t *testing.T) {
	r := newRig(t)
	r.must(debian())
	b, err := json.Marshal(r.events[0])
	if err != nil || !bytes.Contains(b, []byte(`"type":"image"`)) || !bytes.Contains(b, []byte(`"name":"debian-12"`)) {
		t.Errorf("the event is %s (%v)", b, err)
	}
}
