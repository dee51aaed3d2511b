package install

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// mbrImage makes an image with a boot record.
func mbrImage(size int, entries ...mbrEntry) []byte {
	image := make([]byte, size)
	image[510], image[511] = 0x55, 0xaa
	noise(image[:440], 1)
	noise(image[mib:3*mib], 1)
	for i, e := range entries {
		setMBRPartition(image, i, e)
	}
	return image
}

// partitions lists a disk's table as the tools of the system see it.
func partitions(t testing.TB, disk []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	out := sh(t, tool(t, "partx", "util-linux"), "-s", "-g", "-o", "NR,START,SECTORS,TYPE,FLAGS", path)
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func TestMBRTables(t *testing.T) {
	const size, image = 64 * mib, 16 * mib
	linux := func(first, count uint32) mbrEntry { return mbrEntry{kind: 0x83, first: first, count: count} }
	windows := func(first, count uint32) mbrEntry { return mbrEntry{kind: 7, first: first, count: count} }
	bootable := linux(2048, 20480)
	bootable.status = 0x80
	seed := fmt.Sprintf("%d %d 0xe 0x0", (size-seedFromEnd)/512, seedBytes/512)
	for _, c := range []struct {
		name    string
		entries []mbrEntry
		keep    bool // do not grow
		want    string
		err     string
	}{
		{"one partition, grown", []mbrEntry{bootable}, false,
			"1 2048 114688 0x83 0x80\n2 " + seed, ""},
		{"as it is", []mbrEntry{linux(2048, 20480)}, true,
			"1 2048 20480 0x83 0x0\n2 " + seed, ""},
		{"the last is not Linux", []mbrEntry{linux(2048, 2048), windows(4096, 2048)}, false,
			"1 2048 2048 0x83 0x0\n2 4096 2048 0x7 0x0\n3 " + seed, ""},
		{"the last on the disk is not the last in the table", []mbrEntry{linux(8192, 2048), windows(2048, 2048)}, false,
			"1 8192 108544 0x83 0x0\n2 2048 2048 0x7 0x0\n3 " + seed, ""},
		{"four", []mbrEntry{linux(2048, 8), linux(4096, 8), linux(6144, 8), linux(8192, 8)}, false, "", "no entry is left"},
		{"none", nil, false, "", "no partitions"},
		{"beyond the image", []mbrEntry{linux(2048, image/512)}, false, "", "outside the image"},
		{"a GPT that is not there", []mbrEntry{{kind: mbrProtective, first: 1, count: 1000}}, false, "", "not there"},
	} {
		raw := mbrImage(image, c.entries...)
		tab, err := planTable(raw[:chunkBytes], tableWish{size: size, sector: 512, image: image, grow: !c.keep})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		disk := make([]byte, size)
		copy(disk, tab.head)
		if got := partitions(t, disk); got != c.want {
			t.Errorf("%s: the disk has\n%s\nwant\n%s", c.name, got, c.want)
		}
		if tab.backup != nil {
			t.Errorf("%s: a backup GPT for a disk that has none", c.name)
		}
		sameBut(t, tab.head, raw[:chunkBytes], tab.changed)
	}
}

// A boot record addresses 2 TiB; the seed has to be within.
func TestMBROnALargeDisk(t *testing.T) {
	raw := mbrImage(16*mib, mbrEntry{kind: 0x83, first: 2048, count: 20480})
	tab, err := planTable(raw[:chunkBytes], tableWish{size: 4 << 40, sector: 512, image: 16 * mib, grow: true})
	if err != nil {
		t.Fatal(err)
	}
	root, seed := mbrPartition(tab.head, 0), mbrPartition(tab.head, 1)
	if seed.end() > 1<<32 || int64(seed.first)*512 != tab.seedOff || root.end() != uint64(seed.first) {
		t.Errorf("root %+v, seed %+v at byte %d", root, seed, tab.seedOff)
	}
	if _, err := planTable(raw[:chunkBytes], tableWish{size: 4 << 40, sector: 512, image: 3 << 40}); err == nil {
		t.Error("an image beyond what a boot record can address is taken")
	}
}

func TestMBRImageInstalls(t *testing.T) {
	image := mbrImage(17*mib, mbrEntry{status: 0x80, kind: 0x83, first: 2048, count: 20480})
	src := newSource(t, image, 512)
	g := grantFor(src.man, 32*mib, wire.Contents{})
	d := newMemDisk(32*mib, 512)
	var changed []Range
	if err := installTo(t.Context(), g, src, d, func(o *Options) { o.Changed = func(r []Range) { changed = r } }); err != nil {
		t.Fatal(err)
	}
	sameBut(t, d.view, image, changed)
	if at := 32*mib - seedFromEnd; string(d.view[at+43:at+49]) != SeedLabel {
		t.Error("no seed")
	}
}

// bigSectorImage makes a GPT image for a disk with 4096-byte sectors: other
// programs make one only of a real disk.
func bigSectorImage(size int) []byte {
	image := make([]byte, size)
	setMBRPartition(image, 0, mbrEntry{kind: mbrProtective, first: 1, count: uint32(size/4096 - 1)})
	image[510], image[511] = 0x55, 0xaa
	g := &gpt{sector: 4096, header: make([]byte, 4096), entries: make([]byte, 128*128), size: 128}
	h := g.header
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	h[gptMyLBA], h[gptEntryLBA], h[gptEntryCount], h[gptEntrySize], h[gptFirstUsable] = 1, 2, 128, 128, 6
	g.setEntry(0, gptEntry{kind: typeESP, unique: guid{1}, first: 256, last: 511, name: "esp"})
	g.setEntry(1, gptEntry{kind: linuxTypes[0], unique: guid{2}, first: 512, last: 1023, name: "root"})
	g.fit(uint64(size / 4096))
	copy(image[4096:], g.header)
	copy(image[8192:], g.entries)
	off, b := g.backup(uint64(size / 4096))
	copy(image[off:], b)
	noise(image[mib:4*mib], 4)
	return image
}

func TestInstallOn4KnDisk(t *testing.T) {
	image := bigSectorImage(9 * mib)
	src := newSource(t, image, 4096)
	const size = 32 * mib
	dev, _ := loop(t, size, "4096")
	g := grantFor(src.man, size, wire.Contents{})
	var changed []Range
	err := Run(t.Context(), Options{
		Allowed: good,
		Grant:   g, Source: src,
		Disks:   func() ([]Candidate, error) { return []Candidate{approved(g, dev)}, nil },
		Changed: func(r []Range) { changed = r },
	})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(dev)
	if err != nil {
		t.Fatal(err)
	}
	sameBut(t, disk, image, changed)
	if out := sh(t, tool(t, "sgdisk", "gdisk"), "-v", dev); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	if out := sh(t, tool(t, "sgdisk", "gdisk"), "-i2", dev); !strings.Contains(out, fmt.Sprintf("Last sector: %d ", (size-seedFromEnd)/4096-1)) {
		t.Errorf("the root partition is\n%s", out)
	}
}

func TestOddImages(t *testing.T) {
	image := gptImage(t, 17*mib)
	w := tableWish{size: 64 * mib, sector: 512, image: 17 * mib, grow: true}
	change := func(f func(g *gpt)) []byte {
		g, err := parseGPT(image[:chunkBytes], 512)
		if err != nil {
			t.Fatal(err)
		}
		f(g)
		g.fit(17 * mib / 512)
		head := bytes.Clone(image[:chunkBytes])
		copy(head[512:], g.header)
		copy(head[1024:], g.entries)
		return head
	}
	hybrid := bytes.Clone(image[:chunkBytes])
	setMBRPartition(hybrid, 1, mbrEntry{kind: 0x83, first: 24576, count: 8192})
	for _, c := range []struct {
		name string
		head []byte
		err  string // empty: it is taken
	}{
		{"a full table", change(func(g *gpt) {
			for i := range g.count() {
				if _, used := g.entry(i); !used {
					g.setEntry(i, gptEntry{kind: typeBasicData, first: 2048, last: 2049})
				}
			}
		}), "no entry is left"},
		{"a partition beyond the image", change(func(g *gpt) { g.setLast(2, 17*mib/512) }), "outside the image"},
		{"a partition that ends before it begins", change(func(g *gpt) { g.setLast(2, 5) }), "outside the image"},
		{"a partition in the table", change(func(g *gpt) { g.setEntry(4, gptEntry{kind: typeESP, first: 3, last: 4}) }), "within the partition table"},
		{"an image of a disk of ours", change(func(g *gpt) { g.setEntry(3, gptEntry{kind: typeBasicData, first: 30000, last: 30007, name: SeedName}) }), ""},
		{"a hybrid boot record", hybrid, ""},
		{"cut", image[:700], "is no disk image"},
		{"nothing", nil, "is no disk image"},
	} {
		if c.name == "cut" {
			c.head = bytes.Clone(c.head)
			c.head[510] = 0
		}
		tab, err := planTable(c.head, w)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		seeds := 0
		g, err := parseGPT(tab.head, 512)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for i := range g.count() {
			if e, used := g.entry(i); used && e.name == SeedName {
				seeds++
			}
		}
		if seeds != 1 {
			t.Errorf("%s: %d seed partitions", c.name, seeds)
		}
		sameBut(t, tab.head, c.head, tab.changed)
	}
}

func FuzzTable(f *testing.F) {
	image := bigSectorImage(9 * mib)
	f.Add(image[:64<<10], uint32(64), true)
	mbr := make([]byte, 1024)
	mbr[510], mbr[511] = 0x55, 0xaa
	setMBRPartition(mbr, 0, mbrEntry{kind: 0x83, first: 63, count: 64})
	f.Add(mbr, uint32(64), false)
	f.Fuzz(func(t *testing.T, head []byte, size uint32, big bool) {
		w := tableWish{size: int64(size) * mib, sector: 512, grow: true}
		if big {
			w.sector = 4096
		}
		if w.image = w.size - reserveBytes; w.image <= 0 {
			return
		}
		renewChecksums(head, w.sector)
		tab, err := planTable(head, w)
		if err != nil {
			return
		}
		if len(tab.head) != len(head) {
			t.Fatalf("a head of %d bytes out of %d", len(tab.head), len(head))
		}
		if tab.seedOff < w.image || tab.seedOff+seedBytes > journalOffset(w.size) && tab.backup != nil {
			t.Errorf("the seed lies at %d on a disk of %d", tab.seedOff, w.size)
		}
		if tab.backup != nil && (tab.backupOff+int64(len(tab.backup)) != w.size/int64(w.sector)*int64(w.sector) || tab.backupOff < journalOffset(w.size)+journalCopies*journalBytes) {
			t.Errorf("the backup table lies at %d", tab.backupOff)
		}
		sameBut(t, tab.head, head, tab.changed)
	})
}

// renewChecksums lets the fuzzer get past the checksums.
func renewChecksums(head []byte, sector int) {
	if len(head) < 2*sector {
		return
	}
	h := head[sector : 2*sector]
	if size := uint32(h[12]) | uint32(h[13])<<8; size < gptMinHeader || size > uint32(sector) || h[14] != 0 || h[15] != 0 {
		return
	}
	g := gpt{sector: sector, header: h, size: 128}
	entries := 128 * 128
	if len(head) < 2*sector+entries {
		return
	}
	g.entries = head[2*sector:][:entries]
	alternate, last := bytes.Clone(h[gptAlternate:gptAlternate+8]), bytes.Clone(h[gptLastUsable:gptLastUsable+8])
	g.fit(1 << 20)
	copy(h[gptAlternate:], alternate)
	copy(h[gptLastUsable:], last)
	h[gptHeaderCRC], h[gptHeaderCRC+1], h[gptHeaderCRC+2], h[gptHeaderCRC+3] = 0, 0, 0, 0
	crc := headerCRC(h)
	h[gptHeaderCRC], h[gptHeaderCRC+1], h[gptHeaderCRC+2], h[gptHeaderCRC+3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
}

func FuzzJournal(f *testing.F) {
	b, err := journal{Marker: wire.Marker{TaskID: "t"}, State: stateWriting}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		j, ok := decodeJournal(b)
		if !ok {
			return
		}
		again, err := j.encode()
		if err != nil {
			return
		}
		if k, ok := decodeJournal(again); !ok || k != j {
			t.Errorf("%+v becomes %+v", j, k)
		}
	})
}
