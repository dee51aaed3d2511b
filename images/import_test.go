package images

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestImportAcceptsEachPacking(t *testing.T) {
	raw := diskImage(2*wire.ChunkBytes+8192, 3)
	for _, kind := range []compression{packedNot, packedGzip, packedXz, packedZstd} {
		t.Run(string(kind), func(t *testing.T) {
			s := openStore(t, t.TempDir())
			file := pack(t, kind, raw)
			for _, sum := range []string{"", sha(raw), strings.ToUpper(sha(file))} {
				var last ImportProgress
				m, digest, err := s.Import(context.Background(), iotest.HalfReader(bytes.NewReader(file)), ImportOptions{
					SHA256: sum, FileBytes: uint64(len(file)),
					Progress: func(p ImportProgress) { last = p },
				})
				if err != nil {
					t.Fatal(err)
				}
				if digest != m.Digest() || m.Chunks[1] != "" || !bytes.Equal(readBack(t, s, m), raw) {
					t.Error("the image is not what was imported")
				}
				if last.RawBytes != uint64(len(raw)) || last.FileRead != uint64(len(file)) {
					t.Errorf("last progress %+v of %d and %d", last, len(file), len(raw))
				}
			}
		})
	}
}

// gptImage is a disk of sectors with a protective MBR and a GPT header.
func gptImage(size, sector int, alternate uint64) []byte {
	raw := diskImage(size, 9)
	raw[446], raw[450] = 0, 0xee
	copy(raw[sector:], "EFI PART")
	binary.LittleEndian.PutUint64(raw[sector+32:], alternate)
	return raw
}

func TestImportReadsGPT(t *testing.T) {
	const size = 2 * wire.ChunkBytes
	for _, sector := range []int{512, 4096} {
		s := openStore(t, t.TempDir())
		m, _ := mustImport(t, s, gptImage(size, sector, uint64(size/sector-1)))
		if m.SectorBytes != sector {
			t.Errorf("sector size %d, want %d", m.SectorBytes, sector)
		}
	}
}

func TestS39_ImportRefuses(t *testing.T) {
	good := diskImage(2*wire.ChunkBytes+8192, 3)
	at := func(offset int, magic string) []byte {
		b := make([]byte, 64<<10)
		copy(b[offset:], magic)
		return b
	}
	fat := bytes.Clone(good)
	copy(fat[440:510], bytes.Repeat([]byte("Non-system disk"), 5))
	gz := pack(t, packedGzip, good)
	zst := pack(t, packedZstd, good)
	bigXz := pack(t, packedXz, good)
	bigXz[16] = 40 // dictionary of 4 GiB
	for _, tt := range []struct {
		name, want string
		file       []byte
		opts       ImportOptions
	}{
		{"nothing", "no partition table", nil, ImportOptions{}},
		{"zeros", "no partition table: not a bootable disk image", make([]byte, 1<<20), ImportOptions{}},
		{"text", "no partition table", []byte(strings.Repeat("hello ", 1000)), ImportOptions{}},
		{"boot sector without partitions", "no partition table", fat, ImportOptions{}},
		{"qcow2", "qemu-img convert", at(0, "QFI\xfb\x00\x00\x00\x03"), ImportOptions{}},
		{"VMDK", "VMDK", at(0, "KDMV"), ImportOptions{}},
		{"VDI", "VDI", at(0x40, "\x7f\x10\xda\xbe"), ImportOptions{}},
		{"tar", "tar archive", at(257, "ustar\x0000"), ImportOptions{}},
		{"tar in gzip", "tar archive", pack(t, packedGzip, at(257, "ustar  ")), ImportOptions{}},
		{"gzip in gzip", "packed twice", pack(t, packedGzip, gz), ImportOptions{}},
		{"zip", "zip archive", at(0, "PK\x03\x04"), ImportOptions{}},
		{"web page", "web page", at(0, "<!DOCTYPE html>"), ImportOptions{}},
		{"ISO", "ISO without a partition table", at(32769, "CD001"), ImportOptions{}},
		{"GPT missing", "not there", gptImage(1<<20, 512, 0)[:512], ImportOptions{}},
		{"GPT cut short", "cut short", gptImage(1<<20, 512, 2048), ImportOptions{}},
		{"GPT too large", "64 TiB", gptImage(1<<20, 512, 1<<63), ImportOptions{}},
		{"half a sector", "sectors", append(bytes.Clone(good), 1), ImportOptions{}},
		{"raw cut short", "cut short", good[:len(good)-512], ImportOptions{}},
		{"gzip cut short", "damaged", gz[:len(gz)-9], ImportOptions{}},
		{"gzip cut at a chunk", "damaged", gz[:len(gz)/2], ImportOptions{}},
		{"zstd cut short", "damaged", zst[:len(zst)-5], ImportOptions{}},
		{"zstd bit flipped", "damaged", flipped(zst, len(zst)/2), ImportOptions{}},
		{"gzip bit flipped", "damaged", flipped(gz, len(gz)/2), ImportOptions{}},
		{"xz with a dictionary of 4 GiB", "dictionary", bigXz, ImportOptions{}},
		{"over the limit", "over", nil, ImportOptions{}}, // the reader is made below
		{"wrong sum", "do not match", good, ImportOptions{SHA256: strings.Repeat("0", 64)}},
		{"no sum", "64 hex digits", good, ImportOptions{SHA256: "abc"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir)
			var r io.Reader = bytes.NewReader(tt.file)
			if tt.name == "over the limit" {
				r = io.MultiReader(bytes.NewReader(good), endless{})
				tt.want = "limit of 64 MiB"
			}
			_, _, err := s.Import(context.Background(), r, tt.opts)
			var refused *RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a refusal with %q", err, tt.want)
			}
			if left := files(t, dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// endless is a bomb: zeros for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 4
	return b
}

func TestImportLeavesNothingWhenTheSourceBreaks(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	raw := diskImage(2*wire.ChunkBytes+8192, 3)
	broken := errors.New("connection reset")
	for _, kind := range []compression{packedNot, packedGzip, packedXz, packedZstd} {
		file := pack(t, kind, raw)
		r := io.MultiReader(bytes.NewReader(file[:len(file)*3/4]), iotest.ErrReader(broken))
		_, _, err := s.Import(context.Background(), r, ImportOptions{})
		if refused := new(RefusedError); !errors.Is(err, broken) || errors.As(err, &refused) {
			t.Errorf("%s: got %v, want the source's error", kind, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, _, err := s.Import(ctx, bytes.NewReader(raw), ImportOptions{
		Progress: func(p ImportProgress) {
			if p.RawBytes > 2*wire.ChunkBytes {
				cancel()
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestS42_ImportKeepsAReserve(t *testing.T) {
	free := uint64(100 << 20)
	s, err := OpenStore(t.TempDir(), StoreOptions{
		Reserve:   90 << 20,
		FreeSpace: func(string) (uint64, error) { return free, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := diskImage(3*wire.ChunkBytes, 1)
	for _, tt := range []struct {
		free, size uint64
		ok         bool
	}{
		{100 << 20, 12 << 20, true},
		{100 << 20, 60 << 20, false}, // stated size does not fit
		{91 << 20, 0, false},         // found out while writing
		{10 << 20, 0, false},         // less than the reserve
	} {
		free = tt.free
		_, _, err := s.Import(context.Background(), bytes.NewReader(raw), ImportOptions{FileBytes: tt.size})
		var space *SpaceError
		if ok := err == nil; ok != tt.ok || !ok && !errors.As(err, &space) {
			t.Errorf("%d free, file of %d: %v", tt.free, tt.size, err)
		}
	}
}

func FuzzImport(f *testing.F) {
	small := make([]byte, 4096)
	small[450], small[458], small[510], small[511] = 0x83, 1, 0x55, 0xaa
	for _, kind := range []compression{packedNot, packedGzip, packedXz, packedZstd} {
		f.Add(pack(f, kind, small))
	}
	f.Add(gptImage(8192, 512, 15)[:8192])
	f.Add([]byte("QFI\xfb"))
	// One store for all of them: to open one costs more than most imports.
	dir := f.TempDir()
	s, err := OpenStore(dir, StoreOptions{
		MaxBytes: 1 << 20, FreeSpace: func(string) (uint64, error) { return 1 << 40, nil },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if kind := detectCompression(file); kind == packedXz && xzDictionary(file) > 1<<20 {
			t.Skip("allowed, but slow to set aside a thousand times a second")
		}
		m, digest, err := s.Import(context.Background(), bytes.NewReader(file), ImportOptions{})
		if err == nil {
			if err := m.Validate(); err != nil {
				t.Error(err)
			}
			if err := s.Verify(digest); err != nil {
				t.Error(err)
			}
			if err := s.Delete(digest); err != nil {
				t.Error(err)
			}
		}
		if left := files(t, dir); len(left) != 0 {
			t.Errorf("refused (%v) or deleted, and left behind %v", err, left)
		}
		// Folders of chunks stay, and to walk through 256 of them takes a millisecond.
		shards, err := os.ReadDir(s.path("chunks"))
		if err != nil {
			t.Error(err)
		}
		for _, shard := range shards {
			if err := os.Remove(filepath.Join(s.path("chunks"), shard.Name())); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzInspectDisk is the part of FuzzImport that needs no disk, and so runs a
// thousand times as often.
func FuzzInspectDisk(f *testing.F) {
	f.Add(diskImage(8192, 1))
	f.Add(gptImage(8192, 512, 15))
	f.Add(gptImage(16384, 4096, 3))
	f.Add(pack(f, packedXz, []byte("x")))
	f.Fuzz(func(t *testing.T, head []byte) {
		detectCompression(head)
		xzDictionary(head)
		d, err := inspectDisk(head)
		if err == nil && (d.sector != 512 && d.sector != 4096 || d.minBytes == 0 || d.minBytes > 1<<46) {
			t.Errorf("accepted as %+v", d)
		}
	})
}
