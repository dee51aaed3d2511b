package netboot

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// beside is what a node of a test knows of the others.
type beside struct {
	self  string
	mu    sync.Mutex
	alive []string
	share Share
	urls  []string
}

func (b *beside) Nodes(netip.AddrPort) []string { return b.urls }

func (b *beside) Addresses() (out []netip.Addr) {
	for _, u := range b.urls {
		_, rest, _ := strings.Cut(u, "://")
		if at, err := netip.ParseAddrPort(rest); err == nil {
			out = append(out, at.Addr())
		}
	}
	return out
}

func (b *beside) Answering(netip.Prefix, Mode) (string, []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.self, b.alive
}

func (b *beside) Share(netip.Prefix) Share {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.share
}

func (b *beside) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func span(first, last string) Range {
	return Range{netip.MustParseAddr(first), netip.MustParseAddr(last)}
}

func TestWhichNodeAnswersFirst(t *testing.T) {
	nodes := []string{"a", "b", "c"}
	count := map[string]int{}
	moved := 0
	for i := range 3000 {
		mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)
		by := Chosen(mac, nodes)
		count[by]++
		if Chosen(mac, []string{"c", "a", "b"}) != by {
			t.Fatal("the order in which nodes are known counts")
		}
		if by != "c" && Chosen(mac, []string{"a", "b"}) != by {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d machines changed their node although that was there all the time", moved)
	}
	for n, c := range count {
		if c < 900 || c > 1100 {
			t.Errorf("node %s answers %d of 3000 machines", n, c)
		}
	}
	if Chosen("x", nil) != "" {
		t.Error("chosen out of none")
	}
}

// macFor finds a machine that the node answers first.
func macFor(node string, nth int) string {
	for i := 0; ; i++ {
		mac := fmt.Sprintf("52:54:00:00:0c:%02x", i)
		if Chosen(mac, []string{"a", "b"}) == node {
			if nth--; nth < 0 {
				return mac
			}
		}
	}
}

func TestAMachineIsLeftToItsNodeAtFirst(t *testing.T) {
	for _, mode := range []Mode{ModeDHCP, ModeProxy} {
		near := &beside{self: "a", alive: []string{"a", "b"}, share: Share{Blocks: []Block{{Range: span("10.77.0.100", "10.77.0.149")}}, Heard: time.Unix(1700000000, 0)}}
		s := newSetupAt(t, testInterface(mode), "10.77.0.1/24", near)
		answered := func(mac string, secs uint16, opts map[uint8][]byte) bool {
			t.Helper()
			req, drop := parseRequest(packet{kind: discover, mac: mac, secs: secs, opts: opts}.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
			if drop != "" {
				t.Fatal(drop)
			}
			answer := s.responder(s.link).answer
			if mode == ModeProxy {
				answer = s.responder(s.link).proxyOffer
			}
			_, ok := answer(context.Background(), req)
			return ok
		}
		pxe := map[uint8][]byte{60: []byte("PXEClient:Arch:00000:UNDI:002001"), 93: {0, 0}}
		ipxe := map[uint8][]byte{60: []byte("PXEClient:Arch:00000:UNDI:002001"), 93: {0, 0}, 77: []byte("iPXE")}
		theirs := macFor("b", 0)
		if !answered(macFor("a", 0), 0, pxe) {
			t.Errorf("%s: its own machine is not answered", mode)
		}
		if answered(theirs, 3, pxe) {
			t.Errorf("%s: the other's machine is answered at its first try", mode)
		}
		if !answered(theirs, 3, pxe) {
			t.Errorf("%s: the other's machine asks in vain", mode)
		}
		if answered(theirs, 0, ipxe) {
			t.Errorf("%s: iPXE begins anew, and is answered at its first try", mode)
		}
		if !answered(macFor("b", 1), 4, pxe) {
			t.Errorf("%s: a machine that has waited for four seconds is not answered", mode)
		}
		late := macFor("b", 2)
		answered(late, 0, pxe)
		s.pass(triesWithin)
		if answered(late, 0, pxe) {
			t.Errorf("%s: a try of a minute ago counts", mode)
		}
		near.change(func() { near.alive = []string{"a"} })
		if !answered(macFor("b", 3), 0, pxe) {
			t.Errorf("%s: the other is dead, and its machines are left to it", mode)
		}
	}
}

func TestAMachineThatTookTheOthersOfferBeginsAnew(t *testing.T) {
	near := &beside{self: "a", alive: []string{"a", "b"}, share: Share{Blocks: []Block{{Range: span("10.77.0.100", "10.77.0.149")}}, Heard: time.Unix(1700000000, 0)}}
	s := newSetupAt(t, testInterface(ModeDHCP), "10.77.0.1/24", near)
	theirs := macFor("b", 0)
	s.ask(t, packet{kind: discover, mac: theirs})
	s.ask(t, packet{kind: reqst, mac: theirs, opts: map[uint8][]byte{54: ip4("10.77.0.2"), 50: ip4("10.77.0.160")}})
	if d, _ := s.ask(t, packet{kind: discover, mac: theirs}); d != nil {
		t.Error("answered: the other node has answered it a moment ago")
	}
}

func TestAFloodIsRememberedWithinBounds(t *testing.T) {
	var tr tries
	now := time.Unix(1700000000, 0)
	for i := range 3 * maxTries {
		tr.again(fmt.Sprint(i), now)
	}
	if len(tr.by) > maxTries {
		t.Errorf("%d machines are remembered", len(tr.by))
	}
	if !tr.again("new", now) {
		t.Error("a machine is left waiting because others were counted")
	}
	now = now.Add(triesWithin)
	if tr.again("new", now) || len(tr.by) != 1 {
		t.Errorf("%d machines are remembered for ever", len(tr.by))
	}
}

// The answers of a node that has a share of the range, where they differ from one
// that has all of it.
func TestANodeLendsFromItsShare(t *testing.T) {
	us := ip4("10.77.0.1")
	heard := time.Unix(1700000000, 0)
	selecting := func(mac, addr string) packet {
		return packet{kind: reqst, mac: mac, opts: map[uint8][]byte{54: us, 50: ip4(addr)}}
	}
	byRelay := func(addr string) packet { // RFC 5107: it says to all nodes that it is the server
		name := ip4("10.77.0.3")
		return packet{kind: reqst, giaddr: "10.77.0.3", opts: map[uint8][]byte{54: name, 50: ip4(addr), 82: append([]byte{11, 4}, name...)}}
	}
	mine := []packet{selecting(macA, "10.77.0.120")}
	wanted := func(n *beside) { n.share.Blocks[0].Wanted = true }
	gone := func(n *beside) { n.share.Blocks = n.share.Blocks[1:] }
	deaf := func(n *beside) { n.share.Heard = time.Time{} }
	for _, c := range []struct {
		name   string
		before []packet
		pass   time.Duration
		then   func(*beside)
		p      packet
		want   string // kind and address
	}{
		{"a wish in the other's share", nil, 0, nil, packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.160")}}, "OFFER 10.77.0.110"},
		{"a wish in the share", nil, 0, nil, packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.135")}}, "OFFER 10.77.0.135"},
		{"selecting in the other's share", nil, 0, nil, selecting(macA, "10.77.0.160"), "NAK"},
		{"selecting what another offered, in the name of a relay", nil, 0, nil, byRelay("10.77.0.160"), ""},
		{"selecting ours, in the name of a relay", nil, 0, nil, byRelay("10.77.0.120"), "ACK 10.77.0.120"},
		{"selecting in a block that is wanted", nil, 0, wanted, selecting(macA, "10.77.0.120"), "NAK"},
		{"a newcomer, one block is wanted", nil, 0, wanted, packet{kind: discover}, "OFFER 10.77.0.130"},
		{"whoever has an address of a wanted block is offered it again", mine, 0, wanted, packet{kind: discover}, "OFFER 10.77.0.120"},
		{"and renews it", mine, 0, wanted, packet{kind: reqst, ciaddr: "10.77.0.120", unicast: true}, "ACK 10.77.0.120"},
		{"but gets another when it had run out", mine, 2 * time.Hour, wanted, packet{kind: discover}, "OFFER 10.77.0.130"},
		{"it cannot be renewed once the block is yielded", mine, 2 * time.Hour, gone, packet{kind: reqst, ciaddr: "10.77.0.120"}, ""},
		{"another's client rebinds, which had one here long ago", mine, 2 * time.Hour, nil, packet{kind: reqst, ciaddr: "10.77.0.160"}, ""},
		{"another's client starts again, which had one here long ago", mine, 2 * time.Hour, nil, packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.77.0.160")}}, ""},
		{"one starts again with an address of the share that is not its own", mine, 0, nil, packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.77.0.121")}}, "NAK"},
		{"a newcomer, the others were not heard since the start", nil, 0, deaf, packet{kind: discover}, ""},
		{"a renewal, the others were not heard since the start", mine, 0, deaf, packet{kind: reqst, ciaddr: "10.77.0.120", unicast: true}, ""},
		{"a newcomer, the others were not heard for a day", nil, 24*time.Hour + time.Second, nil, packet{kind: discover}, ""},
		{"a newcomer, the others were heard less than a day ago", nil, 24 * time.Hour, nil, packet{kind: discover}, "OFFER 10.77.0.110"},
		{"an address that was another's, not heard since", []packet{selecting(macA, "10.77.0.120")}, 2 * time.Hour, nil, selecting(macB, "10.77.0.120"), "NAK"},
		{"an address that was another's, heard since", []packet{selecting(macA, "10.77.0.120")}, 2 * time.Hour, func(n *beside) { n.share.Heard = heard.Add(90 * time.Minute) }, selecting(macB, "10.77.0.120"), "ACK 10.77.0.120"},
	} {
		t.Run(c.name, func(t *testing.T) {
			near := &beside{self: "a", alive: []string{"a"}, share: Share{Heard: heard,
				Blocks: []Block{{Range: span("10.77.0.110", "10.77.0.129")}, {Range: span("10.77.0.130", "10.77.0.149")}}}}
			s := newSetupAt(t, testInterface(ModeDHCP), "10.77.0.1/24", near)
			for _, p := range c.before {
				if d, _ := s.ask(t, p); d == nil || d.MessageType() != ack {
					t.Fatalf("before: %v", d)
				}
			}
			s.pass(c.pass)
			if c.then != nil {
				near.change(func() { c.then(near) })
			}
			got := ""
			if d, _ := s.ask(t, c.p); d != nil {
				if got = d.MessageType().String(); d.MessageType() != nak {
					got += " " + d.YourIPAddr.String()
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// A known machine's address is given by any node, also by one that has no share
// and has not heard of the others.
func TestAKnownMachineNeedsNoShare(t *testing.T) {
	s := newSetupAt(t, testInterface(ModeDHCP), "10.77.0.1/24", &beside{self: "a", alive: []string{"a"}})
	s.fleet.keeps(macA, netip.MustParseAddr("10.77.0.160"))
	for _, p := range []packet{{kind: discover}, {kind: reqst, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: ip4("10.77.0.160")}}, {kind: reqst, ciaddr: "10.77.0.160"}} {
		if d, _ := s.ask(t, p); d == nil || d.YourIPAddr.String() != "10.77.0.160" {
			t.Errorf("%s: %v", p.kind, d)
		}
	}
}

func TestABlockIsYieldedWhenNobodyIsInIt(t *testing.T) {
	us := ip4("10.77.0.1")
	pool := []PoolBlock{{Range: span("10.77.0.100", "10.77.0.109"), Owner: "b"}, {Range: span("10.77.0.110", "10.77.0.119"), Owner: "a"}, {Range: span("10.77.0.120", "10.77.0.129"), Owner: "a"}}
	near := &beside{self: "a", alive: []string{"a"}, share: ShareOf("a", pool, time.Unix(1700000000, 0))}
	s := newSetupAt(t, testInterface(ModeDHCP), "10.77.0.1/24", near)
	yields := func(want ...int) {
		t.Helper()
		near.change(func() { near.share = ShareOf("a", pool, s.clock()) })
		if got := s.Yield("a", pool); !slices.Equal(got, want) {
			t.Errorf("yields %v, want %v", got, want)
		}
	}
	selecting := func(mac, addr string) packet {
		return packet{kind: reqst, mac: mac, opts: map[uint8][]byte{54: us, 50: ip4(addr)}}
	}
	is := func(p packet, want string) {
		t.Helper()
		got := ""
		if d, _ := s.ask(t, p); d != nil {
			got = d.MessageType().String()
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	is(selecting(macA, "10.77.0.110"), "ACK")
	is(packet{kind: discover, mac: macB, opts: map[uint8][]byte{50: ip4("10.77.0.120")}}, "OFFER")
	yields()
	pool[0].Wanted, pool[1].Wanted, pool[2].Wanted = "a", "b", "b"
	yields() // one is lent, one is offered
	is(selecting(macB, "10.77.0.120"), "NAK")
	s.pass(offerHold)
	yields(2)
	is(packet{kind: reqst, ciaddr: "10.77.0.110"}, "ACK")
	s.pass(time.Hour)
	yields(1, 2)

	// The node that waited is removed before the offer is accepted: it may have
	// been all the same, until a command cannot be on its way any more.
	pool[1].Wanted, pool[2].Wanted = "", ""
	yields()
	is(selecting(macB, "10.77.0.120"), "NAK")
	s.pass(yieldRest)
	yields()
	is(selecting(macB, "10.77.0.120"), "ACK")
}

// A REQUEST that is under way while its block is closed finds it closed.
func TestNothingIsLentBehindAYield(t *testing.T) {
	l := newLeases(func() time.Time { return time.Unix(1700000000, 0) })
	l.put = func(_ Lease, _ string, done func(error)) { done(nil) }
	r := span("10.77.0.100", "10.77.0.199")
	block := span("10.77.0.100", "10.77.0.109")
	terms := all(l, r) // as they were when the REQUEST came
	until := time.Unix(1700003600, 0)
	for range 2 { // asked again, it is as closed as it was
		if !l.Vacate(block) {
			t.Fatal("nobody is in it")
		}
	}
	if err := l.Commit(macA, block.First, until, terms); !errors.Is(err, errNotLent) {
		t.Errorf("lent behind the yield: %v", err)
	}
	if a, _ := l.Offer(macA, terms, block.First); block.Contains(a) {
		t.Errorf("offered %s behind the yield", a)
	}
	l.Reopen(block)
	if err := l.Commit(macA, block.First, until, terms); err != nil {
		t.Errorf("the block was opened again: %v", err)
	}
	if l.Vacate(block) {
		t.Error("somebody is in it")
	}
}
