package main

import (
	"go/build"
	"strings"
	"testing"
)

// ours is the module's path: the one prefix with a dot that may be linked.
const ours = "github.com/lpmos/lpmos/"

// imports collects every package that is linked, by reading the sources itself.
func imports(t *testing.T, ctx *build.Context, path, dir string, seen map[string]bool) {
	t.Helper()
	if path == "C" || path == "unsafe" || seen[path] {
		return
	}
	seen[path] = true
	p, err := ctx.ImportDir(dir, 0)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for _, i := range p.Imports {
		switch {
		case strings.HasPrefix(i, ours):
			imports(t, ctx, i, "../../"+strings.TrimPrefix(i, ours), seen)
		default:
			seen[i] = true
		}
	}
}

func TestTheAgentLinksTheStandardLibraryOnly(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		ctx := build.Default
		ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", arch, false
		seen := map[string]bool{}
		imports(t, &ctx, ours+"cmd/lpmos-agent", ".", seen)
		for path := range seen {
			first, _, _ := strings.Cut(path, "/")
			if strings.Contains(first, ".") && !strings.HasPrefix(path, ours) {
				t.Errorf("%s: the agent links %s, which is neither the standard library nor ours", arch, path)
			}
			if rest, ok := strings.CutPrefix(path, ours); ok && rest != "cmd/lpmos-agent" && rest != "agent" && !strings.HasPrefix(rest, "agent/") {
				t.Errorf("%s: the agent links %s, which is no part of the agent", arch, path)
			}
		}
		// These are what would make the binary large without being missed.
		for _, heavy := range []string{"net/http", "text/template", "regexp", "log/slog", "flag"} {
			if seen[heavy] {
				t.Errorf("%s: %s is imported: it costs more than the agent may spend on it", arch, heavy)
			}
		}
		for _, part := range []string{"agent", "agent/install", "agent/inventory", "agent/boot", "agent/wire"} {
			if !seen[ours+part] {
				t.Errorf("%s: %s is not among the packages looked at: the walk is broken", arch, part)
			}
		}
	}
}
