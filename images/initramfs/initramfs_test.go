package initramfs

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// kernelTree writes the lists depmod would make, and a file for each module.
func kernelTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "6.1.0-test")
	lists := map[string]string{
		"modules.dep": "kernel/net/card.ko: kernel/lib/libcrc32c.ko kernel/net/mdio.ko\n" +
			"kernel/net/mdio.ko:\nkernel/lib/libcrc32c.ko:\n" +
			"kernel/crypto/crc32c_generic.ko:\nkernel/crypto/crc32c-intel.ko:\n" +
			"kernel/drivers/virtio_net.ko: kernel/drivers/virtio.ko\nkernel/drivers/virtio.ko:\n",
		"modules.builtin": "kernel/drivers/efi/efivarfs.ko\n",
		"modules.alias": "alias pci:v00008086d* card\nalias crc32c crc32c_intel\nalias crc32c crc32c_generic\n" +
			"alias virtio:d00000001v* virtio_net\n",
		"modules.softdep": "# comment\nsoftdep libcrc32c pre: crc32c\nsoftdep card post: mdio\nsoftdep card pre: nowhere\n",
	}
	for name, text := range lists {
		writeFile(t, filepath.Join(dir, name), text)
	}
	for line := range strings.Lines(lists["modules.dep"]) {
		file, _, _ := strings.Cut(line, ":")
		writeFile(t, filepath.Join(dir, file), "module "+file)
	}
	return dir
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestResolveLoadsNeedsFirst(t *testing.T) {
	m, err := Open(kernelTree(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		patterns []string
		want     []string
	}{
		{[]string{"virtio_net"}, []string{"kernel/drivers/virtio.ko", "kernel/drivers/virtio_net.ko"}},
		{[]string{"virtio*"}, []string{"kernel/drivers/virtio.ko", "kernel/drivers/virtio_net.ko"}},
		// The soft dependency of a dependency comes before both.
		{[]string{"card"}, []string{"kernel/crypto/crc32c_generic.ko", "kernel/net/mdio.ko", "kernel/lib/libcrc32c.ko", "kernel/net/card.ko"}},
		{[]string{"efivarfs"}, nil},
	} {
		got, err := m.Resolve(tt.patterns)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, %v; want %v", tt.patterns, got, err, tt.want)
		}
	}
	if _, err := m.Resolve([]string{"virtio", "gone", "lost*"}); err == nil || !strings.Contains(err.Error(), "gone, lost*") {
		t.Errorf("unknown modules: %v", err)
	}
}

func TestArchiveHoldsModulesAndTheirLists(t *testing.T) {
	m, err := Open(kernelTree(t))
	if err != nil {
		t.Fatal(err)
	}
	files, err := m.Resolve([]string{"card"})
	if err != nil {
		t.Fatal(err)
	}
	build := func() []byte {
		a := New()
		a.File("init", 0o755, []byte("#!/bin/sh\n"))
		a.Link("bin/sh", "busybox")
		a.CharDevice("dev/console", 5, 1)
		if err := m.AddTo(a, files); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		n, err := a.WriteTo(&out)
		if err != nil || n != int64(out.Len()) || n%512 != 0 {
			t.Fatalf("wrote %d bytes, said %d: %v", out.Len(), n, err)
		}
		return out.Bytes()
	}
	archive := build()
	if !bytes.Equal(archive, build()) {
		t.Error("the same files gave other bytes")
	}
	got := map[string]string{}
	modes := map[string]cpio.FileMode{}
	r := cpio.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Guid != 0 {
			t.Errorf("%s: belongs to %d:%d, time %v", h.Name, h.Uid, h.Guid, h.ModTime)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name], modes[h.Name] = string(data), h.Mode
	}
	root := "lib/modules/6.1.0-test/"
	if got["init"] != "#!/bin/sh\n" || modes["init"] != 0o100755 || modes["lib"] != 0o040755 || modes["dev/console"] != 0o020600 {
		t.Errorf("entries are %v", modes)
	}
	if want := "alias pci:v00008086d* card\nalias crc32c crc32c_generic\n"; got[root+"modules.alias"] != want {
		t.Errorf("modules.alias: %q, want %q", got[root+"modules.alias"], want)
	}
	if want := "kernel/net/card.ko: kernel/lib/libcrc32c.ko kernel/net/mdio.ko kernel/crypto/crc32c_generic.ko\n"; !strings.Contains(got[root+"modules.dep"], want) {
		t.Errorf("modules.dep: %q", got[root+"modules.dep"])
	}
	if got[root+"kernel/net/mdio.ko"] != "module kernel/net/mdio.ko" {
		t.Error("a module is missing")
	}
}

// The kernel's reader is strict about padding; so is GNU cpio.
func TestRealCpioReadsTheArchive(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	a := New()
	a.File("a/b", 0o644, []byte("12345"))
	a.File("z", 0o644, nil)
	var out bytes.Buffer
	if _, err := a.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = &out
	list, err := cmd.CombinedOutput()
	if err != nil || string(list) != "a\na/b\nz\n" {
		t.Errorf("cpio lists %q: %v", list, err)
	}
}
