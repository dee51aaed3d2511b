//go:build journey

package journey

import (
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

// padding is what the padded image has more than the tiny one, in bytes: as much
// again on the wire, since it cannot be compressed.
const padding = 128 << 20

// paddedImage is the tiny image with a root file system full of noise. A download
// of it is long enough for its parts to be told apart.
func paddedImage(t *testing.T) string {
	t.Helper()
	tool := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	image, dir := tinyImage(t), t.TempDir()
	about := tool("sgdisk", "--info=3", image)
	field := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(about)
		if m == nil {
			t.Fatalf("no %s in\n%s", pattern, about)
		}
		return m[1]
	}
	first, err := strconv.ParseInt(field(`First sector: (\d+)`), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	sectors, err := strconv.ParseInt(field(`Partition size: (\d+)`), 10, 64)
	if err != nil {
		t.Fatal(err)
	}

	// The file system leaves the image, grows, and comes back.
	root, noise, padded := filepath.Join(dir, "root"), filepath.Join(dir, "noise"), filepath.Join(dir, "padded.raw")
	copyRange(t, root, 0, image, first*512, sectors*512)
	if err := os.Truncate(root, sectors*512+padding); err != nil {
		t.Fatal(err)
	}
	tool("e2fsck", "-f", "-y", root)
	tool("resize2fs", root)
	makeNoise(t, noise, padding*9/10) // the rest is for the file system itself
	tool("debugfs", "-w", "-R", "write "+noise+" noise", root)

	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	copyRange(t, padded, 0, image, 0, info.Size())
	if err := os.Truncate(padded, info.Size()+padding); err != nil {
		t.Fatal(err)
	}
	tool("sgdisk", "--move-second-header", "--delete=3", "--set-alignment=1",
		"--new=3:"+strconv.FormatInt(first, 10)+":"+strconv.FormatInt(first+sectors+padding/512-1, 10),
		"--typecode=3:"+field(`GUID code: (\S+)`), "--partition-guid=3:"+field(`unique GUID: (\S+)`), "--change-name=3:root", padded)
	copyRange(t, padded, first*512, root, 0, sectors*512+padding)
	return padded
}

// copyRange writes n bytes of a file into another one.
func copyRange(t *testing.T, to string, at int64, from string, off, n int64) {
	t.Helper()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(open(t, from), off, n)); err != nil {
		t.Fatal(err)
	}
}

func makeNoise(t *testing.T, path string, n int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.Reader, n); err != nil {
		t.Fatal(err)
	}
}
