package bootimage

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

func TestCheckSaysHowToBuild(t *testing.T) {
	files := fstest.MapFS{Sources: {Data: []byte("[]")}, Initrd: {}}
	for _, name := range Names() {
		if name != Kernel && name != Initrd {
			files[name] = &fstest.MapFile{Data: []byte("x")}
		}
	}
	err := check(files)
	if err == nil || !strings.Contains(err.Error(), "missing vmlinuz, initrd)") || !strings.Contains(err.Error(), "make boot-image") {
		t.Errorf("got %v", err)
	}
	files[Kernel] = &fstest.MapFile{Data: []byte("x")}
	files[Initrd] = &fstest.MapFile{Data: []byte("x")}
	if err := check(files); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedFilesAreAsRecorded(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	sources, err := ReadSources()
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]string{}
	for _, s := range sources {
		recorded[s.File] = s.SHA256
	}
	size := 0
	for _, name := range Names() {
		data, err := fs.ReadFile(Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != recorded[name] {
			t.Errorf("%s is not as %s says", name, Sources)
		}
		if name == Kernel || name == Initrd {
			size += len(data)
		}
	}
	if size > 32<<20 {
		t.Errorf("kernel and initramfs have %d bytes, want at most 32 MiB", size)
	}
}
