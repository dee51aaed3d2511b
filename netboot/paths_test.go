package netboot

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

var pathAt = netip.MustParseAddr("10.77.0.120")

func somePaths(now *time.Time) paths {
	return paths{key: [32]byte{1, 2, 3}, now: func() time.Time { return *now }}
}

func TestS36_APathIsForOneMachineAtOneAddressForAWhile(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := somePaths(&now)
	elsewhere := netip.MustParseAddr("10.77.0.121")
	both, mac, addr := p.new(macA, pathAt), p.new(macA, netip.Addr{}), p.new("", pathAt)
	for _, c := range []struct {
		name, path, mac string
		at              netip.Addr
		want            bool
	}{
		{"its own", both, macA, pathAt, true},
		{"from elsewhere", both, macA, elsewhere, false},
		{"for another machine", both, macB, pathAt, false},
		{"for no machine", both, "", pathAt, false},
		{"made before there was an address", mac, macA, elsewhere, true},
		{"that, for another machine", mac, macB, elsewhere, false},
		{"made for an address", addr, macB, pathAt, true},
		{"that, from elsewhere", addr, macB, elsewhere, false},
		{"none", "", macA, pathAt, false},
		{"cut", both[1:], macA, pathAt, false},
		{"in capitals", strings.ToUpper(both), macA, pathAt, false},
		{"guessed", strings.Repeat("a", len(both)), macA, pathAt, false},
		{"of another cluster", paths{key: [32]byte{9}, now: p.now}.new(macA, pathAt), macA, pathAt, false},
	} {
		if got := p.leads(c.path, c.mac, c.at); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for i := range both { // the next, and any other that is near
		for _, r := range "abz7" {
			near := both[:i] + string(r) + both[i+1:]
			if near != both && p.leads(near, macA, pathAt) {
				t.Errorf("%s leads as well as %s", near, both)
			}
		}
	}
	now = now.Add(pathLife)
	if !p.leads(both, macA, pathAt) {
		t.Error("it ends too early")
	}
	now = now.Add(time.Second)
	if p.leads(both, macA, pathAt) {
		t.Error("it never ends")
	}
}

// FuzzPath: no name but one that was made leads to a script, and none makes the
// node say more than a script that asks who it is talking to.
func FuzzPath(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	p := somePaths(&now)
	good := p.new(macA, pathAt)
	for _, s := range []string{ipxe{}.name(good), "script", "/script", good, good + "//script", "../script", ipxe{}.name(strings.Repeat("a", 32)), ipxe{}.name(good[:31] + "=")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, ok := pathOf(name)
		if !ok || !p.formed(path) {
			return
		}
		if strings.Trim(path, "abcdefghijklmnopqrstuvwxyz234567") != "" || (ipxe{}).name(path) != name {
			t.Fatalf("%q may stand in a script", name)
		}
		if path != good && p.leads(path, macA, pathAt) {
			t.Fatalf("%q leads somewhere", path)
		}
	})
}
