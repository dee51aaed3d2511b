package appliance

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// starters are the packages that may start programs: the virtual rack, what builds
// images, the benches, and doctor, which reads the firewall's rules for whoever calls it.
// A node that serves machines uses none of them: what it is left with by
// appliance/confine can start nothing, so its doctor leaves those checks out.
var starters = []string{"appliance/lab", "appliance/bench", "appliance/doctor", "netboot/bench", "images/debian", "images/osimage", "images/bootimage/mkboot"}

// S27: nothing that anybody sends can be run, because nothing is run: what a node
// and an agent are made of starts no program, and nothing at all asks a shell.
func TestS27_NothingStartsAShell(t *testing.T) {
	calls := 0
	for pkg, p := range packages(t) {
		for _, name := range slices.Concat(p.GoFiles, p.IgnoredGoFiles) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, imported := range file.Imports {
				path, _ := strconv.Unquote(imported.Path.Value)
				if (path == "os/exec" || path == "plugin") && !slices.Contains(starters, pkg) {
					t.Errorf("%s/%s imports %s", pkg, name, path)
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				what, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				of, _ := what.X.(*ast.Ident)
				if of == nil {
					return true
				}
				at := pkg + " " + fset.Position(call.Pos()).String()
				switch of.Name + "." + what.Sel.Name {
				case "syscall.ForkExec", "syscall.StartProcess", "unix.Exec":
					t.Errorf("%s: %s.%s", at, of.Name, what.Sel.Name)
				case "os.StartProcess":
					// PID 1 of a machine starts the agent, which is itself.
					if lit, _ := call.Args[0].(*ast.BasicLit); lit == nil || lit.Value != `"/proc/self/exe"` {
						t.Errorf("%s: %s.%s of something else than itself", at, of.Name, what.Sel.Name)
					}
				case "syscall.Exec":
					// A node may start itself anew with fewer rights, before it listens.
					if pkg != "appliance" && pkg != "cmd/lpmos" {
						t.Errorf("%s: %s.%s", at, of.Name, what.Sel.Name)
					}
				case "exec.Command", "exec.CommandContext":
					calls++
					for _, arg := range call.Args {
						lit, _ := arg.(*ast.BasicLit)
						if lit == nil || lit.Kind != token.STRING {
							continue
						}
						word, _ := strconv.Unquote(lit.Value)
						if slices.Contains([]string{"sh", "bash", "dash", "env", "busybox", "-c", "-lc"}, filepath.Base(word)) {
							t.Errorf("%s starts %q", at, word)
						}
					}
				}
				return true
			})
		}
	}
	if calls < 5 {
		t.Errorf("only %d starts of programs were looked at", calls)
	}
}

// What a node is links none of the packages that start programs, but for its command
// line, which has the rack and the building of images.
func TestS27_ANodeStartsNoProgram(t *testing.T) {
	all := packages(t)
	for _, root := range []string{"appliance", "netboot", "images", "agent", "agent/agentserver", "consensus", "ui", "ui/api", "cmd/lpmos-agent"} {
		seen, todo := map[string]bool{}, []string{root}
		for len(todo) > 0 {
			pkg := todo[0]
			todo = todo[1:]
			if seen[pkg] {
				continue
			}
			seen[pkg] = true
			if slices.Contains(starters, pkg) {
				t.Errorf("%s links %s", root, pkg)
			}
			if all[pkg] == nil {
				t.Fatalf("there is no package %s", pkg)
			}
			for _, imported := range all[pkg].Imports {
				if inside, ours := strings.CutPrefix(imported, module+"/"); ours {
					todo = append(todo, inside)
				}
			}
		}
	}
}

// S26: there is no template to inject into: none of the template engines is linked.
func TestS26_NoTemplates(t *testing.T) {
	for pkg, p := range packages(t) {
		for _, never := range []string{"text/template", "html/template"} {
			if slices.Contains(p.Imports, never) {
				t.Errorf("%s imports %s", pkg, never)
			}
		}
	}
}

// S41: nothing unpacks an archive, so no name in one leads anywhere: an image is cut
// into chunks that are named by what is in them, and a backup is one stream.
func TestS41_NoArchiveIsUnpacked(t *testing.T) {
	for pkg, p := range packages(t) {
		for _, never := range []string{"archive/tar", "archive/zip"} {
			if slices.Contains(p.Imports, never) && !slices.Contains(starters, pkg) {
				t.Errorf("%s imports %s: say here how a name in it is kept from leading out, and test that", pkg, never)
			}
		}
	}
}
