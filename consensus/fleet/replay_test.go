package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

var update = flag.Bool("update", false, "write the newest log of testdata anew; one that a release has written must never be")

// keptLogs are logs as releases have written them, each with the state it gives.
// A kind that comes later goes into the newest, or into one more.
var keptLogs = []string{"testdata/log-v1", "testdata/log-v2", "testdata/log-v3-addresses", "testdata/log-v3"}

// writeLog makes the newest log: every kind of command, refusals, several in one
// entry and one that is asked for twice.
func writeLog(t *testing.T, name string) {
	r := newRig(t)
	var out bytes.Buffer
	entry := func(cmds ...Command) {
		raw, err := EncodeEntry(cmds)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(raw, '\n'))
		r.index -= uint64(len(cmds) - 1)
		for _, c := range cmds {
			r.s.Apply(r.index, c) //nolint:errcheck // refusals belong to a log
		}
	}
	do := func(b Body) { entry(r.command(b)) }
	do(PutCluster{Cluster{ID: "c1", CACert: []byte{0x30, 1}, Sealed: []byte{1, 2, 3}}})
	do(PutCluster{Cluster{ID: "c2"}}) // refused
	do(PutNode{Node{ID: "n1", Name: "first", RegionID: "dc1", Address: "10.0.0.1:8080", Version: "2", ClusterAddress: "10.0.0.1:4747",
		BootURLs: []string{"http://10.0.0.1:8081"}, Networks: []string{"10.0.0.0/24"}}})
	do(NoteLeader{NodeID: "n1", Name: "first", Term: 2})
	do(CreateToken{ID: "k1", SecretHash: "h1", ExpiresAt: r.at.Add(time.Hour), By: "ann"})
	do(CreateToken{ID: "k2", SecretHash: "h2", ExpiresAt: r.at.Add(time.Hour), By: "ann"})
	do(RedeemToken{ID: "k1", SecretHash: "h1", NodeID: "n2"})
	do(RedeemToken{ID: "k1", SecretHash: "h1", NodeID: "n3"}) // refused
	do(PutNode{Node{ID: "n2", Name: "second", RegionID: "dc1", Version: "2"}})
	do(ClaimPool{NodeID: "n1", Network: "10.0.0.0/24", First: "10.0.0.100", Last: "10.0.0.199"})
	do(ClaimPool{NodeID: "n2", Network: "10.0.0.0/24", First: "10.0.0.100", Last: "10.0.0.199"})
	do(YieldPool{NodeID: "n1", Network: "10.0.0.0/24", Blocks: []int{8, 9, 10, 11, 12, 13}})
	do(ClaimPool{NodeID: "n1", Network: "10.0.0.0/24", First: "10.0.0.110", Last: "10.0.0.210"})

	do(debian())
	do(PutImage{Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("cd", 32), SizeBytes: 64 << 20, Sector: 512}})
	do(create("t1"))
	do(ServeBoot{MAC: mac1})
	do(report("boot-1", withDebian(sda()), disk("DISK-B", 500)))
	do(create("t-refused"))
	do(r.approve("t1"))
	do(r.apiToken("before", "", Operator))
	do(RaiseEpoch{Reason: "two of three nodes are lost", By: "ann"})
	do(r.start("t1")) // refused: nobody approved it in this epoch
	do(r.approve("t1"))
	start := r.command(r.start("t1"))
	entry(start)
	start.Retry, start.Since = true, r.index-1
	r.index++
	entry(start)
	entry(r.command(r.advance("t1", wire.StageDownloading, 42.5)), r.command(LeaveAgent{SessionHash: "nobody"}), r.command(r.advance("t1", wire.StageDownloading, 50)))
	do(r.finish("t1", diskBroke))
	do(RetryTask{TaskID: "t1", By: "ann", PhoneToken: "token-2"})
	do(r.approve("t1"))
	do(r.start("t1"))
	do(r.advance("t1", wire.StageConfiguring, 95))
	do(r.finish("t1", nil))
	do(ReportUp{PhoneToken: "token-2", Hostname: "web1", IP: "10.0.0.1"})
	do(seen("m2", uuid2, "SER2", mac1)) // a clash
	do(SettleQuestion{MachineID: "m1", Remember: true})
	do(seen("m2", uuid2, "SER2", mac2))
	other := create("t2")
	other.TargetMAC, other.Spec = mac2, Spec{OSType: "tiny", Tags: map[string]string{"rack": "7", "row": "b"}}
	do(other)
	do(CancelTask{TaskID: "t2", By: "ann"})
	do(create("t3"))
	do(report("boot-2", sda(), disk("DISK-C", 600)))
	do(DecideTask{TaskID: "t3", PlanHash: r.task("t3").PlanHash, By: "bob"})
	do(DeleteTask{TaskID: "t2"})
	do(LeaveAgent{SessionHash: r.machine("m2").SessionHash})
	do(DeleteMachine{MachineID: "m2"})
	do(DeleteImage{Name: "tiny"})
	do(SeatNode{ID: "n2", StandsBy: true, By: "ann"})
	do(RemoveNode{ID: "n2", By: "ann"})
	do(TakePool{NodeID: "n1", Network: "10.0.0.0/24", Blocks: []int{8}}) // refused: too early
	r.at = r.at.Add(poolRest)
	do(TakePool{NodeID: "n1", Network: "10.0.0.0/24", Blocks: []int{8, 9}})
	do(RemoveNode{ID: "n1", By: "ann", Gone: true})
	do(RaiseEpoch{Reason: "restored", By: "ann", NewIdentity: true})
	do(PutCluster{Cluster{ID: "c3"}})
	do(PutGrantKey{ClusterID: "c3", Cert: []byte{0x30, 2}, Sealed: []byte{4, 5}})
	do(create("t4"))
	for range maxNetboots + 1 {
		do(ServeBoot{MAC: mac1})
	}
	do(ReleaseHold{MachineID: "m1", By: "ann"})
	do(ServeBoot{MAC: mac1})
	do(report("boot-3", sda(), disk("DISK-C", 600)))
	do(r.approve("t4"))
	do(report("boot-4", sda(), disk("DISK-D", 700))) // what was approved is not there any more
	do(r.approve("t4"))
	do(NoteDisplaced{SessionHash: "s-boot-3"}) // two agents: what was approved is held
	do(r.approve("t4"))
	r.at = r.at.Add(ApprovalLife)
	do(LapseApproval{TaskID: "t4"})
	do(PutPolicy{ApprovalCap: 5, ApprovalWindow: time.Hour, SecondApprover: SecondAlways, By: "ann"})
	do(r.approve("t4"))
	do(r.approve("t4")) // refused: it takes another
	second := r.approve("t4")
	second.By = "bob"
	do(second)
	do(ProtectMachine{MachineID: "m1", Protected: true, By: "bob"})
	do(r.approve("t4")) // refused: it is protected
	writePeople(r, do)
	writeBoots(r, do)
	late := r.command(debian())
	late.Retry = true
	entry(late)
	if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(name+".jsonl", out.Bytes(), 0o644),
		os.WriteFile(name+".snapshot", snapshotOf(t, r.s), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// writeBoots asks for boots into profiles.
func writeBoots(r *rig, do func(Body)) {
	do(ProtectMachine{MachineID: "m1", By: "ann"})
	do(CancelTask{TaskID: "t4", By: "ann"})
	do(PutPolicy{ApprovalCap: 5, ApprovalWindow: time.Hour, SecondApprover: SecondNever, By: "ann"})
	do(installer())
	do(AskBoot{ID: "b1", MachineID: "m1", Profile: "rescue", Token: "k1", By: "ann"})
	do(DeleteProfile{Name: "rescue"}) // refused
	do(CancelBoot{MachineID: "m1", By: "bob"})
	do(AskBoot{ID: "b2", MachineID: "m1", Profile: "memtest", Token: "k2", By: "ann"})
	r.at = r.at.Add(NextBootLife)
	do(LapseBoot{MachineID: "m1", ID: "b2"})
	b := r.askErase("ann")
	b.ID, b.Token = "b3", "k3"
	do(b)
	m := r.machine("m1")
	again := report("boot-5", m.Inventory.Disks...)
	do(again)
	do(TakeBoot{MAC: mac1, ID: "b3"})
	do(TakeBoot{MAC: mac1, ID: "b3"}) // refused
	do(ReportUp{PhoneToken: "k3", Hostname: "web3", IP: "10.0.0.1"})
	do(DeleteProfile{Name: "d-i"})
	do(installer())
}

// readLog gives the entries of a kept log.
func readLog(t testing.TB, name string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(name + ".jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(b), []byte("\n"))
}

func TestAnOldLogGivesTheStateItGaveThen(t *testing.T) {
	if *update {
		writeLog(t, keptLogs[len(keptLogs)-1])
	}
	kinds := map[string]bool{}
	for _, name := range keptLogs {
		s := NewState()
		for i, entry := range readLog(t, name) {
			cmds, err := DecodeEntry(entry)
			if err != nil {
				t.Fatalf("%s entry %d: %v", name, i+1, err)
			}
			for _, c := range cmds {
				kinds[c.Body.commandType()] = true
				s.Apply(uint64(i+1), c) //nolint:errcheck // refusals belong to a log
			}
		}
		want, err := os.ReadFile(name + ".snapshot")
		if err != nil {
			t.Fatal(err)
		}
		restored, err := Restore(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		// Of the header, the version is the writer's.
		header, rest, _ := bytes.Cut(want, []byte("\n"))
		header = regexp.MustCompile(`"version":\d+,`).ReplaceAll(header, fmt.Appendf(nil, `"version":%d,`, s.Snapshot().version()))
		want = slices.Concat(header, []byte("\n"), rest)
		if got := snapshotOf(t, s); !bytes.Equal(got, want) {
			t.Errorf("%s: the state is\n%s\nit was\n%s", name, got, want)
		}
		if got := snapshotOf(t, restored); !bytes.Equal(got, want) {
			t.Errorf("%s: restored, the state is\n%s\nit was\n%s", name, got, want)
		}
	}
	for kind := range bodies {
		if !kinds[kind] {
			t.Errorf("no kept log has a %s: put it into the newest, or begin one", kind)
		}
	}
}

func TestAnEntryOfANewerNodeIsRecognised(t *testing.T) {
	for _, entry := range []string{`{"v":1,"id":"x","at":"2026-01-01T00:00:00Z","type":"teleport","data":{}}`,
		`{"v":4,"id":"x","at":"2026-01-01T00:00:00Z","type":"put_node","data":{}}`, `{}`} {
		if _, err := DecodeCommand([]byte(entry)); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%s gives %v", entry, err)
		}
	}
	for _, entry := range []string{``, `[]`, `{"v":1,"type":"put_node"}`, `{"v":1,"type":"put_node","data":[]}`} {
		if _, err := DecodeCommand([]byte(entry)); err == nil || errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%q gives %v", entry, err)
		}
	}
}

// What an older node would drop in silence it does not read at all; what says nothing of
// that it still reads.
func TestASnapshotWithWhatIsNewIsNotForOlderNodes(t *testing.T) {
	version := func(r *rig) int {
		h, _, _ := bytes.Cut(snapshotOf(t, r.s), []byte("\n"))
		var header snapshotHeader
		if err := json.Unmarshal(h, &header); err != nil {
			t.Fatal(err)
		}
		return header.Version
	}
	for name, change := range map[string]func(r *rig){
		"next": func(r *rig) { r.must(ask("rescue")) },
		"not":  func(r *rig) { r.must(ask("rescue"), CancelBoot{MachineID: "m1"}) },
		"last": func(r *rig) { r.must(ask("rescue"), TakeBoot{MAC: mac1, ID: "b1"}) },
		"unseen": func(r *rig) {
			r.must(r.askErase("ann"), report("boot-2", withDebian(sda())), TakeBoot{MAC: mac1, ID: "b1"})
		},
		"assigned": func(r *rig) { r.must(AssignAddress{MachineID: "m1", Address: "10.0.0.20"}) },
		"left": func(r *rig) {
			r.must(AssignAddress{MachineID: "m1", Address: "10.0.0.20"}, AssignAddress{MachineID: "m1"})
		},
	} {
		r := reported(t)
		r.must(PutNode{Node{ID: "n1"}}, claim("n1", "100", "199"))
		if got := version(r); got != 3 {
			t.Errorf("before %s it is version %d", name, got)
		}
		change(r)
		if got := version(r); got != 4 {
			t.Errorf("with %s it is version %d", name, got)
		}
	}
}

const oneRecord = `{"format":"lpmos-fleet","version":1,"records":1}` + "\n"

func TestASnapshotThatIsNotWholeIsRefused(t *testing.T) {
	whole, err := os.ReadFile(keptLogs[0] + ".snapshot")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	last := lines[len(lines)-2]
	cases := map[string][]byte{
		"empty":              nil,
		"another format":     []byte(`{"format":"tar","version":1,"records":0}`),
		"cut at a record":    whole[:len(whole)-len(last)],
		"cut in a record":    whole[:len(whole)-5],
		"a record more":      append(bytes.Clone(whole), last...),
		"a record twice":     bytes.Replace(append(bytes.Clone(whole), last...), []byte(`"records":4`), []byte(`"records":5`), 1),
		"a null record":      []byte(oneRecord + `{"kind":"task","value":null}`),
		"a record of no use": []byte(oneRecord + `{"kind":"task","value":[]}`),
	}
	for name, b := range cases {
		if _, err := Restore(bytes.NewReader(b)); err == nil || errors.Is(err, ErrNewerSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]string{"version": `{"format":"lpmos-fleet","version":5,"records":0}`,
		"record": oneRecord + `{"kind":"tunnel","value":{}}`} {
		if _, err := Restore(strings.NewReader(b)); !errors.Is(err, ErrNewerSnapshot) {
			t.Errorf("a newer %s gives %v", name, err)
		}
	}
}

// FuzzDecodeEntry: an entry is refused, or means the same when written again;
// applying it to a state never panics.
func FuzzDecodeEntry(f *testing.F) {
	var entries [][]byte
	for _, name := range keptLogs {
		entries = append(entries, readLog(f, name)...)
	}
	for _, e := range entries {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cmds, err := DecodeEntry(b)
		if err != nil {
			return
		}
		once, err := EncodeEntry(cmds)
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		again, err := DecodeEntry(once)
		if err != nil {
			t.Fatalf("decode again: %v", err)
		}
		if twice, err := EncodeEntry(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s\nbecame %s (%v)", once, twice, err)
		}
		s := NewState()
		for i, e := range entries {
			if i == 10 || i == 60 {
				for _, c := range cmds {
					s.Apply(uint64(i), c) //nolint:errcheck // any answer will do
				}
			}
			if old, err := DecodeEntry(e); err == nil {
				for _, c := range old {
					s.Apply(uint64(i+1), c) //nolint:errcheck // any answer will do
				}
			}
		}
		if _, err := Restore(bytes.NewReader(snapshotOf(t, s))); err != nil {
			t.Fatalf("the state after %s cannot be restored: %v", b, err)
		}
	})
}

// FuzzRestore: bytes are refused, or give a state that can be written and read.
func FuzzRestore(f *testing.F) {
	for _, name := range keptLogs {
		old, err := os.ReadFile(name + ".snapshot")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(old)
	}
	f.Add([]byte(oneRecord + `{"kind":"machine","value":{"id":"m1"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Restore(bytes.NewReader(b))
		if err != nil {
			return
		}
		once := snapshotOf(t, s)
		again, err := Restore(bytes.NewReader(once))
		if err != nil {
			t.Fatalf("restore again: %v", err)
		}
		if twice := snapshotOf(t, again); !bytes.Equal(once, twice) {
			t.Fatalf("%s\nbecame\n%s", once, twice)
		}
	})
}
