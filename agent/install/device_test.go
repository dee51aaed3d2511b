package install

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// loop makes a real block device of a sparse file; sector is 512 or 4096.
func loop(t testing.TB, size int64, sector string) (dev, file string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a loop device takes root")
	}
	losetup := tool(t, "losetup", "mount")
	file = sparse(t, size)
	out, err := exec.Command(losetup, "-f", "--show", "-b", sector, file).CombinedOutput()
	if err != nil {
		t.Skipf("this kernel gives no loop device: %v %s", err, out)
	}
	dev = strings.TrimSpace(string(out))
	t.Cleanup(func() { sh(t, losetup, "-d", dev) })
	return dev, file
}

func TestInstallOnABlockDevice(t *testing.T) {
	image := gptImage(t, 65*mib)
	const size = 128 * mib
	dev, file := loop(t, size, "512")
	src := newSource(t, image, 512)
	g := grantFor(src.man, size, wire.Contents{})
	var changed []Range
	start := time.Now()
	err := Run(context.Background(), Options{
		Allowed: good,
		Grant:   g, Source: src, Logf: t.Logf,
		Disks:   func() ([]Candidate, error) { return []Candidate{approved(g, dev)}, nil },
		Changed: func(r []Range) { changed = r },
	})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%d MiB in %v: %.0f MB/s", len(image)/mib, took, float64(len(image))/1e6/took.Seconds())
	disk, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sameBut(t, disk, image, changed)
	if out := sh(t, tool(t, "sgdisk", "gdisk"), "-v", dev); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
}

func TestBlockDevice(t *testing.T) {
	dev, file := loop(t, 16*mib, "4096")
	d, err := OpenDevice(dev, 512)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Sector() != 4096 || d.Size() != 16*mib {
		t.Fatalf("sector %d, size %d", d.Sector(), d.Size())
	}
	if d.(*fileDevice).direct == nil {
		t.Error("no way past the page cache")
	}
	// A second claim is refused.
	if _, err := OpenDevice(dev, 512); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("claimed twice: %v", err)
	}
	buf := alignedBuffer(4 * mib)
	noise(buf, 1)
	for _, off := range []int64{0, 12 * mib} {
		if _, err := d.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
	// Unaligned in memory, and so through the page cache: both ways agree.
	odd := make([]byte, 8193)[1:]
	noise(odd, 2)
	if _, err := d.WriteAt(odd, 4096); err != nil {
		t.Fatal(err)
	}
	if err := d.Zero(1*mib, 2*mib); err != nil {
		t.Fatal(err)
	}
	if d.(*fileDevice).noPunch.Load() {
		t.Error("a loop device can punch holes, and was not asked to")
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	d.DropCache()
	copy(buf[4096:], odd)
	clear(buf[1*mib : 3*mib])
	back := alignedBuffer(4 * mib)
	if _, err := d.ReadAt(back, 0); err != nil || !bytes.Equal(back, buf) {
		t.Errorf("reads back differently (%v)", err)
	}
	onDisk, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(onDisk[:4*mib], buf) {
		t.Errorf("the file beneath differs (%v)", err)
	}
	if _, err := d.WriteAt(buf, 14*mib); err == nil {
		t.Error("a write beyond the end succeeds")
	}
	if err := d.Zero(14*mib, 4*mib); err == nil {
		t.Error("zeroing beyond the end succeeds")
	}
}

func TestZeroWhereTheDiskCannot(t *testing.T) {
	path := sparse(t, 8*mib)
	full := make([]byte, 8*mib)
	noise(full, 3)
	if err := os.WriteFile(path, full, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDevice(path, 512)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.(*fileDevice).noPunch.Store(true)
	if err := d.Zero(512, 5*mib); err != nil {
		t.Fatal(err)
	}
	clear(full[512 : 512+5*mib])
	if got, _ := os.ReadFile(path); !bytes.Equal(got, full) {
		t.Error("zeros were written elsewhere")
	}
}

func TestOpenDeviceRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenDevice(dir, 512); err == nil {
		t.Error("a directory is opened")
	}
	if _, err := OpenDevice("/dev/null", 512); err == nil {
		t.Error("a character device is opened")
	}
	if _, err := OpenDevice(filepath.Join(dir, "none"), 512); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	path := sparse(t, mib)
	if _, err := OpenDevice(path, 520); err == nil {
		t.Error("sectors of 520 bytes are taken")
	}
	d, err := OpenDevice(path, 512)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := OpenDevice(path, 512); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("locked twice: %v", err)
	}
}

// BenchmarkInstall writes an image that compresses like a real one to a block
// device, or to a file where there is none.
func BenchmarkInstall(b *testing.B) {
	const size = 272 * mib
	image := make([]byte, 257*mib)
	copy(image, gptImage(b, 17*mib)[:12*mib])
	for at := 12 * mib; at < len(image); at += 64 << 10 {
		noise(image[at:at+20<<10], uint64(at>>10)) // a third does not compress
	}
	src := newSource(b, image, 512)
	for i := range src.members {
		src.members[i] = gzLevel(b, image[i*chunkBytes:][:src.man.ChunkLen(i)], gzip.DefaultCompression)
	}
	g := grantFor(src.man, size, wire.Contents{})
	b.SetBytes(int64(len(image)))
	for b.Loop() {
		b.StopTimer()
		dev, _ := loop(b, size, "512")
		b.StartTimer()
		err := Run(b.Context(), Options{
			Allowed: good,
			Grant:   g, Source: src,
			Disks: func() ([]Candidate, error) { return []Candidate{approved(g, dev)}, nil },
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
