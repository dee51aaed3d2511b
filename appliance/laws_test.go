package appliance

import (
	"errors"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lpmos/lpmos"

// packages reads what every package of the house imports, by its folder. It
// reads the files itself: what a child process finds out, go test would cache.
func packages(t *testing.T) map[string]*build.Package {
	t.Helper()
	out := map[string]*build.Package{}
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		name := d.Name()
		if path != ".." && (strings.HasPrefix(name, ".") || slices.Contains([]string{"testdata", "node_modules", "build", "bin"}, name)) {
			return fs.SkipDir
		}
		p, err := build.ImportDir(path, 0)
		var none *build.NoGoError
		if errors.As(err, &none) {
			return nil
		}
		rel, relErr := filepath.Rel("..", path)
		out[filepath.ToSlash(rel)] = p
		return errors.Join(err, relErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// room is the part of the house a package belongs to.
func room(pkg string) string {
	for _, r := range []string{"cmd/lpmos-agent", "cmd", "appliance", "netboot", "agent/agentserver", "agent/wire", "agent",
		"images", "ui", "consensus/consensustest", "consensus/fleet", "consensus"} {
		if pkg == r || strings.HasPrefix(pkg, r+"/") {
			return r
		}
	}
	return ""
}

// arrows are the rooms each room may lean on, beside itself. They run down only,
// and rooms on one floor do not know each other.
var arrows = map[string][]string{
	"cmd":                     {"appliance", "netboot", "agent/agentserver", "images", "ui", "consensus", "consensus/fleet", "agent/wire", "agent"},
	"appliance":               {"netboot", "agent/agentserver", "images", "ui", "consensus", "consensus/fleet", "agent/wire", "agent"},
	"netboot":                 {"consensus", "consensus/fleet", "agent/wire"},
	"agent/agentserver":       {"consensus", "consensus/fleet", "agent/wire"},
	"images":                  {"consensus", "consensus/fleet", "agent/wire"},
	"ui":                      {"consensus", "consensus/fleet", "agent/wire"},
	"consensus/consensustest": {"consensus", "consensus/fleet", "agent/wire"},
	"consensus":               {"consensus/fleet", "agent/wire"},
	"consensus/fleet":         {"agent/wire"},
	"cmd/lpmos-agent":         {"agent", "agent/wire"},
	"agent":                   {"agent/wire"},
	"agent/wire":              {},
}

func TestArrowsRunDownOnly(t *testing.T) {
	arrowsSeen := 0
	for pkg, p := range packages(t) {
		from := room(pkg)
		if from == "" {
			t.Errorf("%s is in no room of the house; its folder belongs below one of them", pkg)
			continue
		}
		for _, imported := range p.Imports {
			inside, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			arrowsSeen++
			if to := room(inside); to != from && !slices.Contains(arrows[from], to) {
				t.Errorf("%s imports %s: %s may lean on %v only", pkg, inside, from, arrows[from])
			}
		}
	}
	if arrowsSeen < 20 {
		t.Errorf("only %d imports were looked at", arrowsSeen)
	}
}

func TestTheRulesAreFreeOfTheWorld(t *testing.T) {
	p := packages(t)["consensus/fleet"]
	for _, never := range []string{"net", "net/http", "os", "os/exec", "syscall", "math/rand", "math/rand/v2", "crypto/rand", "log/slog"} {
		if slices.Contains(p.Imports, never) {
			t.Errorf("consensus/fleet imports %s", never)
		}
	}
}

func TestTrustIsKeysAndNothingElse(t *testing.T) {
	for _, imported := range packages(t)["appliance/trust"].Imports {
		// What is signed has to be known to who signs it.
		if strings.HasPrefix(imported, module) && imported != module+"/agent/wire" || imported == "net" || imported == "net/http" {
			t.Errorf("appliance/trust imports %s", imported)
		}
	}
}

func TestTheAgentLinksTheStandardLibraryAlone(t *testing.T) {
	all := packages(t)
	seen := map[string]bool{}
	var visit func(pkg, from string)
	visit = func(pkg, from string) {
		if seen[pkg] {
			return
		}
		seen[pkg] = true
		p := all[pkg]
		if p == nil {
			t.Fatalf("%s imports %s, which is not there", from, pkg)
		}
		for _, imported := range p.Imports {
			inside, ours := strings.CutPrefix(imported, module+"/")
			first, _, _ := strings.Cut(imported, "/")
			switch {
			case ours:
				visit(inside, pkg)
			case strings.Contains(first, "."):
				t.Errorf("the agent links %s, by %s", imported, pkg)
			}
		}
	}
	visit("cmd/lpmos-agent", "the test")
	if !seen["agent/wire"] {
		t.Error("the agent does not link agent/wire: the test looks at the wrong things")
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for pkg, p := range packages(t) {
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command "
		}
		if len(p.GoFiles) > 0 && !strings.HasPrefix(p.Doc, want) && (p.Name != "main" || p.Doc == "") {
			t.Errorf("%s: the package comment begins %q, want %q", pkg, p.Doc, want)
		}
	}
}
