package consensus_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// files reads a whole directory.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestADirectoryOfAnotherVersionIsNotTouched(t *testing.T) {
	for _, c := range []struct{ format, says string }{
		{"3", "made by a newer lpmos (format 3); upgrade this node"},
		{"1", "older than any release (format 1): take a backup with it"},
	} {
		t.Run("format "+c.format, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "format"), []byte(c.format+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := consensus.Open(consensustest.Config(dir))
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, consensus.ErrNewer) != (c.format == "3") {
				t.Errorf("it says %v", err)
			}
			if got := files(t, dir); len(got) != 1 || got[filepath.Join(dir, "format")] != c.format+"\n" {
				t.Errorf("the directory holds %q now", got)
			}
		})
	}
}

// written is a directory with a state in it, closed, and with a snapshot if
// one is asked for.
func written(t testing.TB, snapshot bool) (cfg consensus.Config, state string) {
	t.Helper()
	cfg = consensustest.Config(t.TempDir())
	if snapshot {
		cfg.SnapshotBytes, cfg.TrailingEntries = 2048, 1
	}
	n := consensustest.Open(t, cfg)
	for i := range 60 {
		consensustest.Propose[*fleet.Node](t, n, putNode(fmt.Sprint("node-", i)))
	}
	if snapshot {
		eventually(t, "a snapshot", func() bool { return n.Stats()["snapshot_index"] != nil })
	}
	state = content(t, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return cfg, state
}

func TestS47_DamageIsToldAndNeverServed(t *testing.T) {
	change := func(name string, f func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			found, err := filepath.Glob(filepath.Join(dir, name))
			if err != nil || len(found) == 0 {
				t.Fatalf("no file %s (%v)", name, err)
			}
			for _, path := range found {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if b = f(b); b == nil {
					err = os.Remove(path)
				} else {
					err = os.WriteFile(path, b, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	gone := func([]byte) []byte { return nil }
	empty := func([]byte) []byte { return []byte{} }
	flip := func(what string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(what), []byte(strings.ToUpper(what))) }
	}
	cases := []struct {
		name     string
		snapshot bool
		damage   func(t *testing.T, dir string)
	}{
		{"a flipped letter in the log", false, change("raft.db", flip("name of node-7"))},
		{"a log cut in the middle of its pages", false, change("raft.db", func(b []byte) []byte { return b[:5*4096] })},
		{"a log cut to its first pages", false, change("raft.db", func(b []byte) []byte { return b[:8192] })},
		{"a log that is no database", false, change("raft.db", func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) })},
		{"an empty log", true, change("raft.db", empty)},
		{"no log beside a snapshot", true, change("raft.db", gone)},
		{"a flipped bit in every snapshot", true, change("snapshots/*/state.bin", func(b []byte) []byte { b[len(b)/2] ^= 1; return b })},
		{"no snapshot where the log needs one", true, change("snapshots/*/meta.json", gone)},
		{"no format", false, change("format", gone)},
		{"a format that is no number", false, change("format", func([]byte) []byte { return []byte("one") })},
		{"no node id", false, change("node-id", gone)},
		{"an empty node id", false, change("node-id", empty)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg, _ := written(t, c.snapshot)
			c.damage(t, cfg.Dir)
			n, err := consensus.Open(cfg)
			if err == nil {
				n.Close()
			}
			if !errors.Is(err, consensus.ErrCorrupt) {
				t.Errorf("it opens with %v, want ErrCorrupt", err)
			}
		})
	}
}

func TestAnOlderSnapshotServesWhileTheLogReachesBack(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.SnapshotBytes, cfg.TrailingEntries = 2048, 10000
	n := consensustest.Open(t, cfg)
	for i := range 60 {
		consensustest.Propose[*fleet.Node](t, n, putNode(fmt.Sprint("node-", i)))
	}
	eventually(t, "two snapshots", func() bool {
		found, err := filepath.Glob(filepath.Join(cfg.Dir, "snapshots", "*", "meta.json"))
		return err == nil && len(found) == 2
	})
	was := content(t, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(cfg.Dir, "snapshots", "*", "state.bin"))
	if err != nil || len(found) != 2 {
		t.Fatalf("snapshots %v (%v)", found, err)
	}
	if err := os.WriteFile(found[1], []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := content(t, consensustest.Open(t, cfg)); got != was {
		t.Errorf("the state is\n%s\nit was\n%s", got, was)
	}
}

// Flipped bytes are told, or the node serves what was acknowledged. The two first
// pages are left out: bbolt falls back to the transaction before when its newest
// root is unreadable.
func TestS47_AFlippedByteIsToldOrHarmless(t *testing.T) {
	cfg, state := written(t, false)
	whole, err := os.ReadFile(filepath.Join(cfg.Dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	whole = whole[:1<<20] // all that is in use; bbolt grows its file ahead
	told := 0
	for i := range 60 {
		// Headers and entries of each page first, then what they point to.
		at, change := 8192+(i/6)*4096+(i%6)*37, byte(1<<(i%8))
		b := bytes.Clone(whole)
		b[at] ^= change
		if err := os.WriteFile(filepath.Join(cfg.Dir, "raft.db"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := consensus.Open(cfg)
		if errors.Is(err, consensus.ErrCorrupt) {
			told++
			continue
		}
		if err != nil {
			t.Fatalf("byte %d ^ %#x: it opens with %v, want ErrCorrupt", at, change, err)
		}
		if err := n.Ready(t.Context()); err != nil {
			t.Errorf("byte %d ^ %#x: it is not ready: %v", at, change, err)
		}
		if got := content(t, n); got != state {
			t.Errorf("byte %d ^ %#x: the state is\n%s\nit was\n%s", at, change, got, state)
		}
		if err := n.Close(); err != nil {
			t.Errorf("byte %d ^ %#x: close: %v", at, change, err)
		}
	}
	if told == 0 {
		t.Error("no flip was noticed")
	}
}

// Term and vote have no entry around them whose checksum would tell. Every bit of
// them, and of the names of the buckets, is flipped.
func TestS47_AFlippedPromiseIsTold(t *testing.T) {
	cfg, _ := written(t, true)
	was, err := consensus.Promises(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.Dir, "raft.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	told, all := 0, 0
	for name, length := range map[string]int{"CurrentTerm": 11 + 13, "LastVoteTerm": 12 + 13, "LastVoteCand": 12 + 20, "conf": 4, "logs": 4} {
		for at := range whole[:1<<20] {
			if !bytes.HasPrefix(whole[at:], []byte(name)) {
				continue // pages that are of no use any more hold it, too
			}
			for i := range length * 8 {
				where := at + i/8
				if _, err := f.WriteAt([]byte{whole[where] ^ 1<<(i%8)}, int64(where)); err != nil {
					t.Fatal(err)
				}
				all++
				is, err := consensus.Promises(cfg)
				if errors.Is(err, consensus.ErrCorrupt) {
					told++
				} else if err != nil || is != was {
					t.Errorf("bit %d of %s at %d: term and vote are %q (%v), they were %q", i, name, at, is, err, was)
				}
				if _, err := f.WriteAt(whole[where:where+1], int64(where)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if told < 300 {
		t.Errorf("%d of %d flips were told", told, all)
	}
}

// bbolt ends the process over whatever it looks for when it opens a file: where
// keys lie, too. So every flip that is let through must open.
func TestWhatIsLetThroughOpens(t *testing.T) {
	cfg, _ := written(t, false)
	whole, err := os.ReadFile(filepath.Join(cfg.Dir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	whole = whole[:1<<20]
	random := rand.New(rand.NewPCG(1, 2))
	path, passed := filepath.Join(t.TempDir(), "raft.db"), 0
	for range 4000 {
		at := 8192 + random.IntN(24)*4096 + random.IntN(600) // headers, entries and the first keys of 24 pages
		change := byte(1 << random.IntN(8))
		whole[at] ^= change
		if consensus.CheckBolt(bytes.NewReader(whole), int64(len(whole))) == nil {
			passed++
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
			if err != nil {
				t.Fatalf("byte %d ^ %#x: %v", at, change, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		whole[at] ^= change
	}
	if passed == 0 || passed == 4000 {
		t.Errorf("%d of 4000 flips were let through", passed)
	}
}

// FuzzCheckBolt: any file is judged without a panic, and in bounded memory.
func FuzzCheckBolt(f *testing.F) {
	cfg, _ := written(f, false)
	whole, err := os.ReadFile(filepath.Join(cfg.Dir, "raft.db"))
	if err != nil {
		f.Fatal(err)
	}
	whole = whole[:1<<20]
	if err := consensus.CheckBolt(bytes.NewReader(whole), 1<<20); err != nil {
		f.Fatalf("a whole file is refused: %v", err)
	}
	for i := range 24 {
		f.Add(uint32(i*1237), []byte{byte(1 << (i % 8)), byte(i)})
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(whole[:128<<10])
		copy(b[int(at)%len(b):], patch)
		consensus.CheckBolt(bytes.NewReader(b), 1<<20) //nolint:errcheck // any answer will do
	})
}
