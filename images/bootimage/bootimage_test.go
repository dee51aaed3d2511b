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

func TestS59_EmbeddedFilesAreAsRecorded(t *testing.T) {
	if err := Check(); err != nil {
		t.Skip(err)
	}
	sources, err := ReadSources()
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]string{}
	for _, s := range sources {
		if recorded[s.File] != "" {
			t.Errorf("%s is recorded twice", s.File)
		}
		recorded[s.File] = s.SHA256
		if s.Package == "" || s.Version == "" || len(s.SHA256) != 64 || len(s.PackageSHA256) != 64 {
			t.Errorf("it is not said where %s is from: %+v", s.File, s)
		}
	}
	// Also what nobody meant to embed is embedded, and has to be known.
	embedded := 0
	err = fs.WalkDir(Files(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == Sources || path == "README" {
			return err
		}
		embedded++
		if recorded[path] == "" {
			t.Errorf("%s is embedded, and %s does not have it", path, Sources)
		}
		return nil
	})
	if err != nil || embedded != len(recorded) {
		t.Errorf("%d files are embedded and %d recorded: %v", embedded, len(recorded), err)
	}
	size := 0
	names := Names()
	if HasARM64(Files()) {
		names = append(names, NamesARM64()...)
	}
	for _, name := range names {
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
