package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// heardOf keeps sightings.
type heardOf struct {
	mu  sync.Mutex
	all []Sighting
}

func (h *heardOf) add(s Sighting) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, s)
}

func (h *heardOf) of(k Kind) []Sighting {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Sighting
	for _, s := range h.all {
		if s.Kind == k {
			out = append(out, s)
		}
	}
	return out
}

var rogueCard = net.HardwareAddr{0x52, 0x54, 0, 0x66, 0x66, 0x66}

// frame is an answer of a server as it comes off the wire.
func frame(server, file string) []byte {
	return udpPacket(netip.AddrPortFrom(netip.MustParseAddr(server), 67), netip.MustParseAddrPort("255.255.255.255:68"), rogueOffer([4]byte{1}, rogueCard, server, file))
}

func TestS23_WhoIsARogueServer(t *testing.T) {
	for _, c := range []struct {
		name  string
		mode  Mode
		heard []string // "address file card"
		want  []string // what each alarm says
	}{
		{"nobody", ModeDHCP, nil, nil},
		{"another server", ModeDHCP, []string{"10.77.0.66 - 52:54:00:66:66:66"}, []string{"another DHCP server answers: 10.77.0.66 (card 52:54:00:66:66:66) on br0"}},
		{"one that boots machines", ModeDHCP, []string{"10.77.0.66 x.efi 52:54:00:66:66:66"}, []string{"tells machines what to boot: 10.77.0.66"}},
		{"this node's own answer", ModeDHCP, []string{"10.77.0.1 x 02:00:00:00:00:01"}, nil},
		{"this node's address from another card", ModeDHCP, []string{"10.77.0.1 x 52:54:00:66:66:66"}, []string{"in this node's name"}},
		{"another node", ModeDHCP, []string{"10.77.0.2 x 52:54:00:00:00:02", "10.77.0.3 x 52:54:00:00:00:03"}, nil},
		{"another node by its address of another network of the wire", ModeDHCP, []string{"10.78.0.2 - 52:54:00:00:00:02"}, nil},
		{"two others", ModeDHCP, []string{"10.77.0.66 - 52:54:00:66:66:66", "10.77.0.67 - 52:54:00:66:66:67"}, []string{"10.77.0.66", "10.77.0.67"}},
		{"the server a proxy works beside", ModeProxy, []string{"10.77.0.254 - 52:54:00:00:00:fe"}, nil},
		{"which says what to boot, too", ModeProxy, []string{"10.77.0.254 x 52:54:00:00:00:fe"}, []string{"take that out of its configuration"}},
		{"two of them", ModeProxy, []string{"10.77.0.254 - 52:54:00:00:00:fe", "10.77.0.66 - 52:54:00:66:66:66"}, []string{"another DHCP server answers: 10.77.0.66"}},
	} {
		others := &beside{self: "n1", urls: []string{"http://10.77.0.2:80", "http://10.78.0.2:80", "https://10.77.0.3:8080", "::"}}
		s := newSetupAt(t, testInterface(c.mode), "10.77.0.1/24", others)
		o := s.watch(s.link)
		for _, h := range c.heard {
			f := strings.Fields(h)
			hw, _ := net.ParseMAC(f[2])
			o.hear(frame(f[0], strings.TrimPrefix(f[1], "-")), hw)
			o.hear(frame(f[0], strings.TrimPrefix(f[1], "-")), hw)
		}
		got := s.Alarms()
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", c.name, got)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(got[i], want) {
				t.Errorf("%s: %q, want %q", c.name, got[i], want)
			}
		}
		// A node that had not been heard of yet is one in the end.
		others.urls = append(others.urls, "http://10.77.0.66:80", "http://10.77.0.67:80", "http://10.77.0.254:80", "http://10.77.0.1:80")
		if got := s.Alarms(); len(got) != 0 {
			t.Errorf("%s: alarms about nodes: %q", c.name, got)
		}
	}
}

// An alarm is told once in a while, ends when its cause is gone, and a flood of
// servers is no flood of anything.
func TestS23_AnAlarmEndsWithItsCause(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	var told heardOf
	s.sightings.notify = told.add
	o := s.watch(s.link)
	for range 9 { // nine minutes of probes
		o.hear(frame("10.77.0.66", ""), rogueCard)
		s.pass(probeEvery)
	}
	if n := len(told.of(KindAlarm)); n != 1 || len(s.Alarms()) != 1 {
		t.Errorf("told %d times, %d alarms", n, len(s.Alarms()))
	}
	s.pass(alarmLasts)
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("it has been silent for long: %q", got)
	}
	o.hear(frame("10.77.0.66", ""), rogueCard)
	if n := len(told.of(KindAlarm)); n != 2 {
		t.Errorf("it is back and was told of %d times", n)
	}
	for i := range 10_000 {
		o.hear(frame(fmt.Sprintf("10.77.%d.%d", i>>8, 1+i&127), ""), net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)})
	}
	if n := len(s.Alarms()); n > maxOthers {
		t.Errorf("%d alarms", n)
	}
	if n := len(told.of(KindAlarm)); n > maxOthers+2 {
		t.Errorf("told %d times", n)
	}
}

// Sixteen made-up servers do not hide one that gives addresses.
func TestS23_NoOtherHidesAServerThatLends(t *testing.T) {
	card := func(n int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 9, byte(n)} }
	at := func(n int) string { return fmt.Sprintf("10.77.0.%d", 200+n) }
	const real = "left to the DHCP server 10.77.0.66"
	for _, c := range []struct {
		name  string
		frame func(server string) []byte
		later time.Duration
	}{
		{"proxies", proxyFrame, 0},
		{"servers that have gone", func(server string) []byte { return frame(server, "") }, rivalGone},
	} {
		s := newSetup(t, ModeDHCP)
		o := s.watch(s.link)
		for n := range maxOthers {
			o.hear(c.frame(at(n)), card(n))
		}
		s.pass(c.later)
		if got := o.quiet(); got != "" {
			t.Fatalf("%s: quiet already: %s", c.name, got)
		}
		o.hear(frame("10.77.0.66", ""), rogueCard)
		if got := o.quiet(); got != real {
			t.Errorf("%s: quiet %q, want %q", c.name, got, real)
		}
		o.hear(proxyFrame(at(maxOthers)), card(maxOthers)) // one more takes nobody's place
		if got := s.Alarms(); len(got) != maxOthers || o.quiet() != real {
			t.Errorf("%s: %d alarms, quiet %q", c.name, len(got), o.quiet())
		}
	}
}

// A probe is a machine's honest question, a new one each time, and no node answers
// another's.
func TestS23_TheProbe(t *testing.T) {
	s := newSetupAt(t, testInterface(ModeDHCP), "10.77.0.1/24", nil)
	o := s.watch(s.link)
	seen := map[string]bool{}
	var payload []byte
	for range 20 {
		p := o.probe()
		if src, dst := [4]byte(p[12:16]), [4]byte(p[16:20]); src != s.link.addr.As4() || dst != everybody.As4() {
			t.Fatalf("from %v to %v", src, dst)
		}
		payload = p[28:]
		d, err := dhcpv4.FromBytes(payload)
		if err != nil || d.MessageType() != discover || !d.IsBroadcast() || d.ClientHWAddr[0]&3 != 2 {
			t.Fatalf("%v, %v", d, err)
		}
		seen[d.ClientHWAddr.String()] = true
	}
	if len(seen) != 20 {
		t.Errorf("20 probes came from %d cards", len(seen))
	}
	for _, mode := range []Mode{ModeDHCP, ModeProxy} {
		other := newSetupAt(t, testInterface(mode), "10.77.0.2/24", &beside{self: "n2", alive: []string{"n2"}, urls: []string{"http://10.77.0.1:80"}})
		req, drop := parseRequest(payload, netip.MustParseAddrPort("10.77.0.1:68"))
		if drop != "" {
			t.Fatal(drop)
		}
		r := other.responder(other.link)
		for _, answer := range []answerFunc{r.answer, r.proxyOffer} {
			if _, ok := answer(t.Context(), req); ok {
				t.Errorf("%s: a node answers another's probe", mode)
			}
		}
	}
}

func TestS23_ServersAnswersAreRead(t *testing.T) {
	good := frame("10.77.0.66", "x")
	if _, src, ok := parseServerReply(good); !ok || src != netip.MustParseAddr("10.77.0.66") {
		t.Fatal("a good answer cannot be read")
	}
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	for n := range uint16(28) { // GO-2026-6237: less than a UDP header behind the IP header
		if _, _, ok := parseServerReply(edit(func(b []byte) { binary.BigEndian.PutUint16(b[2:], n) })); ok {
			t.Errorf("a total length of %d was taken", n)
		}
	}
	for name, b := range map[string][]byte{
		"longer than it is": edit(func(b []byte) { binary.BigEndian.PutUint16(b[2:], uint16(len(b)+1)) }),
		"a header of 16":    edit(func(b []byte) { b[0] = 0x44 }),
		"a header of 60":    append([]byte{0x4f}, good[1:60]...),
		"IPv6":              edit(func(b []byte) { b[0] = 0x65 }),
		"TCP":               edit(func(b []byte) { b[9] = 6 }),
		"a fragment":        edit(func(b []byte) { b[6] = 0x20 }),
		"the rest of one":   edit(func(b []byte) { b[7] = 1 }),
		"UDP of 7":          edit(func(b []byte) { b[24], b[25] = 0, 7 }),
		"UDP of more":       edit(func(b []byte) { b[24], b[25] = 255, 255 }),
		"another port":      edit(func(b []byte) { b[23] = 69 }),
		"a request":         edit(func(b []byte) { b[28] = 1 }),
		"no cookie":         edit(func(b []byte) { b[28+236] = 0 }),
	} {
		if _, _, ok := parseServerReply(b); ok {
			t.Errorf("%s was taken", name)
		}
	}
	for n := range good {
		parseServerReply(good[:n]) // must return
	}
}

// FuzzServerReply: what is no server's answer is none, whatever lengths it claims.
func FuzzServerReply(f *testing.F) {
	f.Add(frame("10.77.0.66", "x.efi"))
	f.Add(frame("10.77.0.1", ""))
	f.Add(bytes.Repeat([]byte{0x45}, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _, ok := parseServerReply(b)
		if ok && (len(b) < 28+240 || s.OpCode != dhcpv4.OpcodeBootReply) {
			t.Fatalf("%x", b)
		}
	})
}
