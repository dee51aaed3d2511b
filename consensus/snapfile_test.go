package consensus_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
)

func TestASnapshotOnDiskIsPackedAndOneThatIsNotIsRead(t *testing.T) {
	s := consensustest.Fleet(t, 20, 2)
	dir := filepath.Join(t.TempDir(), "raft")
	if _, err := consensus.Restore(restoring(dir, s)); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v (%v)", found, err)
	}
	packed, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	plain := snapshotOf(t, s)
	if len(packed) > len(plain)/2 {
		t.Errorf("packed it is %d bytes, plain %d", len(packed), len(plain))
	}
	for what, b := range map[string][]byte{"packed": packed, "plain": plain} {
		got, err := consensus.UnpackState(bytes.NewReader(b))
		if err != nil || !bytes.Equal(snapshotOf(t, got), plain) {
			t.Errorf("%s: it is another state (%v)", what, err)
		}
	}
}

func FuzzUnpackState(f *testing.F) {
	var packed bytes.Buffer
	s := anyState(f, rand.New(rand.NewPCG(1, 1)))
	if err := consensus.PackState(&packed, s.Snapshot()); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	f.Add(snapshotOf(f, s))
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it is, and packed, so that what is behind the packing is reached.
		for _, in := range [][]byte{b, encoder.EncodeAll(b, nil)} {
			s, err := consensus.UnpackState(bytes.NewReader(in))
			if (s == nil) == (err == nil) {
				t.Fatalf("state %v, error %v", s, err)
			}
		}
	})
}
