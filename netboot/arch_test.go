package netboot

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
)

// withoutARM64 is what a node has that was built where there were no packages for arm64.
func withoutARM64(t *testing.T) *Files {
	t.Helper()
	files, err := LoadFiles(testFilesWithout(LoaderShimARM64, LoaderGRUBARM64, FileKernelARM64, FileInitrdARM64))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Each machine is given the kernel of its own architecture, whoever asks for it.
func TestTheAgentIsOfTheMachinesArchitecture(t *testing.T) {
	for _, c := range []struct {
		arch  string // what the loader says it was built for
		files *Files
		want  []string // in the script
	}{
		{"", nil, []string{"/vmlinuz ", "console=tty0 console=ttyS0,115200 lpmos.node="}},
		{"i386", nil, []string{"/vmlinuz "}},
		{"x86_64", nil, []string{"/vmlinuz ", "/initrd"}},
		{"arm64", nil, []string{"/vmlinuz-arm64 ", "/initrd-arm64", "console=tty0 console=ttyS0,115200 console=ttyAMA0,115200 lpmos.node=", "lpmos.mac=" + macA, "lpmos.pin=", "lpmos.claim="}},
		{"arm32", nil, []string{"booting the disk. this node has no agent for arm machines"}},
		{"riscv64", nil, []string{"booting the disk. this node has no agent for riscv64 machines"}},
		{"arm64", withoutARM64(t), []string{"booting the disk. this node has no agent for arm64 machines"}},
		{"x86_64", withoutARM64(t), []string{"/vmlinuz "}},
	} {
		s := newSetup(t, ModeDHCP)
		if c.files != nil {
			s.cfg.Files = c.files
		}
		s.fleet.boots(macA, Decision{Action: BootAgent})
		ipxe := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA+"&arch="+c.arch).Body.String()
		// GRUB puts every word in quotes of its own.
		grub := strings.ReplaceAll(readTFTP(t, s.tftp(s.link), "boot/"+s.path(macA)+"/"+macA+"//"+c.arch+"/grub.cfg", netip.MustParseAddr("10.77.0.120")), "'", "")
		for _, want := range c.want {
			if !strings.Contains(ipxe, want) {
				t.Errorf("iPXE for %q is not told %q:\n%s", c.arch, want, ipxe)
			}
			if !strings.Contains(grub, want) && c.arch != "i386" {
				t.Errorf("GRUB for %q is not told %q:\n%s", c.arch, want, grub)
			}
		}
	}
}

// A node that has nothing for arm64 says so, and how to have it.
func TestANodeWithoutARM64SaysSo(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.cfg.Files = withoutARM64(t)
	s.fleet.boots(macA, Decision{Action: BootAgent})
	reply, _ := s.ask(t, packet{kind: discover, opts: map[uint8][]byte{60: []byte("PXEClient:Arch:00011:UNDI:003016")}})
	if reply.BootFileName != "" {
		t.Errorf("it is given %q", reply.BootFileName)
	}
	seen := s.Sightings().Of(macA)
	if len(seen) == 0 || !strings.Contains(seen[len(seen)-1].Text, "because this node was built without those for arm64") {
		t.Errorf("its timeline has %+v", seen)
	}
	if last := seen[len(seen)-1]; last.End != EndNoLoader || !strings.Contains(noLoaderHint(last.Firmware), "make boot-image") {
		t.Errorf("it ends with %+v", last)
	}
	if reply, _ := s.ask(t, packet{kind: discover, opts: map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003016")}}); reply.BootFileName != LoaderUEFI {
		t.Errorf("an x86 machine is given %q", reply.BootFileName)
	}
}

// A file that lies packed in the binary is the same as any other, with a copy on the
// disk and without.
func TestAPackedBootFile(t *testing.T) {
	kernel := bytes.Repeat([]byte("kernel for arm64"), turnBytes/8)
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	fsys := testFilesWithout(FileKernelARM64)
	fsys[FileKernelARM64+packedSuffix] = &fstest.MapFile{Data: zw.EncodeAll(kernel, nil)}
	plain := testFilesWithout()
	plain[FileKernelARM64] = &fstest.MapFile{Data: kernel}
	want, err := LoadFiles(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []bool{false, true, true} {
		f, err := LoadFiles(fsys)
		if err != nil {
			t.Fatal(err)
		}
		if !f.hasAgent("arm64") {
			t.Fatal("it is not found")
		}
		if kept {
			if err := f.spool(filepath.Join(t.TempDir(), "boot")); err != nil {
				t.Fatal(err)
			}
		}
		if b, onDisk := read(t, f, FileKernelARM64); onDisk != kept || !bytes.Equal(b, kernel) {
			t.Errorf("%d bytes, on the disk: %v; want %d, %v", len(b), onDisk, len(kernel), kept)
		}
		one, _ := f.find(FileKernelARM64)
		if one.etag != want.byName[FileKernelARM64].etag || one.size != int64(len(kernel)) {
			t.Errorf("it has %d bytes and the tag %s", one.size, one.etag)
		}
		part := make([]byte, 16)
		if n, err := one.reader().ReadAt(part, 32); n != 16 || err != nil || string(part) != "kernel for arm64" {
			t.Errorf("a part of it is %q, %v", part[:n], err)
		}
		if _, inMemory := one.ReaderAt.(*packed); inMemory == kept {
			t.Errorf("it is read from memory: %v", inMemory)
		}
	}
	// What is damaged is no boot file.
	fsys[FileKernelARM64+packedSuffix] = &fstest.MapFile{Data: []byte("no zstd at all")}
	if _, err := LoadFiles(fsys); err == nil || !strings.Contains(err.Error(), FileKernelARM64) {
		t.Errorf("a damaged one is taken: %v", err)
	}
}
