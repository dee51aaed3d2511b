package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

var update = flag.Bool("update", false, "write testdata anew; a log that a release has written must never be")

const (
	oldLog      = "testdata/log-v1.jsonl"
	oldSnapshot = "testdata/log-v1.snapshot"
)

// writeOldLog makes a log with every kind of command, and refusals among them.
func writeOldLog(t *testing.T) {
	r := newRig(t)
	var out bytes.Buffer
	do := func(b Body) {
		c := r.command(b)
		raw, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(raw, '\n'))
		r.s.Apply(r.index, c) //nolint:errcheck // refusals belong to a log
	}
	do(PutNode{Node{ID: "n1", Name: "first", RegionID: "dc1", Address: "10.0.0.1:8080", Version: "1"}})
	do(debian())
	do(PutImage{Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("cd", 32), SizeBytes: 64 << 20, Sector: 512}})
	do(create("t1"))
	do(ServeBoot{MAC: mac1})
	do(report("boot-1", withDebian(sda()), disk("DISK-B", 500)))
	do(create("t-refused"))
	do(r.approve("t1"))
	do(r.start("t1"))
	do(r.advance("t1", wire.StageDownloading, 42.5))
	do(r.finish("t1", diskBroke))
	do(RetryTask{TaskID: "t1", By: "ann", PhoneToken: "token-2"})
	do(r.approve("t1"))
	do(r.start("t1"))
	do(r.advance("t1", wire.StageConfiguring, 95))
	do(r.finish("t1", nil))
	do(ReportUp{PhoneToken: "token-2", Hostname: "web1", IP: "10.0.0.1"})
	do(seen("m2", uuid2, "SER2", mac1)) // a clash
	do(SettleQuestion{MachineID: "m1"})
	do(seen("m2", uuid2, "SER2", mac2))
	other := create("t2")
	other.TargetMAC, other.Spec = mac2, Spec{OSType: "tiny", Tags: map[string]string{"rack": "7", "row": "b"}}
	do(other)
	do(CancelTask{TaskID: "t2", By: "ann"})
	do(DeleteTask{TaskID: "t2"})
	do(LeaveAgent{SessionHash: r.machine("m2").SessionHash})
	do(DeleteMachine{MachineID: "m2"})
	do(DeleteImage{Name: "tiny"})
	if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(oldLog, out.Bytes(), 0o644),
		os.WriteFile(oldSnapshot, snapshotOf(t, r.s), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestAnOldLogGivesTheStateItGaveThen(t *testing.T) {
	if *update {
		writeOldLog(t)
	}
	f, err := os.Open(oldLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, index, kinds := NewState(), uint64(0), map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		index++
		c, err := DecodeCommand(lines.Bytes())
		if err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
		kinds[c.Body.commandType()] = true
		s.Apply(index, c) //nolint:errcheck // refusals belong to a log
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for kind := range bodies {
		if !kinds[kind] {
			t.Errorf("the log has no %s: put the kinds that came later into a log of their own", kind)
		}
	}
	want, err := os.ReadFile(oldSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	if got := snapshotOf(t, s); !bytes.Equal(got, want) {
		t.Errorf("the state is\n%s\nit was\n%s", got, want)
	}
	restored, err := Restore(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if got := snapshotOf(t, restored); !bytes.Equal(got, want) {
		t.Errorf("restored, the state is\n%s\nit was\n%s", got, want)
	}
}

func TestAnEntryOfANewerNodeIsRecognised(t *testing.T) {
	for _, entry := range []string{`{"v":1,"id":"x","at":"2026-01-01T00:00:00Z","type":"teleport","data":{}}`,
		`{"v":2,"id":"x","at":"2026-01-01T00:00:00Z","type":"put_node","data":{}}`, `{}`} {
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

func TestASnapshotThatIsNotWholeIsRefused(t *testing.T) {
	whole, err := os.ReadFile(oldSnapshot)
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
		"a null record":      []byte(`{"format":"lpmos-fleet","version":1,"records":1}{"kind":"task","value":null}`),
		"a record of no use": []byte(`{"format":"lpmos-fleet","version":1,"records":1}{"kind":"task","value":[]}`),
	}
	for name, b := range cases {
		if _, err := Restore(bytes.NewReader(b)); err == nil || errors.Is(err, ErrNewerSnapshot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]string{"version": `{"format":"lpmos-fleet","version":2,"records":0}`,
		"record": `{"format":"lpmos-fleet","version":1,"records":1}{"kind":"tunnel","value":{}}`} {
		if _, err := Restore(strings.NewReader(b)); !errors.Is(err, ErrNewerSnapshot) {
			t.Errorf("a newer %s gives %v", name, err)
		}
	}
}

// FuzzDecodeCommand: an entry is refused, or means the same when written again;
// applying it to a state never panics.
func FuzzDecodeCommand(f *testing.F) {
	old, err := os.ReadFile(oldLog)
	if err != nil {
		f.Fatal(err)
	}
	entries := bytes.Split(bytes.TrimSpace(old), []byte("\n"))
	for _, e := range entries {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		once, err := c.Encode()
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		again, err := DecodeCommand(once)
		if err != nil {
			t.Fatalf("decode again: %v", err)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s\nbecame %s (%v)", once, twice, err)
		}
		s := NewState()
		for i, e := range entries {
			if i == 10 {
				s.Apply(100, c) //nolint:errcheck // any answer will do
			}
			if old, err := DecodeCommand(e); err == nil {
				s.Apply(uint64(i+1), old) //nolint:errcheck // any answer will do
			}
		}
		if _, err := Restore(bytes.NewReader(snapshotOf(t, s))); err != nil {
			t.Fatalf("the state after %s cannot be restored: %v", b, err)
		}
	})
}

// FuzzRestore: bytes are refused, or give a state that can be written and read.
func FuzzRestore(f *testing.F) {
	old, err := os.ReadFile(oldSnapshot)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(old)
	f.Add([]byte(`{"format":"lpmos-fleet","version":1,"records":1}{"kind":"machine","value":{"id":"m1"}}`))
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
