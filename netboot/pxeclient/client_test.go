package pxeclient

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// script is a Network of which only HTTP works: it serves texts by URL.
type script map[string]string

func (s script) HTTP(_ context.Context, url string) ([]byte, error) {
	if text, ok := s[url]; ok {
		return []byte(text), nil
	}
	return nil, errors.New(url + ": not found")
}
func (script) SendDHCP(context.Context, []byte, netip.AddrPort) error { return nil }
func (script) ReceiveDHCP(ctx context.Context) ([]byte, error)        { <-ctx.Done(); return nil, ctx.Err() }
func (script) Configure(context.Context, netip.Prefix) error          { return nil }
func (script) TFTP(context.Context, netip.Addr, string) ([]byte, error) {
	return nil, errors.New("no TFTP here")
}

func TestScriptsAreUnderstood(t *testing.T) {
	for _, c := range []struct {
		name     string
		shape    Shape
		text     string
		outcome  Outcome
		drive    int
		cmdline  string
		complain string
	}{
		{"kernel and initrd", IPXE, "kernel http://n/k a=${netX/mac} b\ninitrd --name initrd http://n/i\nboot", Kernel, 0, "a=52:54:00:00:00:0a b", ""},
		{"kernel that is not there", IPXE, "kernel http://n/x || goto local\nboot\n:local\nsanboot --drive 0x80", Disk, 0x80, "", ""},
		{"kernel that is not there and nobody cares", IPXE, "kernel http://n/x\nboot", Failed, 0, "", ""},
		{"boot without kernel", IPXE, "boot || goto a\nexit\n:a\nsanboot --no-describe --drive 0x81", Disk, 0x81, "", ""},
		{"on UEFI", IPXEUEFI, "iseq ${platform} efi && exit 1 ||\nsanboot --drive 0x80", Disk, 0, "", ""},
		{"on a BIOS", IPXE, "iseq ${platform} efi && exit 1 ||\nsanboot --drive 0x80", Disk, 0x80, "", ""},
		{"unset names are empty", IPXE, "iseq x${nothing}y xy && sanboot --drive 0x82", Disk, 0x82, "", ""},
		{"the end is reached", IPXE, "echo bye", Failed, 0, "", ""},
		{"comments, labels, empty lines", IPXE, "# a\n:b\n\nimgfree\nsanboot --drive 0x80", Disk, 0x80, "", ""},
		{"a circle", IPXE, ":a\ngoto a", "", 0, "", "round for ever"},
		{"scripts in a circle", IPXE, "chain --replace http://n/s", "", 0, "", "in a circle"},
		{"a label that is not there", IPXE, "goto nowhere", "", 0, "", `no label "nowhere"`},
		{"a command nobody knows", IPXE, "login", "", 0, "", `command "login"`},
		{"a drive that is none", IPXE, "sanboot --drive zero", "", 0, "", "sanboot"},
		{"kernel of nothing", IPXE, "kernel", "", 0, "", "kernel without URL"},
	} {
		net := script{"http://n/s": "#!ipxe\n" + c.text, "http://n/k": "K", "http://n/i": "I"}
		in := interpreter{client: &Client{Shape: c.shape, Net: net}, vars: map[string]string{"netX/mac": "52:54:00:00:00:0a", "platform": (&Client{Shape: c.shape}).platform()}}
		err := in.chain(t.Context(), "http://n/s")
		if c.complain != "" {
			if err == nil || !strings.Contains(err.Error(), c.complain) {
				t.Errorf("%s: %v, want %q", c.name, err, c.complain)
			}
			continue
		}
		if err != nil || in.outcome != c.outcome || in.drive != c.drive || in.cmdline != c.cmdline {
			t.Errorf("%s: %v, outcome %q, drive %#x, arguments %q", c.name, err, in.outcome, in.drive, in.cmdline)
		}
	}
	in := interpreter{client: &Client{Net: script{"http://n/s": "<html>"}}}
	if err := in.chain(t.Context(), "http://n/s"); err == nil || !strings.Contains(err.Error(), "no iPXE script") {
		t.Errorf("a web page as script: %v", err)
	}
}

func TestSilenceIsAnError(t *testing.T) {
	hw, err := net.ParseMAC("52:54:00:00:00:0a")
	if err != nil {
		t.Fatal(err)
	}
	c := Client{Shape: UEFI, MAC: hw, Net: script{}, Timeout: time.Millisecond, Retries: 2}
	if _, err := c.Boot(t.Context()); !errors.Is(err, errSilence) {
		t.Errorf("nobody answers: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Boot(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// server answers each DISCOVER from the nth on and each REQUEST, at once.
type server struct {
	script
	from    int
	refuses bool
	in      chan []byte
	seen    []*dhcpv4.DHCPv4
}

func (s *server) SendDHCP(_ context.Context, b []byte, _ netip.AddrPort) error {
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err
	}
	s.seen = append(s.seen, p)
	if len(s.seen) < s.from {
		return nil
	}
	kind := dhcpv4.MessageTypeOffer
	if p.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
		if s.refuses {
			kind = dhcpv4.MessageTypeNak
		}
	}
	p.OpCode, p.YourIPAddr = dhcpv4.OpcodeBootReply, net.IPv4(10, 77, 0, 9)
	p.Options = dhcpv4.Options{53: {byte(kind)}, 54: {10, 77, 0, 1}, 1: {255, 255, 255, 0}, 67: []byte("x")}
	s.in <- p.ToBytes()
	return nil
}

func (s *server) ReceiveDHCP(ctx context.Context) ([]byte, error) {
	select {
	case b := <-s.in:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestStepsAreToldWithWhatWasSentAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		shape Shape
		flags uint16
	}{
		{"BIOS hears what is sent to its card alone", BIOS, 0},
		{"UEFI asks for a broadcast", UEFI, 0x8000},
		{"so does the agent", Agent, 0x8000},
	} {
		net := &server{from: 3, in: make(chan []byte, 1)}
		var steps []Step
		var waits []int
		cl := Client{Shape: c.shape, MAC: []byte{2, 0, 0, 0, 0, 1}, Net: net, Unicast: true, Told: func(s Step) { steps = append(steps, s) },
			Wait: func(shape Shape, try int) time.Duration {
				waits = append(waits, try)
				return time.Duration(try+1) * time.Millisecond
			}}
		if _, err := cl.DHCP(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if len(steps) != 2 || steps[0].Name != StepOffer || steps[0].Again != 2 || steps[0].Took < 3*time.Millisecond || steps[1].Name != StepAck || steps[1].Again != 0 {
			t.Errorf("%s: told %+v", c.name, steps)
		}
		if !slices.Equal(waits, []int{0, 1, 2, 0}) {
			t.Errorf("%s: waited for transmissions %v", c.name, waits)
		}
		if p := net.seen[0]; p.Flags != c.flags {
			t.Errorf("%s: flags %#x", c.name, p.Flags)
		}
	}
	// What cannot be had is told as well.
	var failed []Step
	cl := Client{Shape: UEFI, MAC: []byte{2, 0, 0, 0, 0, 1}, Net: script{}, Timeout: time.Millisecond, Retries: 2, Told: func(s Step) { failed = append(failed, s) }}
	if _, err := cl.DHCP(t.Context()); err == nil || len(failed) != 1 || failed[0].Again != 2 || !errors.Is(failed[0].Err, errSilence) {
		t.Errorf("silence is told as %+v", failed)
	}
}

// Firmware ends at a NAK (EDK2, DhcpHandleRequest), and iPXE of 2019 goes on asking.
func TestARefusalIsWhatTheClientMakesOfIt(t *testing.T) {
	for shape, sends := range map[Shape]int{UEFI: 2, Agent: 2, System: 2, IPXE: 1 + 3} {
		net := &server{refuses: true, in: make(chan []byte, 8)}
		cl := Client{Shape: shape, MAC: []byte{2, 0, 0, 0, 0, 1}, Net: net, Timeout: 5 * time.Millisecond, Retries: 2}
		_, err := cl.DHCP(t.Context())
		if err == nil || len(net.seen) != sends || errors.Is(err, errSilence) != (shape == IPXE) {
			t.Errorf("%s sent %d packets, want %d, and says: %v", shape, len(net.seen), sends, err)
		}
	}
}

// stamped says itself when packets were on the wire.
type stamped struct {
	server
	clock time.Time
}

func (s *stamped) Sent() time.Time { return s.clock }
func (s *stamped) Came() time.Time { return s.clock.Add(20 * time.Millisecond) }

func TestAStepTakesWhatItTookOnTheWire(t *testing.T) {
	net := &stamped{server: server{in: make(chan []byte, 1)}, clock: time.Unix(1700000000, 0)}
	var took []time.Duration
	cl := Client{Shape: Agent, MAC: []byte{2, 0, 0, 0, 0, 1}, Net: net, Told: func(s Step) { took = append(took, s.Took) }}
	if _, err := cl.DHCP(t.Context()); err != nil || !slices.Equal(took, []time.Duration{20 * time.Millisecond, 20 * time.Millisecond}) {
		t.Errorf("%v: took %s", err, took)
	}
}

// UEFI has its offer at once and goes on collecting others.
func TestOffersAreCollectedForAsLongAsTheFirmwareDoes(t *testing.T) {
	const long = 50 * time.Millisecond
	net := &server{in: make(chan []byte, 1)}
	var offer, ack time.Duration
	began := time.Now()
	cl := Client{Shape: UEFI, MAC: []byte{2, 0, 0, 0, 0, 1}, Net: net, Collect: func(Shape) time.Duration { return long }, Told: func(s Step) {
		if s.Name == StepOffer {
			offer = s.Took
		} else {
			ack = time.Since(began)
		}
	}}
	if _, err := cl.DHCP(t.Context()); err != nil || offer >= long || ack < long {
		t.Errorf("%v: an offer after %s, taken after %s", err, offer, ack)
	}
}

func TestUUIDAsIPXEPrintsIt(t *testing.T) {
	u := [16]byte{0x78, 0x56, 0x34, 0x12, 0xcd, 0xab, 0xef, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8}
	if got := uuidText(u); got != "12345678-abcd-cdef-0102-030405060708" {
		t.Error(got)
	}
}

// FuzzScript: a script from the network cannot hang or panic the client.
func FuzzScript(f *testing.F) {
	f.Add("kernel http://n/k a=${x} || goto l\nboot\n:l\nsanboot --drive 0x80")
	f.Add("chain http://n/s && || &&\n${${}}")
	f.Fuzz(func(t *testing.T, text string) {
		in := interpreter{client: &Client{Net: script{"http://n/s": "#!ipxe\n" + text}}}
		if err := in.chain(t.Context(), "http://n/s"); err == nil && in.outcome == "" {
			t.Fatal("neither an outcome nor an error")
		}
	})
}

// FuzzAnswer: a packet from the network cannot panic the client.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := leaseOf(p)
		if err == nil && !l.Addr.IsValid() {
			t.Fatal("a lease without address")
		}
	})
}
