package fleet

import (
	"go/build"
	"slices"
	"testing"
)

// The rules are pure: the same commands give the same state on every node.
func TestTheRulesReachNothingOutside(t *testing.T) {
	p, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	allowed := []string{"bufio", "bytes", "cmp", "compress/flate", "context", "crypto/sha256", "encoding/base64", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt", "io", "maps", "math", "net/netip", "reflect", "slices", "strconv", "strings", "time",
		"github.com/lpmos/lpmos/agent/wire"}
	for _, imported := range p.Imports {
		if !slices.Contains(allowed, imported) {
			t.Errorf("fleet imports %s; it may import %v", imported, allowed)
		}
	}
}
