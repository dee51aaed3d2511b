package debian

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseControlReadsTheFirstParagraph(t *testing.T) {
	p := parseControl([]byte("Package: linux-image-amd64\nVersion: 6.1.1-1\nArchitecture: amd64\nDepends: linux-image-6.1.0-1-amd64 (= 6.1.1-1), x\n" +
		"Description: a kernel\n with: a colon\nSHA256: ABC\n\nPackage: other\nVersion: 2\n"))
	if p.Name != "linux-image-amd64" || p.Version != "6.1.1-1" || p.Architecture != "amd64" || p.SHA256 != "abc" || !strings.HasPrefix(p.Depends, "linux-image-6.1.0-1-amd64 ") {
		t.Errorf("%+v", p)
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte("Package: a\nVersion: 1\n\nPackage: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p := parseControl(data); strings.ContainsAny(p.Name+p.Version, "\n") {
			t.Errorf("%+v holds a line end", p)
		}
	})
}

func TestCheckSumFindsADifference(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if err := checkSum(path, abc); err != nil {
		t.Error(err)
	}
	if err := checkSum(path, strings.Repeat("0", 64)); err == nil {
		t.Error("other bytes were taken")
	}
}
