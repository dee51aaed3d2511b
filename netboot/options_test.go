package netboot

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func configured() Options {
	return Options{
		Domain: "rack.example", Search: []string{"rack.example", "example"}, NTP: addrs("10.77.0.3"), MTU: 1400,
		Routes: []Route{{netip.MustParsePrefix("10.8.0.0/13"), netip.MustParseAddr("10.77.0.254")}},
		Custom: map[uint8][]byte{43: {1, 1, 7}, 224: []byte("rack 7")},
	}
}

func TestOptionsAreToldToWhoAsks(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Options = configured()
	s := newSetupAt(t, in, "10.77.0.1/24", nil)
	all := map[uint8]string{
		15: "7261636b2e6578616d706c65", 42: "0a4d0003", 26: "0578", 224: "7261636b2037", 43: "010107",
		119: "047261636b076578616d706c6500" + "076578616d706c6500",
		121: "0d0a08" + "0a4d00fe" + "00" + "0a4d0001", // the router is among them: who reads these forgets option 3
	}
	for _, c := range []struct {
		name string
		opts map[uint8][]byte
		want []uint8
		not  []uint8
	}{
		{"who asks for nothing in particular", nil, []uint8{15, 42, 26, 224, 43, 119, 121}, []uint8{249}},
		{"who asks for little", map[uint8][]byte{55: {6, 42}}, []uint8{42}, []uint8{15, 26, 224, 43, 119, 121, 249}},
		{"who asks for all", map[uint8][]byte{55: {15, 42, 26, 224, 43, 119, 121}}, []uint8{15, 42, 26, 224, 43, 119, 121}, []uint8{249}},
		{"Windows", map[uint8][]byte{55: {249, 26}}, []uint8{26}, []uint8{121, 15}},
		{"PXE firmware", map[uint8][]byte{55: {43, 26}, 60: []byte("PXEClient:Arch:00000:UNDI:002001"), 93: {0, 0}}, []uint8{26}, []uint8{43, 224}},
	} {
		c.opts = func() map[uint8][]byte {
			m := map[uint8][]byte{57: {5, 220}}
			for k, v := range c.opts {
				m[k] = v
			}
			return m
		}()
		d, _ := s.ask(t, packet{kind: discover, opts: c.opts})
		if d == nil {
			t.Fatalf("%s: silence", c.name)
		}
		for _, code := range c.want {
			if got := hex.EncodeToString(d.Options[code]); got != all[code] {
				t.Errorf("%s: option %d is %s, want %s", c.name, code, got, all[code])
			}
		}
		for _, code := range c.not {
			if d.Options[code] != nil {
				t.Errorf("%s: option %d is %x", c.name, code, d.Options[code])
			}
		}
		for _, code := range []uint8{53, 54, 51, 1, 3} {
			if d.Options[code] == nil {
				t.Errorf("%s: option %d is missing", c.name, code)
			}
		}
		if asked := bytes.IndexByte(c.opts[55], 249) >= 0; asked && hex.EncodeToString(d.Options[249]) != all[121] {
			t.Errorf("%s: option 249 is %x", c.name, d.Options[249])
		}
	}
	if d, _ := newSetup(t, ModeDHCP).ask(t, packet{kind: discover, opts: map[uint8][]byte{55: {15, 42, 26, 119, 121, 249}}}); d.Options[15] != nil || d.Options[42] != nil ||
		d.Options[26] != nil || d.Options[119] != nil || d.Options[121] != nil || d.Options[249] != nil {
		t.Errorf("told what nobody has configured: %s", d.Summary())
	}
}

// What does not fit is left out, the least needed first; a long option goes as
// several (RFC 3396).
func TestLongReplies(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Options = configured()
	in.Options.Custom[225] = bytes.Repeat([]byte{9}, 300)
	s := newSetupAt(t, in, "10.77.0.1/24", nil)
	size := func(opts map[uint8][]byte) (int, *dhcpv4.DHCPv4) {
		req, drop := parseRequest(packet{kind: discover, opts: opts}.bytes(), netip.AddrPort{})
		if drop != "" {
			t.Fatal(drop)
		}
		out, ok := s.responder(s.link).answer(t.Context(), req)
		if !ok {
			t.Fatal("silence")
		}
		d, err := dhcpv4.FromBytes(out.packet)
		if err != nil {
			t.Fatal(err)
		}
		return len(out.packet), d
	}
	if n, d := size(map[uint8][]byte{57: {5, 220}}); n > 1472 || !bytes.Equal(d.Options[225], in.Options.Custom[225]) {
		t.Errorf("%d bytes, option 225 of %d", n, len(d.Options[225]))
	}
	if n, d := size(nil); n > minReplySize || d.Options[225] != nil || d.Options[119] == nil || d.Options[6] == nil {
		t.Errorf("%d bytes: %s", n, d.Summary())
	}
	in.Options.Custom[43] = bytes.Repeat([]byte{8}, 600) // which is told to systems alone
	s = newSetupAt(t, in, "10.77.0.1/24", nil)
	if n, d := size(nil); n > minReplySize || d.Options[43] != nil || d.Options[119] == nil || d.Options[6] == nil {
		t.Errorf("%d bytes: %s", n, d.Summary())
	}
	if n, d := size(map[uint8][]byte{57: {5, 220}}); n > 1472 || !bytes.Equal(d.Options[43], in.Options.Custom[43]) {
		t.Errorf("%d bytes, option 43 of %d", n, len(d.Options[43]))
	}
	in.Options.Search = []string{strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + ".example", "x.example", strings.Repeat("c", 60) + ".example"}
	s = newSetupAt(t, in, "10.77.0.1/24", nil)
	if n, d := size(map[uint8][]byte{61: bytes.Repeat([]byte{1}, 100)}); n > minReplySize || d.Options[119] != nil || d.Options[6] == nil || d.Options[121] == nil || d.Options[3] == nil {
		t.Errorf("%d bytes: %s", n, d.Summary())
	}
}

func TestOptionValues(t *testing.T) {
	for s, want := range map[string]string{
		"text:lab": "6c6162", "text:a:b": "613a62", "ip:10.0.0.1": "0a000001", "ip:10.0.0.1+10.0.0.2": "0a0000010a000002", "hex:0A 0b:0c": "0a0b0c",
		"u8:255": "ff", "u16:1500": "05dc", "u32:3600": "00000e10", "flag:true": "01", "flag:0": "00",
	} {
		if b, err := ParseOption(s); err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%s: %x, %v; want %s", s, b, err, want)
		}
	}
	for _, s := range []string{"", "lab", "text:", "ip:", "ip:::1", "hex:0", "hex:xx", "u8:256", "u16:-1", "u32:4294967296", "flag:maybe", "text:" + strings.Repeat("x", 1025)} {
		if b, err := ParseOption(s); err == nil {
			t.Errorf("%.30s is taken: %x", s, b)
		}
	}
	for code, ok := range map[int]bool{0: false, 1: false, 3: false, 6: false, 12: true, 43: true, 51: false, 53: false, 54: false, 61: false, 62: true, 66: false, 67: false, 82: false,
		121: false, 150: true, 224: true, 254: true, 255: false, -1: false, 300: false} {
		if err := CheckOption(code); (err == nil) != ok {
			t.Errorf("option %d: %v", code, err)
		}
	}
}

// FuzzOptionValue: what is taken fits an option, and domains and routes that are
// taken are of a form that clients read.
func FuzzOptionValue(f *testing.F) {
	for _, s := range []string{"text:lab", "ip:10.0.0.1+10.0.0.2", "hex:0a0b", "u16:1500", "10.8.0.0/16 via 10.77.0.254", "rack.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := ParseOption(s); err == nil && (len(b) == 0 || len(b) > maxCustom) {
			t.Fatalf("%q makes %d bytes", s, len(b))
		}
		if r, err := ParseRoute(s); err == nil {
			if back, err := ParseRoute(r.String()); err != nil || back != r || len(classless([]Route{r}, netip.Addr{})) > 9 {
				t.Fatalf("%q is %v", s, r)
			}
		}
		if ValidateDomain(s) == nil {
			for b := searchList([]string{s}); b[0] != 0; b = b[1+int(b[0]):] {
				if b[0] > 63 || int(b[0]) >= len(b) {
					t.Fatalf("%q is encoded as %x", s, b)
				}
			}
		}
	})
}

// A real client takes what was configured for what it is.
func TestUdhcpcReadsTheOptions(t *testing.T) {
	w := newWire(t)
	in := testInterface(ModeDHCP)
	in.Options = configured()
	s := newSetupAt(t, in, "10.77.0.1/24", nil)
	w.start(s)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1 $domain|$search|$ntpsrv|$mtu|$staticroutes\" >> "+script+".out\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.inside("udhcpc", "-i", "v1", "-n", "-q", "-f", "-t", "5", "-T", "2", "-s", script, "-O", "search", "-O", "ntpsrv", "-O", "mtu", "-O", "staticroutes", "-O", "domain")
	got, err := os.ReadFile(script + ".out")
	want := "bound rack.example|rack.example example|10.77.0.3|1400|10.8.0.0/13 10.77.0.254 0.0.0.0/0 10.77.0.1\n"
	if err != nil || !strings.Contains(string(got), want) {
		t.Errorf("%v, told\n%swant\n%s", err, got, want)
	}
}
