package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"runtime/debug"
	"testing"

	"github.com/lpmos/lpmos/images/bootimage"
)

func TestS59_SBOMNamesModulesAndPackages(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.99.1", Main: debug.Module{Path: "example.org/lpmos"}, Deps: []*debug.Module{
		{Path: "example.org/a", Version: "v1.2.3+incompatible", Sum: "h1:abc="},
		{Path: "example.org/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/c", Version: "v2.0.0"}},
	}}
	files := []bootimage.Source{{File: "ipxe.efi", SHA256: "11", Package: "ipxe", Version: "1.0.0+git-5.1", PackageSHA256: "22"},
		{File: "shimaa64.efi", SHA256: "33", Package: "shim-signed", Version: "1.51", Architecture: "arm64", PackageSHA256: "44"}}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := writeSBOM(out, info, files); err != nil {
			t.Fatal(err)
		}
	}
	if first.String() != second.String() {
		t.Error("the same binary is told of in two ways")
	}
	var b bom
	if err := json.Unmarshal(first.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	if b.Format != "CycloneDX" || b.Spec != "1.6" || b.Version != 1 || b.Metadata.Component.Type != "application" {
		t.Errorf("it begins with %+v", b)
	}
	got := map[string]string{}
	for _, c := range b.Components {
		got[c.Name] = c.PURL
		for _, inner := range c.Components {
			got[c.Name+"/"+inner.Name] = inner.PURL + " " + inner.Hashes[0].Content
		}
	}
	for name, want := range map[string]string{
		"std":           "pkg:golang/std@go1.99.1",
		"example.org/a": "pkg:golang/example.org/a@v1.2.3+incompatible",
		"example.org/c": "pkg:golang/example.org/c@v2.0.0",
		"ipxe.efi/ipxe": "pkg:deb/debian/ipxe@1.0.0+git-5.1 22",

		"shimaa64.efi/shim-signed": "pkg:deb/debian/shim-signed@1.51?arch=arm64 44",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, not %q", name, got[name], want)
		}
	}
	if _, ok := got["example.org/b"]; ok {
		t.Error("a module that was replaced is listed")
	}
}

// TestSBOMHasAllThatIsEmbedded reads the list of this binary.
func TestS59_SBOMHasAllThatIsEmbedded(t *testing.T) {
	if err := bootimage.Check(); err != nil {
		t.Skip(err)
	}
	files, err := bootimage.ReadSources()
	if err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("this binary was built without knowing its modules")
	}
	var out bytes.Buffer
	if err := writeSBOM(&out, info, files); err != nil {
		t.Fatal(err)
	}
	var b bom
	if err := json.Unmarshal(out.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	digests := map[string]string{}
	for _, c := range b.Components {
		if c.Type == "file" && len(c.Hashes) == 1 && len(c.Components) == 1 && len(c.Components[0].Hashes) == 1 {
			digests[c.Name] = c.Hashes[0].Content
		}
	}
	names := bootimage.Names()
	if bootimage.HasARM64(bootimage.Files()) {
		names = append(names, bootimage.NamesARM64()...)
	}
	for _, name := range names {
		data, err := fs.ReadFile(bootimage.Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%x", sha256.Sum256(data)); digests[name] != want {
			t.Errorf("%s is listed with digest %q, and has %s", name, digests[name], want)
		}
	}
}
