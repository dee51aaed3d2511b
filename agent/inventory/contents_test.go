package inventory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/lpmos/lpmos/agent/wire"
)

const testSize = 64 << 20

// tool runs a program of the system, or skips the test where it is missing.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// image makes a sparse file of testSize bytes.
func image(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, testSize); err != nil {
		t.Fatal(err)
	}
	return name
}

func look(t *testing.T, name string) wire.Contents {
	t.Helper()
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	c := Contents(f, int64(len(before)), 512)
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(before, after) {
		t.Fatal("looking changed the disk")
	}
	return c
}

func TestAnEmptyDiskIsBlank(t *testing.T) {
	if c := look(t, image(t)); !c.Blank() || c.OS != "" {
		t.Fatalf("%+v", c)
	}
}

func TestADiskThatBeginsWithBytesOfNoKnownKindIsNotBlank(t *testing.T) {
	for _, at := range []int{0, 32, headBytes - 1} {
		disk := make([]byte, testSize)
		disk[at] = 7
		if c := Contents(bytes.NewReader(disk), testSize, 512); c.Blank() || !slices.Equal(c.Signatures, []string{unknownData}) {
			t.Errorf("a byte at %d: %+v", at, c)
		}
	}
}

func TestADiskThatCannotBeReadIsNotBlank(t *testing.T) {
	c := Contents(failing{}, testSize, 512)
	if c.Unreadable == "" || c.Blank() {
		t.Fatalf("%+v", c)
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("medium error") }

func TestFilesystemsMadeByTheirOwnTools(t *testing.T) {
	for _, tc := range []struct {
		want, label string
		cmd         []string
	}{
		{"ext2", "L-EXT", []string{"mkfs.ext2", "-q", "-F", "-L", "L-EXT"}},
		{"ext3", "L-EXT", []string{"mkfs.ext3", "-q", "-F", "-L", "L-EXT"}},
		{"ext4", "L-EXT", []string{"mkfs.ext4", "-q", "-F", "-L", "L-EXT"}},
		{"vfat", "L-FAT", []string{"mkfs.vfat", "-F", "32", "-n", "L-FAT"}},
		{"vfat", "L-FAT", []string{"mkfs.vfat", "-F", "16", "-n", "L-FAT"}},
		{"swap", "L-SWAP", []string{"mkswap", "-L", "L-SWAP"}},
	} {
		t.Run(strings.Join(tc.cmd, " "), func(t *testing.T) {
			name := image(t)
			tool(t, tc.cmd[0], append(tc.cmd[1:], name)...)
			c := look(t, name)
			if c.Table != "" || len(c.Partitions) != 0 || len(c.Signatures) != 1 || c.Signatures[0] != tc.want {
				t.Fatalf("%+v", c)
			}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			v, ok := openVolume(f, testSize, 0, testSize)
			if fs := v.filesystem(); !ok || fs.kind != tc.want || fs.label != tc.label {
				t.Fatalf("%+v", fs)
			}
		})
	}
}

func TestSignaturesByTheirPlace(t *testing.T) {
	le := func(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
	for _, tc := range []struct {
		want string
		off  int64
		data string
	}{
		{"luks", 0, "LUKS\xba\xbe\x00\x02"},
		{"lvm2", 512, "LABELONE" + strings.Repeat("\x00", 16) + "LVM2 001"},
		{"xfs", 0, "XFSB"},
		{"btrfs", 65536 + 64, "_BHRfS_M"},
		{"ntfs", 0, "\xeb\x52\x90NTFS    "},
		{"exfat", 0, "\xeb\x76\x90EXFAT   "},
		{"iso9660", 32768, "\x01CD001"},
		{"ceph", 0, "bluestore block device\n"},
		{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		{"vmfs", 0x100000, "\x0d\xd0\x01\xc0"},
		{"md", 4096, le(0xa92b4efc)},
		{"md", 0, le(0xa92b4efc)},
		{"md", testSize - 64<<10, le(0xa92b4efc)},        // 0.90
		{"md", testSize - 8<<10, le(0xa92b4efc) + le(1)}, // 1.0
		{"zfs", 128<<10 + 4096, le(0x00bab10c) + le(0)},
		{"zfs", 128<<10 + 1024, "\x00\x00\x00\x00\x00\xba\xb1\x0c"}, // big-endian
	} {
		t.Run(tc.want, func(t *testing.T) {
			d := sparse{tc.off: []byte(tc.data)}
			c := Contents(d, testSize, 512)
			if len(c.Signatures) != 1 || c.Signatures[0] != tc.want || c.Blank() {
				t.Fatalf("%+v", c)
			}
			v, _ := openVolume(d, testSize, 0, testSize)
			if fs := v.filesystem(); fs.kind != tc.want {
				t.Fatalf("as a partition: %+v", fs)
			}
		})
	}
}

// sparse is a disk of zeros with a few bytes on it.
type sparse map[int64][]byte

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, data := range s {
		for i, b := range data {
			if x := at + int64(i) - off; x >= 0 && x < int64(len(p)) {
				p[x] = b
			}
		}
	}
	return len(p), nil
}

func TestGPTMadeBySgdisk(t *testing.T) {
	name := image(t)
	tool(t, "sgdisk", "-o", "-n1:2048:+1M", "-t1:ef02", "-c1:grub", "-n2:0:+8M", "-t2:ef00", "-c2:Grüße", "-n5:0:+20M", "-t5:8300", name)
	check := func(t *testing.T) {
		c := look(t, name)
		if c.Table != "gpt" || len(c.Partitions) != 3 {
			t.Fatalf("%+v", c)
		}
		p := c.Partitions[1]
		if p.Number != 2 || p.Type != "EFI system" || p.Label != "Grüße" || p.StartBytes != 2<<20 || p.SizeBytes != 8<<20 {
			t.Fatalf("%+v", p)
		}
		if c.Partitions[2].Number != 5 {
			t.Fatalf("%+v", c.Partitions[2])
		}
	}
	t.Run("whole", check)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt([]byte{0xff}, 512+60); err != nil {
		t.Fatal(err)
	}
	t.Run("primary damaged", check)
	if _, err := f.WriteAt([]byte{0xff}, testSize-512+60); err != nil {
		t.Fatal(err)
	}
	t.Run("both damaged", func(t *testing.T) {
		c := look(t, name)
		if c.Table != "mbr" || len(c.Partitions) != 1 || c.Partitions[0].Type != "GPT protective" {
			t.Fatalf("%+v", c)
		}
	})
}

// bootSector builds a boot sector with entries of type, first sector and length.
func bootSector(entries ...[3]byte) []byte {
	b := make([]byte, 512)
	b[510], b[511] = 0x55, 0xaa
	for i, e := range entries {
		b[446+16*i+4], b[446+16*i+8], b[446+16*i+12] = e[0], e[1], e[2]
	}
	return b
}

// A GPT is found without the first sector, which an install wipes before the rest.
func TestAWipedFirstSectorShows(t *testing.T) {
	for _, n := range []byte{0, 1} {
		d := gptDisk(512, "data", []byte{1}, nil)
		d[510] = []byte{n}
		if c := Contents(d, testSize, 512); c.Table != "gpt" || c.NoHead != (n == 0) {
			t.Errorf("%+v", c)
		}
	}
}

func TestMBRWithLogicalPartitions(t *testing.T) {
	// The extended partition begins at sector 20; links count from there.
	c := Contents(sparse{
		0:        bootSector([3]byte{0x83, 8, 8}, [3]byte{0x0f, 20, 60}, [3]byte{0x82, 100, 8}),
		20 * 512: bootSector([3]byte{0x8e, 2, 8}, [3]byte{5, 30, 20}),
		50 * 512: bootSector([3]byte{0x83, 2, 8}),
		52 * 512: []byte("XFSB"),
	}, testSize, 512)
	var got []string
	for _, p := range c.Partitions {
		got = append(got, fmt.Sprintf("%d %s at %d %s", p.Number, p.Type, p.StartBytes/512, p.Filesystem))
	}
	want := "1 Linux at 8 , 2 extended at 20 , 5 Linux LVM at 22 , 6 Linux at 52 xfs, 3 Linux swap at 100 "
	if c.Table != "mbr" || strings.Join(got, ", ") != want {
		t.Fatalf("%s %v", c.Table, got)
	}
}

func TestALoopOfLogicalPartitionsEnds(t *testing.T) {
	mbr := bootSector([3]byte{5, 8, 100})
	ebr := bootSector([3]byte{0x83, 1, 1}, [3]byte{5, 0, 1}) // a link to itself
	if c := Contents(sparse{0: mbr, 8 * 512: ebr}, testSize, 512); len(c.Partitions) != 2 {
		t.Fatalf("%+v", c.Partitions)
	}
}

// gptDisk builds a disk with one partition by hand, for any sector size.
func gptDisk(sector int, name string, kind []byte, fs map[int64][]byte) sparse {
	entry := make([]byte, 128*128)
	copy(entry, kind)
	binary.LittleEndian.PutUint64(entry[32:], 2048)
	binary.LittleEndian.PutUint64(entry[40:], 2048+1024)
	for i, c := range utf16.Encode([]rune(name)) {
		binary.LittleEndian.PutUint16(entry[56+2*i:], c)
	}
	h := make([]byte, 92)
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint32(h[12:], 92)
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 128)
	binary.LittleEndian.PutUint32(h[84:], 128)
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entry))
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	d := sparse{int64(sector): h, 2 * int64(sector): entry}
	for off, b := range fs {
		d[2048*int64(sector)+off] = b
	}
	return d
}

func TestLargeSectorsAndFormatsKnownByTypeAlone(t *testing.T) {
	gpfs := []byte{0x90, 0xfc, 0xaf, 0x37, 0x7d, 0xef, 0x96, 0x4e, 0x91, 0xc3, 0x2d, 0x7a, 0xe0, 0x55, 0xb1, 0x74}
	c := Contents(gptDisk(4096, "data", gpfs, nil), testSize, 4096)
	if len(c.Partitions) != 1 || c.Partitions[0].StartBytes != 2048*4096 || c.Partitions[0].Filesystem != "gpfs" {
		t.Fatalf("%+v", c)
	}
}

func TestOurOwnMarkAndTheSystemBesideIt(t *testing.T) {
	name := image(t)
	tool(t, "sgdisk", "-o", "-n1:2048:+8M", "-t1:ef00", "-n2:0:+24M", "-t2:8300", "-n3:0:+4M", "-t3:0700", "-c3:LPMOS-SEED", name)
	dir := t.TempDir()
	fat := func(offset string) string { return name + "@@" + offset }
	esp, seed := "1048576", "34603008"
	tool(t, "mkfs.vfat", "--offset=2048", "-n", "ESP", name, "8192")
	tool(t, "mkfs.vfat", "--offset=67584", "-n", "CIDATA", name, "4096")
	tool(t, "mmd", "-i", fat(esp), "::EFI", "::EFI/debian", "::EFI/BOOT")
	mark := filepath.Join(dir, "lpmos.json")
	if err := os.WriteFile(mark, []byte(`{"machine_id":"m1","task_id":"t1","generation":3,"image":"abc"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mcopy", "-i", fat(seed), mark, "::lpmos.json")
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/lib/os-release"), []byte("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, features := range []string{"", "^extents,^64bit", "dir_index,metadata_csum"} {
		tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-d", root, "-E", "offset=9437184", name, "24M")
		c := look(t, name)
		if c.OS != "Debian GNU/Linux 12 (bookworm)" {
			t.Errorf("with features %q: OS %q", features, c.OS)
		}
		if c.Marker == nil || *c.Marker != (wire.Marker{MachineID: "m1", TaskID: "t1", Generation: 3, Image: "abc"}) {
			t.Errorf("marker %+v", c.Marker)
		}
	}
	// Without its root file system the loader's folder tells.
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(make([]byte, 4096), 9437184); err != nil {
		t.Fatal(err)
	}
	if c := look(t, name); c.OS != "Debian" {
		t.Errorf("by its loader: %q", c.OS)
	}
}

func FuzzContents(f *testing.F) {
	d := gptDisk(512, "LPMOS-SEED", []byte{1}, map[int64][]byte{0: []byte("LUKS\xba\xbe")})
	b := make([]byte, 8192)
	_, _ = d.ReadAt(b, 0)
	f.Add(b, uint32(0), uint16(512))
	boot := make([]byte, 512)
	copy(boot, "\xeb\x3c\x90MSDOS5.0\x00\x02\x04\x01\x00\x02\x00\x02\x00\x40\xf8\x10")
	boot[510], boot[511] = 0x55, 0xaa
	f.Add(boot, uint32(0), uint16(512))
	sb := make([]byte, 2048)
	sb[1024+56], sb[1024+57], sb[1024+40] = 0x53, 0xef, 1
	f.Add(sb, uint32(1<<20), uint16(4096))
	f.Fuzz(func(t *testing.T, data []byte, extra uint32, sector uint16) {
		size := int64(len(data)) + int64(extra%(300<<10))
		disk := append(bytes.Clone(data), make([]byte, size-int64(len(data)))...)
		c := Contents(bytes.NewReader(disk), size, int(sector))
		if len(c.Partitions) > maxPartitions {
			t.Fatalf("%d partitions", len(c.Partitions))
		}
		v, ok := openVolume(bytes.NewReader(disk), size, 0, size)
		if !ok {
			return
		}
		_ = v.filesystem()
		_ = osRelease(v)
		_ = readMarker(v)
	})
}
