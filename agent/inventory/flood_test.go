package inventory

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// S55: a machine with more of everything than any has gives a report that a node takes,
// marked as not whole.
func TestS55_AFloodOfHardware(t *testing.T) {
	files := map[string]string{}
	for i := range 2000 {
		d := fmt.Sprintf("sys/class/net/e%d%s/", i, strings.Repeat("x", 200))
		files[d+"address"] = fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)
		files[d+"device/vendor"] = "0x8086"
	}
	for i := range 600 {
		d := fmt.Sprintf("sys/block/sd%d/", i)
		files[d+"size"] = "2048"
		files[d+"device/model"] = strings.Repeat("M\x1b[2J\u202e", 2000)
		files[d+"device/vendor"] = strings.Repeat("V", 4000)
		files[d+"removable"] = "0"
	}
	inv := Collect(Options{Root: tree(t, files)})
	if len(inv.NICs) != maxNICs || len(inv.Disks) > maxDisks || len(inv.Disks) == 0 || !inv.Truncated {
		t.Errorf("%d NICs and %d disks, truncated %v", len(inv.NICs), len(inv.Disks), inv.Truncated)
	}
	b, err := json.Marshal(inv)
	if err != nil || len(b) > 256<<10 {
		t.Errorf("a report of %d bytes (%v)", len(b), err)
	}
	if strings.ContainsAny(string(b), "\x1b\u202e") || strings.Contains(string(b), strings.Repeat("V", maxString+1)) {
		t.Error("strings were passed on as they are")
	}
}
