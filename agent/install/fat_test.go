package install

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What makeFAT writes is read by other people's programs.
func TestFATIsReadByOthers(t *testing.T) {
	long := strings.Repeat("a long name, ", 19) + "end"
	big := make([]byte, 300_001)
	noise(big, 5)
	files := []fatFile{
		{"meta-data", []byte("instance-id: x\n")},
		{"empty", nil},
		{"exactly 13 ch", []byte("13")},
		{"Grüße 世界.txt", []byte("unicode")},
		{long, []byte("long")},
		{"big", big},
		{"lpmos.json", []byte("{}")},
	}
	for _, c := range []struct{ size, sector int }{
		{4 * mib, 512}, {4 * mib, 4096}, {mib, 512}, {8 * mib, 512}, {64 * mib, 512}, {64 * mib, 4096}, {300 * mib, 512},
	} {
		vol, err := makeFAT(c.size, c.sector, 2048, SeedLabel, 0x12345678, files)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		path := filepath.Join(t.TempDir(), "fat")
		if err := os.WriteFile(path, vol, 0o600); err != nil {
			t.Fatal(err)
		}
		if out := sh(t, tool(t, "fsck.fat", "dosfstools"), "-n", "-v", path); strings.Contains(out, "Difference") {
			t.Errorf("%v: fsck.fat says\n%s", c, out)
		}
		if out := sh(t, tool(t, "mdir", "mtools"), "-i", path, "::"); !strings.Contains(out, "Volume in drive : is CIDATA") {
			t.Errorf("%v: mdir says\n%s", c, out)
		}
		for _, f := range files {
			if got := sh(t, tool(t, "mtype", "mtools"), "-i", path, "::"+f.name); got != string(f.data) {
				t.Errorf("%v: %s has %d bytes, want %d", c, f.name, len(got), len(f.data))
			}
		}
		if out := sh(t, tool(t, "mdir", "mtools"), "-i", path, "-b", "::"); !strings.Contains(out, long) {
			t.Errorf("%v: the long name is lost:\n%s", c, out)
		}
	}
}

func TestFATRefuses(t *testing.T) {
	var many []fatFile
	for i := range 70 {
		many = append(many, fatFile{name: fmt.Sprint(i)})
	}
	for _, c := range []struct {
		name  string
		files []fatFile
	}{
		{"too many bytes", []fatFile{{"a", make([]byte, 3*mib)}, {"b", make([]byte, 2*mib)}}},
		{"too many files", many},
		{"no name", []fatFile{{"", nil}}},
		{"a path", []fatFile{{"a/b", nil}}},
		{"an endless name", []fatFile{{strings.Repeat("x", 256), nil}}},
	} {
		if _, err := makeFAT(4*mib, 512, 0, "X", 1, c.files); err == nil {
			t.Errorf("%s: no error", c.name)
		}
	}
	if _, err := makeFAT(4096, 512, 0, "X", 1, nil); err == nil {
		t.Error("a volume without room for its own tables is made")
	}
}

func FuzzFAT(f *testing.F) {
	f.Add("user-data", []byte("x"), uint8(0))
	f.Fuzz(func(t *testing.T, name string, data []byte, sector uint8) {
		size := 512
		if sector%2 == 1 {
			size = 4096
		}
		a, err := makeFAT(mib, size, 0, name, 1, []fatFile{{name, data}, {name, data}})
		if err == nil && len(data) > 0 && bytes.Count(a, data) < 2 {
			t.Error("the data is not on the volume twice")
		}
	})
}
