package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var card = net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 1}

// reply builds a server's answer to a query.
func reply(q []byte, kind byte, addr string, opts ...byte) []byte {
	b := make([]byte, dhcpFixed)
	copy(b, q[:dhcpFixed])
	b[0] = bootReply
	if addr != "" {
		copy(b[16:], netip.MustParseAddr(addr).AsSlice())
	}
	b = append(b, dhcpCookie[:]...)
	b = append(b, optType, 1, kind, optServer, 4, 10, 77, 0, 1)
	return append(append(b, opts...), 255)
}

func query(kind byte) []byte { return dhcpQuery{kind: kind, xid: 7, mac: card}.marshal() }

func TestADiscoverSaysWhoAsks(t *testing.T) {
	b := query(dhcpDiscover)
	if len(b) < dhcpMin || b[0] != 1 || binary.BigEndian.Uint16(b[10:]) != flagBcast || !bytes.Equal(b[28:34], card) {
		t.Fatalf("% x", b)
	}
	if !bytes.Contains(b, []byte(VendorClass)) || !bytes.Contains(b, append([]byte{optClientID, 7, 1}, card...)) {
		t.Fatal("no vendor class or client identifier")
	}
	renewing := dhcpQuery{kind: dhcpRequest, mac: card, client: netip.MustParseAddr("10.77.0.9")}.marshal()
	if binary.BigEndian.Uint16(renewing[10:]) != 0 || !bytes.Equal(renewing[12:16], []byte{10, 77, 0, 9}) {
		t.Fatal("a renewal is unicast and names the address in use")
	}
}

func TestWhatAnAckGives(t *testing.T) {
	mask, router := []byte{optMask, 4, 255, 255, 0, 0}, []byte{optRouter, 8, 10, 77, 0, 1, 10, 77, 0, 2}
	for _, tc := range []struct {
		name string
		opts []byte
		want Lease
	}{
		{"address, mask, router, lease", append(append(mask, router...), optLease, 4, 0, 0, 14, 16),
			Lease{Address: netip.MustParsePrefix("10.77.0.100/16"), Router: netip.MustParseAddr("10.77.0.1"), Time: time.Hour, Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second}},
		{"nothing but the address", nil, Lease{Address: netip.MustParsePrefix("10.77.0.100/24")}},
		{"a lease for ever", []byte{optLease, 4, 255, 255, 255, 255}, Lease{Address: netip.MustParsePrefix("10.77.0.100/24")}},
		{"a route list instead of a router", append(router, optRoutes, 13, 24, 10, 78, 0, 10, 77, 0, 3, 0, 10, 77, 0, 4),
			Lease{Address: netip.MustParsePrefix("10.77.0.100/24"), Router: netip.MustParseAddr("10.77.0.4")}},
		{"an option in two parts", append([]byte{optMask, 2, 255, 255}, optMask, 2, 0, 0), Lease{Address: netip.MustParsePrefix("10.77.0.100/16")}},
		{"a lease of no length worth speaking of", []byte{optLease, 4, 0, 0, 0, 1},
			Lease{Address: netip.MustParsePrefix("10.77.0.100/24"), Time: time.Minute, Renew: 30 * time.Second, Rebind: 52500 * time.Millisecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := parseDHCP(reply(query(dhcpRequest), dhcpAck, "10.77.0.100", tc.opts...))
			tc.want.Server = netip.MustParseAddr("10.77.0.1")
			got := r.lease
			if err != nil || got.Address != tc.want.Address || got.Router != tc.want.Router || got.Server != tc.want.Server ||
				got.Time != tc.want.Time || got.Renew != tc.want.Renew || got.Rebind != tc.want.Rebind {
				t.Fatalf("%+v, %v\nwant %+v", got, err, tc.want)
			}
		})
	}
}

func TestOptionsInTheNameFields(t *testing.T) {
	b := reply(query(dhcpRequest), dhcpAck, "10.77.0.100", optOverload, 1, 3)
	copy(b[108:], []byte{optRouter, 4, 10, 77, 0, 9, 255})
	copy(b[44:], []byte{optMask, 4, 255, 255, 255, 0, 255})
	if r, err := parseDHCP(b); err != nil || r.lease.Router != netip.MustParseAddr("10.77.0.9") {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestBadPacketsAreDropped(t *testing.T) {
	good := reply(query(dhcpRequest), dhcpAck, "10.77.0.100")
	for name, b := range map[string][]byte{
		"empty":              {},
		"cut":                good[:200],
		"no cookie":          append(bytes.Clone(good[:dhcpFixed]), 0, 0, 0, 0, 255),
		"a request":          query(dhcpRequest),
		"no type":            append(bytes.Clone(good[:dhcpFixed+4]), 255),
		"a cut option":       append(bytes.Clone(good[:len(good)-1]), 12, 200, 1),
		"address zero":       reply(query(dhcpRequest), dhcpAck, "0.0.0.0"),
		"address everywhere": reply(query(dhcpRequest), dhcpAck, "255.255.255.255"),
		"a mask with holes":  reply(query(dhcpRequest), dhcpAck, "10.0.0.1", optMask, 4, 255, 0, 255, 0),
		"a mask of nothing":  reply(query(dhcpRequest), dhcpAck, "10.0.0.1", optMask, 4, 0, 0, 0, 0),
	} {
		if r, err := parseDHCP(b); err == nil {
			t.Errorf("%s: accepted as %+v", name, r)
		}
	}
}

// onWire is a client whose servers are a function: it gets each packet and returns
// the replies, in order.
func onWire(t *testing.T, answer func(q []byte) [][]byte) *dhcpClient {
	t.Helper()
	listen := func() net.PacketConn {
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	server, client := listen(), listen()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, r := range answer(bytes.Clone(buf[:n])) {
				_, _ = server.WriteTo(r, from)
			}
		}
	}()
	return &dhcpClient{conn: client, to: server.LocalAddr(), iface: "eth0", mac: card, rand: func() uint32 { return 42 }, start: time.Now()}
}

// kindOf is option 53 of a query, which the client writes first.
func kindOf(q []byte) byte { return q[dhcpFixed+6] }

var patient = []time.Duration{5 * time.Second}

func TestAnAddressIsGotAmongStrangers(t *testing.T) {
	c := onWire(t, func(q []byte) [][]byte {
		stranger := reply(q, dhcpOffer, "10.77.0.66")
		stranger[33] = 9 // of another card
		old := reply(q, dhcpOffer, "10.77.0.67")
		old[4] = 9 // of another transaction
		switch kindOf(q) {
		case dhcpDiscover:
			return [][]byte{{1, 2, 3}, stranger, old, reply(q, dhcpAck, "10.77.0.68"), reply(q, dhcpOffer, "10.77.0.100"), reply(q, dhcpOffer, "10.77.0.101")}
		default:
			if !bytes.Contains(q, []byte{optAddress, 4, 10, 77, 0, 100}) || !bytes.Contains(q, []byte{optServer, 4, 10, 77, 0, 1}) {
				return nil
			}
			return [][]byte{reply(q, dhcpOffer, "10.77.0.101"), reply(q, dhcpAck, "10.77.0.100", optLease, 4, 0, 0, 14, 16)}
		}
	})
	l, err := c.discover(context.Background(), patient)
	if err != nil || l.Address.Addr() != netip.MustParseAddr("10.77.0.100") || l.Interface != "eth0" || l.Time != time.Hour {
		t.Fatalf("%+v %v", l, err)
	}
}

func TestALostDiscoverIsSentAgain(t *testing.T) {
	lost := 0
	c := onWire(t, func(q []byte) [][]byte {
		if kindOf(q) == dhcpDiscover {
			if lost++; lost == 1 {
				return nil
			}
			return [][]byte{reply(q, dhcpOffer, "10.77.0.100")}
		}
		return [][]byte{reply(q, dhcpAck, "10.77.0.100")}
	})
	if _, err := c.discover(context.Background(), []time.Duration{50 * time.Millisecond, 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
}

func TestSilenceAndRefusalsAreTold(t *testing.T) {
	silent := onWire(t, func([]byte) [][]byte { return nil })
	if _, err := silent.discover(context.Background(), []time.Duration{20 * time.Millisecond}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := silent.discover(ctx, patient); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	naks := onWire(t, func(q []byte) [][]byte {
		if kindOf(q) == dhcpDiscover {
			return [][]byte{reply(q, dhcpOffer, "10.77.0.100")}
		}
		return [][]byte{reply(q, dhcpNak, "")}
	})
	if _, err := naks.discover(context.Background(), patient); !errors.Is(err, errNak) {
		t.Errorf("refused: %v", err)
	}
}

func TestARenewalNamesTheAddressInUse(t *testing.T) {
	c := onWire(t, func(q []byte) [][]byte {
		if kindOf(q) != dhcpRequest || !bytes.Equal(q[12:16], []byte{10, 77, 0, 100}) || bytes.Contains(q[dhcpFixed:], []byte{optAddress, 4, 10, 77}) {
			return nil
		}
		return [][]byte{reply(q, dhcpAck, "10.77.0.100", optLease, 4, 0, 0, 14, 16)}
	})
	l := Lease{Interface: "eth0", MAC: card, Address: netip.MustParsePrefix("10.77.0.100/24")}
	if next, err := c.renew(context.Background(), l, c.to); err != nil || next.Address != l.Address {
		t.Fatalf("%+v %v", next, err)
	}
}

func FuzzDHCPReply(f *testing.F) {
	f.Add(reply(query(dhcpRequest), dhcpAck, "10.77.0.100", optLease, 4, 0, 0, 14, 16, optMask, 4, 255, 255, 255, 0))
	f.Add(reply(query(dhcpRequest), dhcpAck, "10.77.0.100", optOverload, 1, 3))
	f.Add(reply(query(dhcpRequest), dhcpNak, ""))
	f.Add([]byte(strings.Repeat("\xff", 300)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseDHCP(b)
		if err != nil || r.kind == dhcpNak {
			return
		}
		l := r.lease
		if !l.Address.IsValid() || l.Address.Bits() < 1 {
			t.Fatalf("address %v", l.Address)
		}
		if l.Time < 0 || l.Renew < 0 || l.Time > 0 && (l.Renew <= 0 || l.Rebind <= 0 || l.Rebind >= l.Time) {
			t.Fatalf("times %v %v %v", l.Time, l.Renew, l.Rebind)
		}
	})
}
