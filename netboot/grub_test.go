package netboot

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// scriptRequest is GRUB's request for the script of macA at addr.
func (r *tftpRig) scriptRequest(addr string) []byte {
	return rrq("boot/"+r.paths().new(macA, netip.MustParseAddr(addr))+"/"+macA+"///grub.cfg", "octet")
}

// A request that is doubled on its way is one boot, and one that nobody takes is none.
func TestAScriptForGRUBCountsWhenItIsTaken(t *testing.T) {
	r := newTFTPRig(t)
	r.fleet.boots(macA, Decision{Action: BootHold})
	c := r.client("127.0.0.7")
	ask := r.scriptRequest("127.0.0.7")
	for range 3 {
		r.send(c, ask)
	}
	got, at := r.hear(c, 10*time.Second)
	if !bytes.HasPrefix(got, []byte{0, tftpData, 0, 1}) || !bytes.Contains(got, []byte("LPMOS: HELD")) {
		t.Fatalf("it is answered %q", got)
	}
	r.until("the doubled are seen", func() bool { return r.Stats()["tftp.joined"] == 2 })
	if n := len(r.fleet.told()); n != 0 {
		t.Errorf("%d boots were counted before it had the script", n)
	}
	if _, err := c.WriteToUDPAddrPort([]byte{0, tftpAck, 0, 1}, at); err != nil {
		t.Fatal(err)
	}
	r.until("the boot is counted", func() bool { return len(r.fleet.told()) == 1 })
}

// A mistake in what decides about a script ends that request alone.
func TestAPanicAboutARequestEndsNothingElse(t *testing.T) {
	r := newTFTPRigWith(t, func(s *setup) {
		s.cfg.Claim = func(string, netip.Addr) (string, error) { panic("a mistake") }
		s.fleet.boots(macA, Decision{Action: BootAgent})
	})
	c := r.client("127.0.0.7")
	r.send(c, r.scriptRequest("127.0.0.7"))
	r.until("it is noticed", func() bool { return r.Stats()["tftp.panic"] == 1 })
	r.send(c, rrq(LoaderUEFIAll, "octet"))
	if got, _ := r.hear(c, 10*time.Second); !bytes.HasPrefix(got, []byte{0, tftpData, 0, 1}) {
		t.Errorf("the next request is answered %q", got)
	}
}

// The options are one packet also where blocks are shorter than it.
func TestTheOptionsAreOnePacket(t *testing.T) {
	r := newTFTPRig(t)
	c := r.client("127.0.0.7")
	r.send(c, rrq(LoaderUEFI, "octet", "blksize", "8", "windowsize", "4", "tsize", "0"))
	if got, _ := r.hear(c, 10*time.Second); string(got) != "\x00\x06blksize\x008\x00tsize\x00200000\x00windowsize\x004\x00" {
		t.Errorf("the options are confirmed with %q", got)
	}
}

// S36: where a machine that is known has its address from this node, a host of whatever
// other network that says its MAC gets nothing of it.
func TestS36_AKnownMachinesScriptFromElsewhere(t *testing.T) {
	own := netip.MustParseAddr("10.77.0.42")
	for _, c := range []struct {
		name string
		from string
		path func(p paths, from netip.Addr) string
		want bool
	}{
		{"its own address", "10.77.0.42", func(p paths, from netip.Addr) string { return p.new(macA, from) }, true},
		{"its own address, that it came to without a path", "10.77.0.42", func(p paths, from netip.Addr) string { return p.new("", from) }, true},
		{"a neighbour", "10.77.0.120", func(p paths, from netip.Addr) string { return p.new("", from) }, false},
		{"a host behind a router", "192.168.9.9", func(p paths, from netip.Addr) string { return p.new("", from) }, false},
		{"one with a path for any address", "192.168.9.9", func(p paths, from netip.Addr) string { return p.new(macA, netip.Addr{}) }, false},
	} {
		s := newSetup(t, ModeDHCP)
		s.cfg.network = func(string) (netip.Prefix, error) { return netip.MustParsePrefix("10.77.0.1/24"), nil }
		s.fleet.boots(macA, Decision{Action: BootAgent})
		s.fleet.keeps(macA, own)
		from := netip.MustParseAddr(c.from)
		script, _, ok := s.scripts().of(t.Context(), ipxe{}, scriptAsk{
			node: netip.MustParseAddrPort("10.77.0.1:80"), from: from, path: c.path(s.paths(), from), mac: macA})
		if ok != c.want || ok != strings.Contains(script, "lpmos.claim=") {
			t.Errorf("%s: %v\n%s", c.name, ok, script)
		}
	}
}
