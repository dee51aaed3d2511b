package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

// An entry comes back as it was whatever its length, also when a longer one was
// at its index before; and not at all when one of its parts is gone or another's.
func TestEntriesAreKeptInParts(t *testing.T) {
	bolt, err := openBolt(filepath.Join(t.TempDir(), "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	log := checked{bolt: bolt}
	random := rand.New(rand.NewPCG(1, 2))
	sizes := []int{0, 1, partBytes - 1, partBytes, partBytes + 1, 4 * partBytes, 100*partBytes + 7, 6 << 20}
	var all []*raft.Log
	for i, size := range sizes {
		data := make([]byte, size)
		for at := range data {
			data[at] = byte(random.Uint32())
		}
		all = append(all, &raft.Log{Index: uint64(i + 5), Term: 3, Type: raft.LogCommand, Data: data})
	}
	if err := log.StoreLogs(all); err != nil {
		t.Fatal(err)
	}
	check := func(want *raft.Log) {
		t.Helper()
		var l raft.Log
		if err := log.GetLog(want.Index, &l); err != nil || l.Index != want.Index || l.Term != want.Term || !bytes.Equal(l.Data, want.Data) {
			t.Errorf("entry %d of %d bytes is now %d of %d bytes (%v)", want.Index, len(want.Data), l.Index, len(l.Data), err)
		}
	}
	for _, l := range all {
		check(l)
	}
	ends := func() string {
		first, err1 := log.FirstIndex()
		last, err2 := log.LastIndex()
		return fmt.Sprint(first, last, err1, err2)
	}
	if got := ends(); got != "5 12 <nil> <nil>" {
		t.Errorf("the log goes from and to %s", got)
	}

	// A shorter one in the place of a longer one, as after a change of leader.
	shorter := &raft.Log{Index: 11, Term: 4, Type: raft.LogCommand, Data: []byte("short")}
	if err := errors.Join(log.DeleteRange(11, 12), log.StoreLog(shorter)); err != nil {
		t.Fatal(err)
	}
	check(shorter)
	if got := ends(); got != "5 11 <nil> <nil>" {
		t.Errorf("the log goes from and to %s", got)
	}
	if err := log.GetLog(12, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry that was deleted gives %v", err)
	}
	if err := log.DeleteRange(5, 6); err != nil {
		t.Fatal(err)
	}
	if got := ends(); got != "7 11 <nil> <nil>" {
		t.Errorf("the log goes from and to %s", got)
	}

	for _, c := range []struct {
		name   string
		damage func() error
	}{
		{"its last part is gone", func() error { return bolt.DeleteRange(partKey(10, 3), partKey(10, 3)) }},
		{"a part is another's", func() error {
			return bolt.StoreLog(&raft.Log{Index: partKey(10, 3), Term: 3, Data: all[6].Data[:partBytes]})
		}},
		{"its first part has no seal", func() error {
			return bolt.StoreLog(&raft.Log{Index: partKey(10, 0), Term: 3, Data: all[5].Data[:partBytes]})
		}},
	} {
		if err := c.damage(); err != nil {
			t.Fatal(err)
		}
		if err := log.GetLog(10, &raft.Log{}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Raft takes entries away, and writes others in their place, while it reads them for
// a follower that lacks them. Who reads finds one, the other or none, and a healthy
// disk is never called damaged.
func TestAnEntryIsReadWhileItIsTakenAway(t *testing.T) {
	bolt, err := openBolt(filepath.Join(t.TempDir(), "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	log := checked{bolt: bolt, damaged: func(err error) { t.Error(err) }}
	entries := func(term uint64) (out []*raft.Log) {
		for i := range uint64(32) {
			out = append(out, &raft.Log{Index: i + 1, Term: term, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(term)}, 20_000+int(i+term)*1000)})
		}
		return out
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		found := 0
		defer func() { done <- found }()
		for {
			for i := range uint64(32) {
				select {
				case <-stop:
					return
				default:
				}
				var l raft.Log
				switch err := log.GetLog(i+1, &l); {
				case err == nil && (l.Index != i+1 || len(l.Data) != 20_000+int(i+l.Term)*1000 || l.Data[len(l.Data)-1] != byte(l.Term)):
					t.Errorf("entry %d is read as %d of term %d with %d bytes", i+1, l.Index, l.Term, len(l.Data))
				case err == nil:
					found++
				case err != raft.ErrLogNotFound: // Raft compares it so
					t.Errorf("entry %d: %v", i+1, err)
				}
			}
		}
	}()
	for term := range uint64(60) {
		if err := errors.Join(log.DeleteRange(1, 32), log.StoreLogs(entries(term+1))); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	if found := <-done; found == 0 {
		t.Error("nothing was ever read")
	}
}
