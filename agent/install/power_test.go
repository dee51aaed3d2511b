package install

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// looks is what a simple inspection finds: whether there is a partition table.
func looks(d *memDisk) func(Candidate) (wire.Contents, error) {
	return func(Candidate) (wire.Contents, error) {
		var c wire.Contents
		head := make([]byte, 2*d.sector)
		if _, err := d.ReadAt(head, 0); err != nil {
			return c, err
		}
		if hasMBR(head) {
			c.Table = "mbr"
			if string(head[d.sector:][:8]) == "EFI PART" {
				c.Table = "gpt"
			}
		}
		return c, nil
	}
}

// oldDisk is a disk that somebody has used: all of it is noise, behind a boot
// record.
func oldDisk(size, sector int) *memDisk {
	old, ok := images.Load(-size)
	if !ok {
		b := make([]byte, size)
		noise(b, 99)
		b[510], b[511] = 0x55, 0xaa
		old, _ = images.LoadOrStore(-size, b)
	}
	d := newMemDisk(size, sector)
	copy(d.view, old.([]byte))
	copy(d.medium, d.view)
	return d
}

// Whenever the power goes, the disk is either as it was, or does not start, or
// is complete; and the same grant then finishes the job or says that it is done.
func TestPowerCutAtEveryWrite(t *testing.T) {
	const size = 32 * mib
	image := gptImage(t, 17*mib)
	src := newSource(t, image, 512)
	g := grantFor(src.man, size, wire.Contents{Table: "mbr"})
	run := func(d *memDisk) error {
		return installTo(context.Background(), g, src, d, func(o *Options) { o.Inspect = looks(d) })
	}

	whole := oldDisk(size, 512)
	if err := run(whole); err != nil {
		t.Fatal(err)
	}
	if len(whole.pending) != 0 {
		t.Fatal("writes were not synced when the install said it was done")
	}
	// What an install leaves alone is the old disk's and the same each time,
	// so complete disks are equal.
	old := oldDisk(size, 512).view
	r := rand.New(rand.NewPCG(1, 2))
	resumed := 0
	for n := range whole.writes {
		d := oldDisk(size, 512)
		d.writesLeft = n
		if err := run(d); err == nil {
			t.Fatalf("cut at write %d: the install says it is done", n)
		}
		after := d.afterPowerLoss(r)

		complete := bytes.Equal(after.view, whole.view)
		untouched := bytes.Equal(after.view[:512], old[:512])
		if hasMBR(after.view) && !complete && !untouched {
			t.Fatalf("cut at write %d: a disk that starts but is not complete", n)
		}
		if untouched && !bytes.Equal(after.view[:size-journalBack], old[:size-journalBack]) {
			t.Fatalf("cut at write %d: the old boot record stands before a changed disk", n)
		}
		if j, ok, _ := readJournal(after); ok && j.State != stateWiping && !complete {
			resumed++
		}

		err := run(after)
		switch {
		case complete:
			if !errors.Is(err, ErrInstalled) {
				t.Fatalf("cut at write %d: a complete disk, and the grant may be used again: %v", n, err)
			}
		case err != nil:
			t.Fatalf("cut at write %d: the install does not go on: %v", n, err)
		case !bytes.Equal(after.view, whole.view):
			t.Fatalf("cut at write %d: another disk comes of going on", n)
		}
	}
	if resumed == 0 {
		t.Error("no cut left an install to be resumed")
	}
	t.Logf("%d cuts, %d of them amid the chunks", whole.writes, resumed)
}

func TestResumeFetchesNoChunkAgain(t *testing.T) {
	const size = 72 * mib
	image := gptImage(t, 57*mib)
	src := newSource(t, image, 512)
	g := grantFor(src.man, size, wire.Contents{})
	d := newMemDisk(size, 512)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err := installTo(ctx, g, src, d, func(o *Options) {
		o.Report = func(p wire.Progress) {
			if p.Details.BytesWritten > 16*mib {
				cancel()
			}
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a cancelled install returns %v", err)
	}
	held := map[int]bool{}
	for i, name := range src.man.Chunks {
		if i > 0 && name != "" && digest(d.view[i*chunkBytes:][:src.man.ChunkLen(i)]) == name {
			held[i] = true
		}
	}
	if len(held) < 4 || len(held) > 12 {
		t.Fatalf("%d of %d chunks are there: this is no cut in the middle", len(held), len(src.man.Chunks))
	}
	clear(src.fetches)
	clear(src.got)
	var last wire.Progress
	err = installTo(context.Background(), g, src, d, func(o *Options) {
		o.Report = func(p wire.Progress) { last = p }
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range src.man.Chunks {
		if held[i] && src.fetches[i] != 0 {
			t.Errorf("chunk %d was fetched again", i)
		}
		if name != "" && !src.got[i] {
			t.Errorf("the node was not told that chunk %d is here", i)
		}
	}
	if last.Details.BytesTotal != last.Details.BytesDownloaded {
		t.Errorf("in the end %+v", last.Details)
	}
}

// A grant serves once. The next one, of a retry, may overwrite what it left.
func TestAGrantServesOnce(t *testing.T) {
	const size = 32 * mib
	src := newSource(t, gptImage(t, 17*mib), 512)
	g := grantFor(src.man, size, wire.Contents{})
	d := newMemDisk(size, 512)
	if err := installTo(context.Background(), g, src, d, nil); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(d.view)
	if err := installTo(context.Background(), g, src, d, nil); !errors.Is(err, ErrInstalled) {
		t.Errorf("the same grant again: %v", err)
	}
	if !bytes.Equal(before, d.view) {
		t.Error("the disk changed")
	}
	m := marker(g)
	retry := grantFor(src.man, size, wire.Contents{Table: "gpt", Marker: &m})
	retry.Generation++
	if err := installTo(context.Background(), retry, src, d, nil); err != nil {
		t.Errorf("the grant of a retry: %v", err)
	}
	if err := installTo(context.Background(), g, src, d, nil); !errors.Is(err, ErrGrantUsed) {
		t.Errorf("the first grant after a later one: %v", err)
	}
}
