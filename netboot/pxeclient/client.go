// Package pxeclient is a machine's firmware written in Go: it asks for an
// address and a boot file the way BIOS and UEFI ROMs and iPXE do, loads the
// boot loader over TFTP or HTTP, and runs the iPXE script it is given as far as
// knowing what would be booted. Tests, checks of a running node and simulated
// fleets use it; it never touches a disk and runs nothing it fetched.
package pxeclient

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Shape is the kind of firmware to be.
type Shape string

// The shapes.
const (
	BIOS     Shape = "bios"      // a PXE ROM: loader over TFTP, then iPXE
	UEFI     Shape = "uefi"      // UEFI x86-64 PXE: loader over TFTP, then iPXE
	UEFIHTTP Shape = "uefi-http" // UEFI x86-64 HTTP boot: loader over HTTP, then iPXE
	IPXE     Shape = "ipxe"      // iPXE is in the card's ROM
	IPXEUEFI Shape = "ipxe-uefi" // the same under UEFI
	System   Shape = "system"    // a DHCP client that boots nothing
	Agent    Shape = "agent"     // the agent, once it runs: it boots nothing either
)

// What a client does on its way, as Step.Name has it.
const (
	StepOffer  = "offer"  // from the first DISCOVER to an OFFER
	StepAck    = "ack"    // from the first REQUEST to the ACK
	StepLoader = "loader" // the boot loader, over TFTP or HTTP
	StepScript = "script"
	StepKernel = "kernel"
	StepInitrd = "initrd"
)

// Step is one thing a client has done, or failed to do.
type Step struct {
	Name  string
	Shape Shape // of who did it: the firmware, the iPXE it loaded
	Took  time.Duration
	Again int // packets that had to be sent once more
	Err   error
}

// Network is the wire as a client sees it.
type Network interface {
	// SendDHCP sends a packet from the client's port 68.
	SendDHCP(ctx context.Context, packet []byte, to netip.AddrPort) error
	// ReceiveDHCP waits for the next packet to port 68, anybody's.
	ReceiveDHCP(ctx context.Context) ([]byte, error)
	// Configure gives the client an address, before it uses TFTP or HTTP.
	Configure(ctx context.Context, addr netip.Prefix) error
	// TFTP reads a file.
	TFTP(ctx context.Context, server netip.Addr, name string) ([]byte, error)
	// HTTP reads a URL answered with 200.
	HTTP(ctx context.Context, url string) ([]byte, error)
}

// Stamped is a Network that knows when a packet came. Who plays a thousand machines
// in one process comes to each of them late, which is no time that a server took.
type Stamped interface {
	// Sent is when the packet that SendDHCP was given last went on the wire, and Came
	// when the one was there that ReceiveDHCP has returned last.
	Sent() time.Time
	Came() time.Time
}

// Client is one machine. The zero values of the optional fields are usable.
type Client struct {
	Shape Shape
	MAC   net.HardwareAddr
	UUID  [16]byte // as SMBIOS keeps it; all zero sends none
	Net   Network

	Timeout   time.Duration // optional: for one answer, 2 s
	Retries   int           // optional: how often an unanswered packet is sent again, 3
	ProxyWait time.Duration // optional: how long to wait for a proxyDHCP beside an offer without boot file, 1 s
	Hint      netip.Addr    // optional: address to ask for

	Wait    func(shape Shape, try int) time.Duration // optional: for an answer to that transmission, counted from 0; in place of Timeout
	Collect func(Shape) time.Duration                // optional: how long to collect offers before one is taken, as UEFI does
	Unicast bool                                     // the card hears what is sent to it alone before it has an address, as real ones do: BIOS and iPXE then ask for no broadcast
	Told    func(Step)                               // optional: called after every step
	Now     func() time.Time                         // optional: time.Now
}

// now is the client's clock.
func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// wait is how long to wait for an answer to a transmission.
func (c *Client) wait(try int) time.Duration {
	if c.Wait != nil {
		return c.Wait(c.Shape, try)
	}
	return or(c.Timeout, 2*time.Second)
}

// waited is how long the answer that was received last took, of a step that began then.
func (c *Client) waited(began time.Time) time.Duration {
	if n, ok := c.Net.(Stamped); ok {
		return n.Came().Sub(began)
	}
	return c.now().Sub(began)
}

// sent is when the packet that was sent last went.
func (c *Client) sent() time.Time {
	if n, ok := c.Net.(Stamped); ok {
		return n.Sent()
	}
	return c.now()
}

// tell ends a step.
func (c *Client) tell(name string, took time.Duration, again int, err error) {
	if c.Told != nil {
		c.Told(Step{Name: name, Shape: c.Shape, Took: took, Again: again, Err: err})
	}
}

// Lease is what DHCP gave.
type Lease struct {
	Addr     netip.Prefix
	Server   netip.Addr // option 54
	Router   netip.Addr
	Duration time.Duration
	Next     netip.Addr // where the boot file is: siaddr
	File     string     // boot file name or URL; empty when none was told
	Proxy    netip.Addr // the proxyDHCP that told it; invalid when the server did
}

// Outcome is what the machine would do in the end.
type Outcome string

// The outcomes.
const (
	Kernel Outcome = "kernel" // boot a kernel it has fetched
	Disk   Outcome = "disk"   // boot a disk: sanboot, or leaving to UEFI's boot order
	Failed Outcome = "failed" // the script left with an error before it had decided
)

// Result is a whole boot.
type Result struct {
	Firmware Lease // of the firmware's own DHCP; the same as Loader for iPXE in ROM
	Loader   Lease // of iPXE's DHCP
	NBP      []byte
	Script   string // the last script that ran
	Outcome  Outcome
	Cmdline  string
	Kernel   []byte
	Initrd   []byte
	Drive    int // BIOS drive number of sanboot, 0x80 and up
}

// ErrNoBootFile says that DHCP gave an address and nothing to boot.
var ErrNoBootFile = errors.New("no boot file was offered")

// Boot goes from power-on to the decision what to boot.
func (c *Client) Boot(ctx context.Context) (Result, error) {
	var res Result
	var err error
	if res.Firmware, err = c.DHCP(ctx); err != nil {
		return res, fmt.Errorf("%s: %w", c.Shape, err)
	}
	if res.Firmware.File == "" {
		return res, fmt.Errorf("%s: %w", c.Shape, ErrNoBootFile)
	}
	ipxe := *c
	switch c.Shape {
	case IPXE, IPXEUEFI:
		res.Loader = res.Firmware
	case BIOS, UEFI, UEFIHTTP:
		began := c.now()
		if c.Shape == UEFIHTTP {
			res.NBP, err = c.Net.HTTP(ctx, res.Firmware.File)
		} else {
			res.NBP, err = c.Net.TFTP(ctx, res.Firmware.Next, res.Firmware.File)
		}
		c.tell(StepLoader, c.now().Sub(began), 0, err)
		if err != nil {
			return res, fmt.Errorf("%s: load %s: %w", c.Shape, res.Firmware.File, err)
		}
		ipxe.Shape = IPXEUEFI
		if c.Shape == BIOS {
			ipxe.Shape = IPXE
		}
		if res.Loader, err = ipxe.DHCP(ctx); err != nil {
			return res, fmt.Errorf("iPXE after %s: %w", c.Shape, err)
		}
	default:
		return res, fmt.Errorf("shape %q boots nothing", c.Shape)
	}
	// What a loop looks like: a loader that is told to load itself.
	if u, err := url.Parse(res.Loader.File); err != nil || u.Scheme != "http" {
		return res, fmt.Errorf("iPXE was told to boot %q: want the URL of a script", res.Loader.File)
	}
	s := interpreter{client: &ipxe, vars: map[string]string{
		"netX/mac": c.MAC.String(), "net0/mac": c.MAC.String(), "uuid": uuidText(c.UUID), "platform": ipxe.platform(), "buildarch": ipxe.buildarch(),
	}}
	if err := s.chain(ctx, res.Loader.File); err != nil {
		return res, fmt.Errorf("iPXE: %w", err)
	}
	res.Script, res.Outcome, res.Cmdline, res.Drive = s.script, s.outcome, s.cmdline, s.drive
	res.Kernel, res.Initrd = s.kernel, s.initrd
	return res, nil
}

func (c *Client) platform() string {
	if c.Shape == BIOS || c.Shape == IPXE {
		return "pcbios"
	}
	return "efi"
}

// buildarch is what this iPXE was built for: undionly.kpxe is a program of 32 bits.
func (c *Client) buildarch() string {
	if c.platform() == "pcbios" {
		return "i386"
	}
	return "x86_64"
}

// uuidText is how iPXE prints a UUID: the fields SMBIOS keeps little-endian
// turned round.
func uuidText(u [16]byte) string {
	s := hex.EncodeToString([]byte{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6]}) + hex.EncodeToString(u[8:])
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
