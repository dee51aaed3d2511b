package consensus_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

var made = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// anyState is a state that commands in any order have led to, some of them refused.
func anyState(t testing.TB, rng *rand.Rand) *fleet.State {
	t.Helper()
	s := fleet.NewState()
	at := made.Add(-24 * time.Hour)
	do := func(b fleet.Body) any {
		at = at.Add(time.Second)
		result, _, err := s.Apply(s.Index()+1, fleet.Command{ID: fmt.Sprintf("c%d", s.Index()), At: at, Body: b})
		if err != nil && fleet.ErrorCode(err) == "" {
			t.Fatalf("%T: %v", b, err)
		}
		return result
	}
	do(fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1", CACert: []byte{0x30, 1}, Sealed: []byte("sealed")}})
	do(putNode("n1"))
	do(consensustest.Image())
	for range rng.IntN(40) {
		n, id := rng.IntN(5), fmt.Sprintf("t-%d", rng.IntN(20))
		task := s.Task(id)
		switch rng.IntN(8) {
		case 0:
			consensustest.Server(n, do)
		case 1:
			do(fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: fmt.Sprintf("b0:26:28:00:00:%d0", n), PhoneToken: "p" + id,
				Spec: fleet.Spec{OSType: "debian", OSVersion: "12", UserData: strings.Repeat("x", rng.IntN(99))}})
		case 2:
			if task != nil {
				do(fleet.DecideTask{TaskID: id, Approved: rng.IntN(4) > 0, PlanHash: task.PlanHash, By: "ann"})
			}
		case 3:
			if task != nil && s.Machine(task.MachineID) != nil {
				do(fleet.StartInstall{TaskID: id, Generation: 1, PlanHash: task.PlanHash, SessionHash: s.Machine(task.MachineID).SessionHash})
			}
		case 4:
			do(fleet.CancelTask{TaskID: id, By: "bob"})
		case 5:
			do(putNode(fmt.Sprint("n", rng.IntN(3))))
		case 6:
			do(fleet.CreateToken{ID: fmt.Sprint("k", rng.IntN(9)), SecretHash: "h", ExpiresAt: at.Add(time.Hour), By: "ann"})
		default:
			do(fleet.ClaimPool{NodeID: fmt.Sprint("n", rng.IntN(3)), Network: "10.0.0.0/24", First: "10.0.0.100", Last: "10.0.0.199"})
		}
	}
	return s
}

func snapshotOf(t testing.TB, s *fleet.State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Snapshot().Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func backupOf(t testing.TB, s *fleet.State) ([]byte, consensus.BackupInfo) {
	t.Helper()
	var b bytes.Buffer
	info, err := consensus.WriteBackup(&b, consensus.BackupInfo{Node: "n1", Term: 3, Created: made}, s)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), info
}

func TestABackupHoldsTheStateToTheByte(t *testing.T) {
	for seed := range uint64(100) {
		s := anyState(t, rand.New(rand.NewPCG(seed, 17)))
		file, wrote := backupOf(t, s)
		info, got, err := consensus.ReadBackup(bytes.NewReader(file))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if info != wrote {
			t.Errorf("seed %d: it says %+v, it was written as %+v", seed, info, wrote)
		}
		want := snapshotOf(t, s)
		if !bytes.Equal(snapshotOf(t, got), want) {
			t.Fatalf("seed %d: the state in it is another", seed)
		}
		if info.StateSHA256 != fmt.Sprintf("%x", sha256.Sum256(want)) || info.SHA256 != fmt.Sprintf("%x", sha256.Sum256(file)) || info.Bytes != int64(len(file)) {
			t.Errorf("seed %d: its sums are %+v", seed, info)
		}
	}
}

func TestANodeBacksUpWhatItHasAcknowledged(t *testing.T) {
	n := consensustest.Node(t)
	consensustest.Propose[*fleet.Cluster](t, n, fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1"}})
	consensustest.Propose[*fleet.Node](t, n, putNode("a"))
	var file bytes.Buffer
	wrote, err := n.Backup(context.Background(), &file)
	if err != nil {
		t.Fatal(err)
	}
	info, s, err := consensus.ReadBackup(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if s.Node("a") == nil || info != wrote || info.Node != n.ID() || info.Cluster != "c1" || info.Epoch != 1 || info.Term == 0 || info.Created.IsZero() {
		t.Errorf("the backup is %+v, written as %+v", info, wrote)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Backup(context.Background(), &file); !errors.Is(err, consensus.ErrNotReady) {
		t.Errorf("closed, it says %v", err)
	}
}

// damage alters a file in one of the ways files are damaged in.
func damage(rng *rand.Rand, whole []byte) (what string, b []byte) {
	// Every other time the first or the last line is hit, which are the shortest.
	at := rng.IntN(len(whole))
	switch rng.IntN(4) {
	case 0:
		at = rng.IntN(bytes.IndexByte(whole, '\n') + 1)
	case 1:
		at = len(whole) - 1 - rng.IntN(consensus.BackupEndBytes)
	}
	b = bytes.Clone(whole)
	switch rng.IntN(8) {
	case 0:
		return fmt.Sprintf("cut at byte %d", at), b[:at]
	case 1:
		b[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("bit of byte %d flipped", at), b
	case 2:
		b[at] ^= byte(1 + rng.IntN(255))
		return fmt.Sprintf("byte %d altered", at), b
	case 3:
		return fmt.Sprintf("byte %d taken out", at), append(b[:at], whole[at+1:]...)
	case 4:
		return fmt.Sprintf("byte %d doubled", at), append(append(b[:at], whole[at]), whole[at:]...)
	case 5:
		end := at + 1 + rng.IntN(len(whole)-at)
		return fmt.Sprintf("bytes %d to %d doubled", at, end), append(append(b[:end], whole[at:end]...), whole[end:]...)
	case 6:
		return "bytes behind it", append(b, whole[at:]...)
	default:
		end := at + 1 + rng.IntN(len(whole)-at)
		clear(b[at:end])
		return fmt.Sprintf("bytes %d to %d zero", at, end), b
	}
}

// TestR17_NoByteOfABackupMayBeAnother damages a backup as often as
// LPMOS_DAMAGES says.
func TestR17_NoByteOfABackupMayBeAnother(t *testing.T) {
	rounds := 100
	if v := os.Getenv("LPMOS_DAMAGES"); v != "" {
		var err error
		if rounds, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	whole, _ := backupOf(t, consensustest.Fleet(t, 3, 2))
	rng := rand.New(rand.NewPCG(1, 17))
	refuse := func(what string, b []byte) {
		t.Helper()
		if bytes.Equal(b, whole) {
			return // a zero byte made zero, or a byte doubled beside its like and cut again
		}
		if _, s, err := consensus.ReadBackup(bytes.NewReader(b)); s != nil || !errors.Is(err, consensus.ErrBackup) {
			t.Errorf("%s: it is taken, or says only: %v", what, err)
		}
	}
	for range rounds {
		what, b := damage(rng, whole)
		refuse(what, b)
	}
	refuse("nothing", nil)
	refuse("one byte behind it", append(bytes.Clone(whole), '\n'))
	refuse("there twice", append(bytes.Clone(whole), whole...))
	refuse("its last line twice", append(bytes.Clone(whole), whole[len(whole)-consensus.BackupEndBytes:]...))
	for i := range whole { // every byte of the first and the last line
		if i < bytes.IndexByte(whole, '\n')+1 || i >= len(whole)-consensus.BackupEndBytes {
			b := bytes.Clone(whole)
			b[i] ^= 0x20 // the case of a letter
			refuse(fmt.Sprintf("byte %d altered", i), b)
		}
	}
}

func TestABackupThatCannotBeUsedSaysWhy(t *testing.T) {
	s := anyState(t, rand.New(rand.NewPCG(5, 17)))
	whole, _ := backupOf(t, s)
	// headed is the backup with other words in its first line and the right sum.
	headed := func(change func(m map[string]any)) []byte {
		head, rest, _ := bytes.Cut(whole[:len(whole)-consensus.BackupEndBytes], []byte("\n"))
		var m map[string]any
		if err := json.Unmarshal(head, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		head, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return consensus.SealBackup(append(append(head, '\n'), rest...))
	}
	for _, tc := range []struct {
		what, says string
		file       []byte
	}{
		{"a picture", "does not begin like one that lpmos backup has written", []byte("\x89PNG\r\n\x1a\nIHDR")},
		{"cut", "it was cut short", whole[:len(whole)-9]},
		{"its first line alone", "it is cut short", whole[:bytes.IndexByte(whole, '\n')+1]},
		{"appended", "something was written behind it", append(bytes.Clone(whole), "more"...)},
		{"altered", "its checksum is wrong", append([]byte(strings.Replace(string(whole[:200]), `"n1"`, `"n2"`, 1)), whole[200:]...)},
		{"newer", "made by a newer lpmos (version 2)", headed(func(m map[string]any) { m["version"] = 2 })},
		{"no version", "it is of version 0", headed(func(m map[string]any) { delete(m, "version") })},
		{"encrypted", `it is encrypted ("age")`, headed(func(m map[string]any) { m["encryption"] = "age" })},
		{"packed otherwise", `it is packed as "xz"`, headed(func(m map[string]any) { m["packing"] = "xz" })},
		{"another index", "it does not hold what it says", headed(func(m map[string]any) { m["index"] = 1 })},
		{"another cluster", "it does not hold what it says", headed(func(m map[string]any) { m["cluster"] = "c9" })},
		{"no state", "snapshot", consensus.SealBackup(bytes.Clone(whole[:bytes.IndexByte(whole, '\n')+1]))},
	} {
		_, got, err := consensus.ReadBackup(bytes.NewReader(tc.file))
		if got != nil || !errors.Is(err, consensus.ErrBackup) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: it says %v", tc.what, err)
		}
	}
	if _, _, err := consensus.ReadBackup(bytes.NewReader(headed(func(map[string]any) {}))); err != nil {
		t.Errorf("with a first line written anew, but the same: %v", err)
	}
}

func FuzzReadBackup(f *testing.F) {
	whole, _ := backupOf(f, consensustest.Fleet(f, 1, 1))
	f.Add(whole)
	f.Add(whole[:len(whole)-consensus.BackupEndBytes])
	f.Add([]byte("{\"format\":\"lpmos-backup\",\"version\":1,\"packing\":\"zstd\",\"encryption\":\"\"}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it is, and with a sum that fits, so that what is behind the sum is reached.
		for _, file := range [][]byte{b, consensus.SealBackup(bytes.Clone(b))} {
			info, s, err := consensus.ReadBackup(bytes.NewReader(file))
			if (s == nil) == (err == nil) {
				t.Fatalf("state %v, error %v", s, err)
			}
			if err != nil && !errors.Is(err, consensus.ErrBackup) {
				t.Fatalf("the error is no refusal: %v", err)
			}
			if err == nil && info.Index != s.Index() {
				t.Fatalf("it says %+v of a state at entry %d", info, s.Index())
			}
		}
	})
}
