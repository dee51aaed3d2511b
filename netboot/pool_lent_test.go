package netboot

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	inventory "github.com/lpmos/lpmos/agent/wire" // wire is a cable here
	"github.com/lpmos/lpmos/consensus/fleet"
)

// ask sends a packet to the nodes that hear it and gives their answers.
func (m *model) ask(p modelPacket, to []*modelNode) (answers []modelAnswer) {
	req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
	if drop != "" {
		m.t.Fatalf("dropped: %s", drop)
	}
	for _, n := range to {
		req.unicast = p.to == n.addr
		if out, ok := n.r.answer(context.Background(), req); ok {
			a := parseAnswer(out.packet)
			m.replies[a.kind.String()]++
			answers = append(answers, a)
		}
	}
	return answers
}

type modelPacket struct {
	kind                      dhcpv4.MessageType
	hw                        net.HardwareAddr
	secs                      uint16
	client, requested, server netip.Addr
	to                        netip.Addr // one node alone
}

func (p modelPacket) bytes() []byte {
	b := make([]byte, 240, 280)
	b[0], b[1], b[2] = 1, 1, 6
	b[8], b[9] = byte(p.secs>>8), byte(p.secs)
	if p.client.IsValid() {
		copy(b[12:], p.client.AsSlice())
	}
	copy(b[28:], p.hw)
	copy(b[236:], []byte{99, 130, 83, 99})
	b = append(b, optMessageType, 1, byte(p.kind))
	for code, a := range map[byte]netip.Addr{optRequestedIP: p.requested, optServerID: p.server} {
		if a.IsValid() {
			b = append(append(b, code, 4), a.AsSlice()...)
		}
	}
	return append(b, 255)
}

type modelAnswer struct {
	kind   dhcpv4.MessageType
	addr   netip.Addr
	server netip.Addr
	lease  time.Duration
}

func parseAnswer(b []byte) (a modelAnswer) {
	a.addr = netip.AddrFrom4([4]byte(b[16:20]))
	for i := 240; i+1 < len(b) && b[i] != 255; i += 2 + int(b[i+1]) {
		v := b[i+2 : i+2+int(b[i+1])]
		switch b[i] {
		case optMessageType:
			a.kind = dhcpv4.MessageType(v[0])
		case optServerID:
			a.server = netip.AddrFrom4([4]byte(v))
		case optLeaseTime:
			a.lease = time.Duration(uint32(v[0])<<24|uint32(v[1])<<16|uint32(v[2])<<8|uint32(v[3])) * time.Second
		}
	}
	return a
}

// take is a machine believing in an answer to its REQUEST.
func (m *model) take(k *modelMachine, answers []modelAnswer) {
	if len(answers) == 0 {
		return
	}
	a := answers[m.r.IntN(len(answers))]
	if h, ok := m.holds[k.addr]; ok && h.mac == k.mac { // one address at a time
		delete(m.holds, k.addr)
	}
	if a.kind == dhcpv4.MessageTypeNak {
		k.addr = netip.Addr{}
		return
	}
	if h, ok := m.holds[a.addr]; ok && h.mac != k.mac && m.now.Before(h.until) {
		m.broken = fmt.Sprintf("%s was lent %s by %s at %v; %s holds it until %v", k.mac, a.addr, a.server, m.now, h.mac, h.until)
	}
	k.addr, k.server, k.until = a.addr, a.server, m.now.Add(a.lease)
	m.holds[a.addr] = hold{k.mac, k.until}
}

// exchange is one machine's doing.
func (m *model) exchange() {
	k := m.machines[m.r.IntN(len(m.machines))]
	if k.addr.IsValid() && !m.now.Before(k.until) {
		k.addr = netip.Addr{}
	}
	var hear []*modelNode
	for _, n := range m.nodes {
		if m.chance(85) {
			hear = append(hear, n)
		}
	}
	p := modelPacket{hw: k.hw, secs: uint16(m.r.IntN(8))}
	switch {
	case !k.addr.IsValid() || m.chance(20): // from the beginning
		p.kind = dhcpv4.MessageTypeDiscover
		if m.chance(30) {
			p.requested = k.addr
		}
		offers := m.ask(p, hear)
		if len(offers) == 0 || m.chance(10) {
			return
		}
		if m.chance(5) { // it takes its time
			m.world()
			m.now = m.now.Add(time.Duration(m.r.IntN(120)) * time.Second)
		}
		o := offers[m.r.IntN(len(offers))]
		p.kind, p.requested, p.server = dhcpv4.MessageTypeRequest, o.addr, o.server
		if m.chance(3) { // a mistake, or malice
			p.requested = netip.AddrFrom4([4]byte{10, 77, 0, byte(m.r.IntN(256))})
		}
		m.take(k, m.ask(p, hear))
	case m.chance(40): // renewing
		p.kind, p.client, p.to = dhcpv4.MessageTypeRequest, k.addr, k.server
		hear = slices.DeleteFunc(hear, func(n *modelNode) bool { return n.addr != k.server })
		m.take(k, m.ask(p, hear))
	case m.chance(30): // rebinding
		p.kind, p.client = dhcpv4.MessageTypeRequest, k.addr
		m.take(k, m.ask(p, hear))
	case m.chance(40): // started again
		p.kind, p.requested = dhcpv4.MessageTypeRequest, k.addr
		m.take(k, m.ask(p, hear))
	case m.chance(30) && !k.known:
		p.kind, p.client, p.server = dhcpv4.MessageTypeRelease, k.addr, k.server
		m.ask(p, hear)
		delete(m.holds, k.addr)
		k.addr = netip.Addr{}
	case m.chance(3) && k.known: // a person gives it an address of its own, or takes that back
		b := fleet.AssignAddress{MachineID: "m-" + k.mac, MAC: k.mac}
		if m.chance(60) {
			b.Address = netip.AddrFrom4([4]byte{10, 77, 0, 200 + k.hw[5]}).String()
		}
		_ = m.nodes[m.r.IntN(len(m.nodes))].propose(b)
	case m.chance(3): // its agent reports, and it becomes a known machine
		n := m.nodes[m.r.IntN(len(m.nodes))]
		if k.until.Sub(m.now) > time.Minute && n.propose(m.report(k)) == nil {
			k.known = true
		}
	}
}

func (m *model) report(k *modelMachine) fleet.Body {
	return fleet.ReportMachine{NewID: "m-" + k.mac, BootID: "b", SessionHash: "s-" + k.mac, MAC: k.mac, IP: k.addr.String(),
		Inventory: inventory.Inventory{NICs: []inventory.NIC{{Name: "eth0", MAC: k.mac}}}}
}

// run lets so many exchanges happen, or as many as it takes for something to break.
func (m *model) run(exchanges int) {
	for ; exchanges > 0 && m.broken == ""; exchanges-- {
		m.world()
		m.exchange()
	}
}

// modelChance is the seed of a test's chances, which can be given.
func modelChance(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(modelSeed); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", modelSeed, seed)
	return seed
}

// An address is never lent to two machines at once, whatever nodes know of each
// other.
func TestNoTwoNodesLendOneAddress(t *testing.T) {
	const each = 20_000
	const enough = 200_000 // for every rare thing to happen
	exchanges := enough
	if raceDetector { // which finds nothing in what one goroutine does, and makes it ten times as slow
		exchanges = 40_000
	}
	if s := os.Getenv(modelCount); s != "" {
		var err error
		if exchanges, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := modelChance(t)
	begin := time.Now()
	answers, deeds := map[string]int{}, map[string]int{}
	for done := 0; done < exchanges; done += each {
		m := newModel(t, rand.New(rand.NewPCG(seed, uint64(done))), "")
		if m.run(min(each, exchanges-done)); m.broken != "" {
			t.Fatal(m.broken)
		}
		for kind, n := range m.replies {
			answers[kind] += n
		}
		for _, c := range m.log {
			deeds[strings.TrimPrefix(fmt.Sprintf("%T", c.Body), "fleet.")]++
		}
	}
	t.Logf("%d exchanges in %v: answers %v, agreed on %v", exchanges, time.Since(begin).Round(time.Millisecond), answers, deeds)
	for _, d := range []string{"RemoveNode", "YieldPool", "TakePool", "ReportMachine", "AssignAddress"} {
		if exchanges >= enough && (deeds[d] == 0 || answers["ACK"] < exchanges/4) {
			t.Errorf("too little has happened for this to mean anything: %d times %s", deeds[d], d)
		}
	}
}

func TestTheModelNoticesMistakes(t *testing.T) {
	seed := modelChance(t)
	for _, wrong := range []mistake{restartsTrusting, lendsOnAlone, yieldsInUse} {
		found := ""
		for i := 0; i < 100 && found == ""; i++ {
			m := newModel(t, rand.New(rand.NewPCG(seed, uint64(i))), wrong)
			m.run(20_000)
			found = m.broken
		}
		if found == "" {
			t.Errorf("%s, and two million exchanges show nothing", wrong)
		}
		t.Logf("%s: %s", wrong, found)
	}
}
