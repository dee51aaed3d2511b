package install

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// sparse makes a plain file that stands in for a disk.
func sparse(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// sameBut checks that disk holds the image everywhere but in the ranges.
func sameBut(t testing.TB, disk, image []byte, changed []Range) {
	t.Helper()
	want, have := bytes.Clone(image), bytes.Clone(disk[:len(image)])
	for _, r := range changed {
		if r.Offset < int64(len(image)) {
			end := min(r.Offset+r.Length, int64(len(image)))
			clear(want[r.Offset:end])
			clear(have[r.Offset:end])
		}
	}
	for i := range want {
		if want[i] != have[i] {
			t.Fatalf("byte %d differs from the image and is in no range of %v", i, changed)
		}
	}
}

func TestInstallOnAPlainFile(t *testing.T) {
	image := gptImage(t, 33*mib)
	const size = 96 * mib
	path := sparse(t, size)
	src := newSource(t, image, 512)
	g := grantFor(src.man, size, wire.Contents{})

	var changed []Range
	var reports []wire.Progress
	err := Run(context.Background(), Options{
		Allowed: good,
		Grant:   g, Source: src, BootMAC: "52:54:00:AA:00:01",
		Disks:   func() ([]Candidate, error) { return []Candidate{approved(g, path)}, nil },
		Report:  func(p wire.Progress) { reports = append(reports, p) },
		Changed: func(r []Range) { changed = r },
		Logf:    t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sameBut(t, disk, image, changed)

	if out := sh(t, tool(t, "sgdisk", "gdisk"), "-v", path); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	info := sh(t, tool(t, "sgdisk", "gdisk"), "-p", path)
	if !strings.Contains(info, SeedName) {
		t.Errorf("no seed partition:\n%s", info)
	}
	// The root partition ends where the seed begins.
	root := sh(t, tool(t, "sgdisk", "gdisk"), "-i3", path)
	if want := "Last sector: 182271 "; !strings.Contains(root, want) {
		t.Errorf("root partition, want %q:\n%s", want, root)
	}

	seed := filepath.Join(t.TempDir(), "seed")
	off := (96 - 7) * mib
	if err := os.WriteFile(seed, disk[off:off+seedBytes], 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, tool(t, "fsck.fat", "dosfstools"), "-n", seed)
	meta := sh(t, tool(t, "mtype", "mtools"), "-i", seed, "::meta-data")
	if want := "instance-id: \"task-1-3\"\nlocal-hostname: \"node1\"\n"; meta != want {
		t.Errorf("meta-data is %q, want %q", meta, want)
	}

	last := wire.Progress{}
	for _, p := range reports {
		from, to, ok := p.Stage.Span()
		if !ok || p.Percentage < from || p.Percentage > to || p.Percentage < last.Percentage {
			t.Errorf("%v after %v", p, last)
		}
		last = p
	}
	d := last.Details
	if last.Percentage != 100 || d.BytesDownloaded == 0 || d.BytesDownloaded != d.BytesTotal || d.SpeedMbps <= 0 {
		t.Errorf("the last report is %+v", last)
	}
	for i, name := range src.man.Chunks {
		if want := map[bool]int{true: 0, false: 1}[name == ""]; src.fetches[i] != want {
			t.Errorf("chunk %d was fetched %d times, want %d", i, src.fetches[i], want)
		}
		if name != "" && !src.got[i] {
			t.Errorf("the node was not told that chunk %d is here", i)
		}
	}
}
