package netboot

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// pair is two nodes of one network, each with its half of the range.
type pair struct {
	t        *testing.T
	nodes    [2]*setup
	near     [2]*beside
	stop     [2]func()
	boot     booter
	inShares [2]Range
}

func newPair(t *testing.T, w *wire) *pair {
	p := &pair{t: t, inShares: [2]Range{span("10.77.0.100", "10.77.0.149"), span("10.77.0.150", "10.77.0.199")}}
	for i, self := range []string{"a", "b"} {
		p.near[i] = &beside{self: self, alive: []string{"a", "b"}, urls: []string{fmt.Sprintf("https://10.77.0.%d:80", 2-i)},
			share: Share{Blocks: []Block{{Range: p.inShares[i]}}, Heard: time.Unix(1700000000, 0)}}
		in := testInterface(ModeDHCP)
		in.Router = netip.MustParseAddr("10.77.0.254")
		in.Name = []string{"br0", "b1"}[i]
		p.nodes[i] = newSetupAt(t, in, fmt.Sprintf("10.77.0.%d/24", i+1), p.near[i])
		p.stop[i] = func() {}
	}
	if w == nil {
		gone := [2]bool{}
		p.boot = func(shape pxeclient.Shape, mac string) (pxeclient.Result, error) {
			hw, err := net.ParseMAC(mac)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			n := &simPair{}
			for i, s := range p.nodes {
				if !gone[i] {
					n.all = append(n.all, s.sim(mac))
				}
			}
			c := pxeclient.Client{Shape: shape, MAC: hw, UUID: testUUID, Net: n, Timeout: 100 * time.Millisecond, ProxyWait: 50 * time.Millisecond}
			return c.Boot(ctx)
		}
		for i := range p.stop {
			p.stop[i] = func() { gone[i] = true }
		}
		return p
	}
	w.second("b1", "10.77.0.2/24")
	for i, s := range p.nodes {
		p.stop[i] = w.start(s)
	}
	p.boot = w.boot
	return p
}

// simPair is a wire of function calls with several nodes on it.
type simPair struct{ all []*simNet }

func (n *simPair) SendDHCP(ctx context.Context, packet []byte, to netip.AddrPort) error {
	for _, one := range n.all {
		if err := one.SendDHCP(ctx, packet, to); err != nil {
			return err
		}
	}
	return nil
}

func (n *simPair) ReceiveDHCP(ctx context.Context) ([]byte, error) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		for _, one := range n.all {
			select {
			case b := <-one.in:
				return b, nil
			default:
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (n *simPair) Configure(ctx context.Context, p netip.Prefix) error {
	for _, one := range n.all {
		if err := one.Configure(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// at is the node with that address.
func (n *simPair) at(text string) (*simNet, error) {
	for _, one := range n.all {
		if strings.Contains(text+"/", one.s.link.addr.String()+"/") || strings.Contains(text, one.s.link.addr.String()+":") {
			return one, nil
		}
	}
	return nil, fmt.Errorf("nobody is at %s", text)
}

func (n *simPair) TFTP(ctx context.Context, server netip.Addr, name string) ([]byte, error) {
	one, err := n.at(server.String())
	if err != nil {
		return nil, err
	}
	return one.TFTP(ctx, server, name)
}

func (n *simPair) HTTP(ctx context.Context, url string) ([]byte, error) {
	one, err := n.at(url)
	if err != nil {
		return nil, err
	}
	return one.HTTP(ctx, url)
}

// Two nodes on one wire: each answers its part of the machines, with addresses of
// its own share; when one is gone the other answers for it, and the agent knows
// both from the beginning.
func TestTwoNodesOnOneWire(t *testing.T) {
	test := func(t *testing.T, p *pair) {
		seen := map[netip.Addr]string{}
		boots := func(mac string, by int) {
			t.Helper()
			res, err := p.boot(pxeclient.BIOS, mac)
			if err != nil || res.Outcome != pxeclient.Kernel || !bytes.Equal(res.Kernel, testFiles[FileKernel].Data) {
				t.Fatalf("%s: %s, %v", mac, res.Outcome, err)
			}
			addr := res.Loader.Addr.Addr()
			if !p.inShares[by].Contains(addr) || res.Firmware.Addr.Addr() != addr {
				t.Errorf("%s has %s and then %s, want them of %s", mac, res.Firmware.Addr, addr, p.inShares[by])
			}
			if other, taken := seen[addr]; taken && other != mac {
				t.Errorf("%s and %s have %s", mac, other, addr)
			}
			seen[addr] = mac
			own, other := fmt.Sprintf("lpmos.node=https://10.77.0.%d:80", by+1), fmt.Sprintf("lpmos.node=https://10.77.0.%d:80", 2-by)
			if !strings.Contains(res.Cmdline, own+" "+other+" lpmos.mac=") {
				t.Errorf("the agent is told %s", res.Cmdline)
			}
		}
		for i := range 2 {
			boots(macFor("a", i), 0)
			boots(macFor("b", i), 1)
		}
		if a, b := p.nodes[0].Stats(), p.nodes[1].Stats(); a["dhcp.offer"] != 4 || b["dhcp.offer"] != 4 {
			t.Errorf("offers: %d and %d, want 4 each: one of two nodes answers", a["dhcp.offer"], b["dhcp.offer"])
		}
		p.stop[1]()
		boots(macFor("b", 4), 0) // nobody has noticed yet
		p.near[0].change(func() { p.near[0].alive = []string{"a"} })
		before := p.nodes[0].Stats()["dhcp.discover"]
		boots(macFor("b", 5), 0)
		if n := p.nodes[0].Stats()["dhcp.discover"] - before; n != 2 {
			t.Errorf("%d DISCOVERs of firmware and loader: the other is known to be dead", n)
		}
	}
	t.Run("simulated", func(t *testing.T) { test(t, newPair(t, nil)) })
	t.Run("real", func(t *testing.T) { test(t, newPair(t, newWire(t))) })
}
