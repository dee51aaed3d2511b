package netboot

import (
	"log/slog"
	"net/netip"
	"regexp"
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
		{"made before there was an address", mac, macA, elsewhere, false},
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
	if !p.anywhere(mac, macA) || p.anywhere(mac, macB) || p.anywhere(both, macA) || p.anywhere(addr, macA) || p.anywhere(mac[1:], macA) {
		t.Error("which path is good anywhere")
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
	if p.leads(both, macA, pathAt) || p.anywhere(mac, macA) {
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

// Whoever reads a path in a log or on a timeline could fetch the script of the machine.
func TestPathsAreHidden(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	path := somePaths(&now).new(macA, pathAt)
	for name, want := range map[string]string{
		"":                                   "",
		"snponly.efi":                        "snponly.efi",
		"/boot/script":                       "/boot/script",
		path:                                 "PATH",
		"boot/" + path + "/script":           "boot/PATH/script",
		"boot/" + path + "/" + path:          "boot/PATH/PATH",
		"//boot//" + path + "//":             "//boot//PATH//",
		`\boot\` + path + `\script`:          `\boot\PATH\script`,
		"%2fboot%2f" + path:                  "%2fboot%PATH",
		"x" + path + "?mac=a":                "PATH?mac=a",
		"http://10.77.0.1:80/boot/" + path:   "http://10.77.0.1:80/boot/PATH",
		"boot/" + path[1:] + "/cut":          "boot/" + path[1:] + "/cut",
		"boot/\xff" + path + "\x00/script.é": "boot/\xffPATH\x00/script.é",
	} {
		if got := hidePath(name); got != want {
			t.Errorf("%q is told as %q, want %q", name, got, want)
		}
	}
}

// Nothing that goes wrong with a path tells it: not the name of a file that is almost
// right, nor another server's, nor what a client says when it hangs up.
func TestNoPathIsTold(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	log := &lines{}
	s.cfg.Log = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.fleet.boots(macA, Decision{Action: BootAgent, Reason: "a task waits"})
	s.sightings.holds(macA, pathAt)
	path := s.paths().new(macA, pathAt)

	tftp := s.tftp(s.link)
	for _, name := range []string{"boot/" + path + "/" + macB + "///grub.cfg", "boot/" + path + "/", strings.Repeat("x/", 35) + path} {
		if _, _, err := tftp.take(tftpRequest{name: name}, pathAt); err == nil {
			t.Errorf("%q is served", name)
		}
		s.get("GET", "/boot/"+name)
	}
	x := &tftpTransfer{client: netip.AddrPortFrom(pathAt, 2000), file: ofText("script"), tftpSender: newTFTPSender(6, 512, 1, false, 0),
		req: tftpRequest{name: "boot/" + path + "/more"}}
	tftp.over(x, tftpHungUp{1, "no room for " + path})

	o := &observer{sightings: s.sightings, stats: &s.stats, now: s.clock}
	d, _ := s.ask(t, packet{kind: discover, mac: macA, opts: map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003016"), 77: []byte("iPXE"), 93: {0, 7}, 175: {1, 1, 1}}})
	given := regexp.MustCompile("[a-z2-7]{32}").FindString(string(d.Options[optBootFile]))
	if given == "" {
		t.Fatalf("%q has no path", d.Options[optBootFile])
	}
	o.answered(d, netip.MustParseAddr("10.77.0.1"), "52:54:00:00:00:01")

	seen := s.sightings.Recent(99)
	if len(seen) < 6 || len(log.all()) < 6 {
		t.Errorf("%d sightings and %d lines are too few to prove anything", len(seen), len(log.all()))
	}
	for _, sg := range seen {
		for _, line := range []string{sg.Text, sg.File} {
			if strings.Contains(line, path[:8]) || strings.Contains(line, given[:8]) {
				t.Errorf("the timeline says %q", line)
			}
		}
	}
	for _, line := range log.all() {
		if strings.Contains(line, path[:8]) || strings.Contains(line, given[:8]) {
			t.Errorf("the log says %s", line)
		}
	}
}
