package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Network gets the machine an address and keeps it.
type Network struct {
	BootMAC string        // tried first; "" when the firmware did not say
	Rand    func() uint32 // transaction ids
	Say     Say
	// Rescan is called before each round, to load drivers of late comers.
	Rescan func()
}

// Transmissions of DISCOVER. Spanning tree can hold a switch port back for half
// a minute, so the boot interface gets several.
var (
	bootWaits  = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}
	otherWaits = []time.Duration{time.Second, 2 * time.Second}
)

// roundPause is the rest between two rounds over all interfaces.
const roundPause = 2 * time.Second

// Up tries the interface the firmware booted from, then every other one with a
// link, round after round, until a server has given an address and the interface
// is configured with it. It fails only when ctx ends.
func (n *Network) Up(ctx context.Context) (Lease, error) {
	for round := 1; ; round++ {
		if n.Rescan != nil {
			n.Rescan()
		}
		cards := n.cards(ctx)
		if len(cards) == 0 {
			n.Say("network: no network card found; is its driver in the boot image?")
		}
		for _, card := range cards {
			waits := otherWaits
			if card.HardwareAddr.String() == n.BootMAC {
				waits = bootWaits
			}
			l, err := n.acquire(ctx, card, waits)
			if err == nil {
				return l, nil
			}
			if ctx.Err() != nil {
				return Lease{}, ctx.Err()
			}
			if errors.Is(err, context.DeadlineExceeded) {
				err = errors.New("no DHCP server answered")
			}
			n.Say("network: %s (%s): %v; trying again", card.Name, card.HardwareAddr, err)
		}
		select {
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		case <-time.After(roundPause):
		}
	}
}

// cards brings every Ethernet card up and returns those worth asking on: the
// boot interface first, then those with a link. A link takes seconds to come up.
func (n *Network) cards(ctx context.Context) []net.Interface {
	deadline := time.Now().Add(5 * time.Second)
	for {
		cards := n.withLink()
		bootSeen := slices.ContainsFunc(cards, func(c net.Interface) bool { return c.HardwareAddr.String() == n.BootMAC })
		if bootSeen || (n.BootMAC == "" && len(cards) > 0) || time.Now().After(deadline) || ctx.Err() != nil {
			return cards
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *Network) withLink() []net.Interface {
	all, err := net.Interfaces()
	if err != nil {
		n.Say("network: %v", err)
		return nil
	}
	var cards []net.Interface
	for _, c := range all {
		if c.Flags&net.FlagLoopback != 0 || len(c.HardwareAddr) != 6 {
			continue
		}
		if _, err := os.Stat(filepath.Join("/sys/class/net", c.Name, "device")); err != nil {
			continue // no hardware behind it
		}
		if c.Flags&net.FlagUp == 0 {
			if err := linkUp(c.Name); err != nil {
				n.Say("network: %s does not come up: %v", c.Name, err)
				continue
			}
		}
		carrier, _ := os.ReadFile(filepath.Join("/sys/class/net", c.Name, "carrier"))
		if strings.TrimSpace(string(carrier)) == "1" {
			cards = append(cards, c)
		}
	}
	slices.SortStableFunc(cards, func(a, b net.Interface) int {
		return n.rank(a) - n.rank(b)
	})
	return cards
}

func (n *Network) rank(c net.Interface) int {
	if c.HardwareAddr.String() == n.BootMAC {
		return 0
	}
	return 1
}

// acquire asks on one card and configures it.
func (n *Network) acquire(ctx context.Context, card net.Interface, waits []time.Duration) (Lease, error) {
	c, err := n.client(ctx, card.Name, card.HardwareAddr)
	if err != nil {
		return Lease{}, err
	}
	defer func() { _ = c.conn.Close() }()
	l, err := c.discover(ctx, waits)
	if err != nil {
		return Lease{}, err
	}
	return l, configure(l)
}

// client opens a socket on one interface. An interface without an address
// neither routes nor chooses a source: SO_BINDTODEVICE stands in for both.
func (n *Network) client(ctx context.Context, iface string, mac net.HardwareAddr) (*dhcpClient, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1),
				syscall.BindToDevice(int(fd), iface),
			)
		})
		return errors.Join(err, failed)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
	if err != nil {
		return nil, fmt.Errorf("dhcp: socket on %s: %w", iface, err)
	}
	return &dhcpClient{
		conn: conn, to: &net.UDPAddr{IP: net.IPv4bcast, Port: 67},
		iface: iface, mac: mac, rand: n.Rand, start: time.Now(),
	}, nil
}

// Keep renews the lease at T1, asks every server at T2, and starts over when the
// lease has run out, until ctx ends.
func (n *Network) Keep(ctx context.Context, l Lease) {
	for l.Time > 0 {
		got := time.Now()
		next, err := n.extend(ctx, l, got)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			n.Say("network: the lease of %s was not renewed (%v); asking for a new one", l.Address.Addr(), err)
			if next, err = n.Up(ctx); err != nil {
				return
			}
		}
		if next.Address != l.Address {
			n.Say("network: the address is now %s", next.Address.Addr())
		}
		l = next
	}
}

// extend waits for T1 and then asks until a server answers or the time is up.
func (n *Network) extend(ctx context.Context, l Lease, got time.Time) (Lease, error) {
	wait := l.Renew
	for {
		select {
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		case <-time.After(wait):
		}
		next, err := n.renewOnce(ctx, l, time.Since(got) >= l.Rebind)
		if err == nil {
			return next, nil
		}
		left := l.Time - time.Since(got)
		if errors.Is(err, errNak) || left <= 0 {
			return Lease{}, err
		}
		wait = max(min(left/4, time.Minute), time.Second)
	}
}

func (n *Network) renewOnce(ctx context.Context, l Lease, anybody bool) (Lease, error) {
	c, err := n.client(ctx, l.Interface, l.MAC)
	if err != nil {
		return Lease{}, err
	}
	defer func() { _ = c.conn.Close() }()
	to := c.to
	if !anybody && l.Server.IsValid() {
		to = serverAddr(l.Server)
	}
	next, err := c.renew(ctx, l, to)
	if err != nil {
		return Lease{}, err
	}
	if !next.Server.IsValid() {
		next.Server = l.Server
	}
	if next.Address == l.Address {
		return next, nil
	}
	return next, configure(next)
}
