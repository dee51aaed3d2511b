package netboot

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// bootFiles are one long file and one short.
func bootFiles(t *testing.T) (*Files, []byte) {
	t.Helper()
	long := bytes.Repeat([]byte("initrd"), turnBytes/6+1)
	fsys := testFilesWithout()
	fsys[FileInitrd] = &fstest.MapFile{Data: long}
	f, err := LoadFiles(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return f, long
}

// read reads a boot file as it would be sent, and says whether the kernel could send it.
func read(t *testing.T, f *Files, name string) (content []byte, onDisk bool) {
	t.Helper()
	one, ok := f.find(name)
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	r, done := one.content()
	defer done()
	_, onDisk = r.(*os.File)
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content, onDisk
}

func TestLongBootFilesAreKeptForSending(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "boot")
	names := func() (all []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	f, long := bootFiles(t)
	check := func(when string) {
		t.Helper()
		if b, onDisk := read(t, f, FileInitrd); !onDisk || !bytes.Equal(b, long) {
			t.Errorf("%s: %d bytes of the initrd, on the disk: %v", when, len(b), onDisk)
		}
		if b, onDisk := read(t, f, LoaderBIOS); onDisk || !bytes.Equal(b, testFiles[LoaderBIOS].Data) {
			t.Errorf("%s: %d bytes of a loader, on the disk: %v", when, len(b), onDisk)
		}
		if n := names(); len(n) != 1 || `"`+n[0]+`"` != f.byName[FileInitrd].etag {
			t.Errorf("%s: the directory holds %v", when, n)
		}
	}
	if err := f.spool(dir); err != nil {
		t.Fatal(err)
	}
	check("at first")

	// What is broken, and what another version has left, is not sent.
	copied := filepath.Join(dir, names()[0])
	if err := os.WriteFile(copied, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{strings.Repeat("ab", 32), newCopy + "123"} {
		if err := os.WriteFile(filepath.Join(dir, left), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, _ = bootFiles(t)
	if err := f.spool(dir); err != nil {
		t.Fatal(err)
	}
	check("after a copy was damaged")

	// A good copy stays as it is.
	before, err := os.Stat(copied)
	if err != nil {
		t.Fatal(err)
	}
	f, _ = bootFiles(t)
	if err := f.spool(dir); err != nil {
		t.Fatal(err)
	}
	check("at the next start")
	if after, err := os.Stat(copied); err != nil || !os.SameFile(before, after) {
		t.Errorf("a good copy was written anew: %v", err)
	}

	// One that somebody takes away is sent from memory.
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	if b, onDisk := read(t, f, FileInitrd); onDisk || !bytes.Equal(b, long) {
		t.Errorf("without its copy: %d bytes, on the disk: %v", len(b), onDisk)
	}
}

func TestBootFilesAreSentFromMemoryWhereNoneCanBeKept(t *testing.T) {
	f, long := bootFiles(t)
	taken := filepath.Join(t.TempDir(), "boot")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.spool(taken); err == nil {
		t.Error("a directory that is a file is taken")
	}
	if b, onDisk := read(t, f, FileInitrd); onDisk || !bytes.Equal(b, long) {
		t.Errorf("%d bytes, on the disk: %v", len(b), onDisk)
	}
}
