package pxeclient

import (
	"context"
	"errors"
	"net"
	"net/netip"
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
