package fleet

import (
	"strings"
	"testing"
)

// What would not start is refused before a disk is chosen for it.
func TestAnImageOfAnotherArchitectureIsRefused(t *testing.T) {
	for _, c := range []struct {
		machine, image string
		code           Code
		says           string // in the error, or in the warnings
	}{
		{"amd64", "amd64", "", ""},
		{"amd64", "", "", ""},
		{"", "arm64", "", ""},
		{"arm64", "arm64", "", ""},
		{"arm64", "amd64", Conflict, "image debian-12 is for amd64 machines and web1 is an arm64 machine: it would not start"},
		{"amd64", "arm64", Conflict, "image debian-12 is for arm64 machines and web1 is an amd64 machine"},
		{"arm64", "", "", "its partition table does not say which processor image debian-12 is for, and this is an arm64 machine"},
	} {
		inv := inventory(uuid1, "SER1", []string{mac1}, sda())
		inv.CPU.Arch = c.machine
		img := debian().Image
		img.Arch = c.image
		p, err := MakePlan(&Machine{ID: "m1", Name: "web1", Inventory: &inv, InventoryHash: inv.Hash()}, Spec{}, &img)
		says := strings.Join(p.Warnings, "; ")
		if err != nil {
			says = err.Error()
		}
		if ErrorCode(err) != c.code || !strings.Contains(says, c.says) || c.says == "" && says != "" {
			t.Errorf("an image for %q on %q: %v, %q; want %q, %q", c.image, c.machine, err, says, c.code, c.says)
		}
	}
}
