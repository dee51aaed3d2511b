package main

import (
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/lpmos/lpmos/images/bootimage"
)

func sbomCommand() *cobra.Command {
	return &cobra.Command{Use: "sbom", Short: "List what this binary is made of, as CycloneDX", Args: cobra.NoArgs,
		Long: "Prints a bill of materials (CycloneDX 1.6, JSON): the Go modules that are linked in, and each file that was\n" +
			"taken from a Debian package to boot machines with, with the package's version and the digests of both.\n" +
			"The binary knows it by itself: no network and no source is needed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("this binary was built without knowing its modules")
			}
			files, err := bootimage.ReadSources()
			if err != nil {
				return err
			}
			return writeSBOM(cmd.OutOrStdout(), info, files)
		}}
}

// What of CycloneDX 1.6 is used here: https://cyclonedx.org/docs/1.6/json/.
type (
	bom struct {
		Format     string         `json:"bomFormat"`
		Spec       string         `json:"specVersion"`
		Version    int            `json:"version"`
		Metadata   bomMetadata    `json:"metadata"`
		Components []bomComponent `json:"components"`
	}
	bomMetadata struct {
		Component bomComponent `json:"component"`
	}
	bomComponent struct {
		Type       string         `json:"type"`
		Name       string         `json:"name"`
		Version    string         `json:"version,omitempty"`
		PURL       string         `json:"purl,omitempty"`
		Hashes     []bomHash      `json:"hashes,omitempty"`
		Properties []bomProperty  `json:"properties,omitempty"`
		Components []bomComponent `json:"components,omitempty"`
	}
	bomHash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	bomProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
)

// writeSBOM writes the same for the same binary: it has no time and no serial number.
func writeSBOM(w io.Writer, info *debug.BuildInfo, files []bootimage.Source) error {
	b := bom{Format: "CycloneDX", Spec: "1.6", Version: 1,
		Metadata: bomMetadata{bomComponent{Type: "application", Name: "lpmos", Version: version, PURL: "pkg:golang/" + info.Main.Path}}}
	goVersion := info.GoVersion
	b.Components = append(b.Components, bomComponent{Type: "library", Name: "std", Version: goVersion, PURL: "pkg:golang/std@" + url.PathEscape(goVersion)})
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := bomComponent{Type: "library", Name: m.Path, Version: m.Version, PURL: "pkg:golang/" + m.Path + "@" + url.PathEscape(m.Version)}
		if m.Sum != "" { // of go.sum: a digest of the module's files, which CycloneDX has no name for
			c.Properties = []bomProperty{{"lpmos:go.sum", m.Sum}}
		}
		b.Components = append(b.Components, c)
	}
	for _, f := range files {
		arch := ""
		if f.Architecture != "" {
			arch = "?arch=" + f.Architecture
		}
		b.Components = append(b.Components, bomComponent{Type: "file", Name: f.File, Hashes: []bomHash{{"SHA-256", f.SHA256}},
			Components: []bomComponent{{Type: "library", Name: f.Package, Version: f.Version,
				PURL:   "pkg:deb/debian/" + f.Package + "@" + url.PathEscape(f.Version) + arch,
				Hashes: []bomHash{{"SHA-256", f.PackageSHA256}}}}})
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(b)
}
