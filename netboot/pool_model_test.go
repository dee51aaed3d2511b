package netboot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
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

// The model: several nodes serve one network, each with its own book and its own
// view of what was agreed on; the nodes are cut off from each other, fall behind,
// forget, come and go, while machines ask whichever of them hears them. Time and
// chance are the test's. The rules of the pool are the real ones.

const (
	modelNetwork  = "10.77.0.0/24"
	modelMachines = 40
	modelCount    = "LPMOS_TEST_EXCHANGES" // more than the usual number of exchanges
	modelSeed     = "LPMOS_TEST_SEED"
)

var modelRange = Range{netip.MustParseAddr("10.77.0.10"), netip.MustParseAddr("10.77.0.73")} // 16 blocks of 4

// model is the world.
type model struct {
	t     *testing.T
	r     *rand.Rand
	now   time.Time
	log   []fleet.Command // agreed on
	truth *fleet.State    // all of it applied
	saved map[int][]byte  // snapshots, by the length of the log
	late  []lateCommand   // proposed by somebody who gave up waiting for the answer
	nodes []*modelNode
	named int // nodes there ever were

	holds    map[netip.Addr]hold // what machines believe in, rightly
	machines []*modelMachine
	replies  map[string]int

	careless mistake
	broken   string // what went wrong
}

// mistake is one that somebody could make in the code; the model has to notice.
type mistake string

const (
	restartsTrusting mistake = "a node that starts trusts the state it finds"
	lendsOnAlone     mistake = "a node lends on for as long as it is cut off"
	yieldsInUse      mistake = "a node yields blocks that are in use"
)

type hold struct {
	mac   string
	until time.Time
}

type lateCommand struct {
	c  fleet.Command
	at time.Time
}

// modelNode is one node.
type modelNode struct {
	m       *model
	id      string
	addr    netip.Addr
	member  bool
	group   int // those of one group reach each other
	state   *fleet.State
	applied int
	heard   time.Time
	disk    map[string]Lease
	server  *Server
	r       *responder
	known   *fleet.Pool // of which blocks are
	blocks  []PoolBlock
}

// modelMachine is one machine.
type modelMachine struct {
	mac    string
	hw     net.HardwareAddr
	addr   netip.Addr
	until  time.Time
	server netip.Addr
	known  bool
}

func (m *model) chance(percent float64) bool { return m.r.Float64()*100 < percent }

// start is the node's process beginning, with the disk as it was left.
func (n *modelNode) start() {
	clock := func() time.Time { return n.m.now }
	book := newLeases(clock)
	for _, l := range n.disk {
		book.enter(l)
	}
	book.write = func(l Lease, loser string) error {
		delete(n.disk, loser)
		n.disk[l.MAC] = l
		return nil
	}
	if n.m.careless != restartsTrusting {
		n.heard = time.Time{}
	}
	n.server = &Server{
		cfg:    Config{BootPort: 80, Fleet: n, Neighbours: n, Log: slog.New(slog.DiscardHandler), Now: clock},
		leases: book, sightings: NewSightings(1, 1, nil),
	}
	in := Interface{Name: "br0", Mode: ModeDHCP, Range: modelRange}
	l, err := newLink(in, 1, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.PrefixFrom(n.addr, 24))
	if err != nil {
		n.m.t.Fatal(err)
	}
	n.r = n.server.responder(l)
}

// The node as its responder's Fleet and Neighbours.

func (n *modelNode) Decide(context.Context, Machine) Decision            { return Decision{Action: BootLocal} }
func (n *modelNode) BootServed(context.Context, Machine, Decision) error { return nil }
func (n *modelNode) Nodes(netip.AddrPort) []string                       { return nil }
func (n *modelNode) Taken(a netip.Addr) bool                             { return n.state.MachineByAddress(a.String()) != nil }

func (n *modelNode) Share(netip.Prefix) Share {
	if n.m.careless == lendsOnAlone && !n.heard.IsZero() {
		n.heard = n.m.now
	}
	return ShareOf(n.id, n.pool(), n.heard)
}

func (n *modelNode) Answering(netip.Prefix, Mode) (self string, alive []string) {
	// Whom it takes to be alive may be right or wrong.
	for _, o := range n.m.nodes {
		if o == n || n.m.chance(70) {
			alive = append(alive, o.id)
		}
	}
	return n.id, alive
}

func (n *modelNode) Address(mac string) (netip.Addr, bool) {
	if k := n.state.MachineByMAC(mac); k != nil {
		a, err := netip.ParseAddr(k.Addresses[mac])
		return a, err == nil
	}
	return netip.Addr{}, false
}

// pool is the network's pool as the node knows it.
func (n *modelNode) pool() []PoolBlock {
	p := n.state.Pool(modelNetwork)
	if p == nil || p == n.known {
		return n.blocks
	}
	var out []PoolBlock
	for _, b := range p.Blocks {
		pb := PoolBlock{Range: Range{netip.MustParseAddr(b.First), netip.MustParseAddr(b.Last)}, Owner: b.Owner, Wanted: b.Wanted}
		if !b.FreedAt.IsZero() {
			pb.Owner = ""
		}
		out = append(out, pb)
	}
	n.known, n.blocks = p, out
	return out
}

// catchUp applies the next n entries of the log.
func (n *modelNode) catchUp(entries int) {
	for ; entries > 0 && n.applied < len(n.m.log); entries-- {
		n.applied++
		n.state.Apply(uint64(n.applied), n.m.log[n.applied-1]) //nolint:errcheck // a refusal is the same everywhere
	}
}

// quorum reports whether the node is with a majority of the members.
func (n *modelNode) quorum() bool {
	with, all := 0, 0
	for _, o := range n.m.nodes {
		if !o.member {
			continue
		}
		all++
		if o.group == n.group {
			with++
		}
	}
	return n.member && 2*with > all
}

// agree puts a command into the log.
func (m *model) agree(c fleet.Command) error {
	m.log = append(m.log, c)
	_, _, err := m.truth.Apply(uint64(len(m.log)), c)
	if len(m.log)%100 == 0 {
		var b bytes.Buffer
		if err := m.truth.Snapshot().Write(&b); err != nil {
			m.t.Fatal(err)
		}
		m.saved[len(m.log)] = b.Bytes()
	}
	return err
}

// propose is what a node does with a command: it may work, be refused, or end
// without an answer, and then the command may be agreed on all the same, later.
func (n *modelNode) propose(b fleet.Body) error {
	c := fleet.Command{Version: 2, At: n.m.now, Body: b}
	switch {
	case !n.quorum():
		return fmt.Errorf("cut off")
	case n.m.chance(5):
		n.m.late = append(n.m.late, lateCommand{c, n.m.now.Add(time.Duration(n.m.r.IntN(10_000)) * time.Millisecond)})
		return fmt.Errorf("no answer")
	}
	err := n.m.agree(c)
	n.catchUp(len(n.m.log))
	return err
}

// verify makes sure that the node knows everything.
func (n *modelNode) verify() {
	if n.quorum() {
		n.catchUp(len(n.m.log))
		n.heard = n.m.now
	}
}

// keep is a turn of the loop that looks after the node's share.
func (n *modelNode) keep() {
	n.verify()
	places := n.server.Yield(n.id, n.pool())
	if n.m.careless == yieldsInUse {
		for i, b := range n.pool() {
			if b.Owner == n.id && b.Wanted != "" && !slices.Contains(places, i) {
				places = append(places, i)
			}
		}
	}
	if len(places) > 0 {
		_ = n.propose(fleet.YieldPool{NodeID: n.id, Network: modelNetwork, Blocks: places})
	}
	var free []int
	if p := n.state.Pool(modelNetwork); p != nil {
		for i, b := range p.Blocks {
			if b.Free(n.m.now) {
				free = append(free, i)
			}
		}
	}
	if len(free) > 0 {
		_ = n.propose(fleet.TakePool{NodeID: n.id, Network: modelNetwork, Blocks: free})
	}
	if n.m.chance(5) {
		_ = n.propose(fleet.ClaimPool{NodeID: n.id, Network: modelNetwork, First: modelRange.First.String(), Last: modelRange.Last.String()})
	}
}

// restart ends the node's process and begins it anew. What it had applied since
// its last snapshot it has to hear again.
func (n *modelNode) restart() {
	at := 0
	for length := range n.m.saved {
		if length <= n.applied && length > at && n.m.chance(50) {
			at = length
		}
	}
	n.state, n.applied, n.known, n.blocks = fleet.NewState(), at, nil, nil
	if at > 0 {
		s, err := fleet.Restore(bytes.NewReader(n.m.saved[at]))
		if err != nil {
			n.m.t.Fatal(err)
		}
		n.state = s
	}
	n.start()
}

// join adds a node.
func (m *model) join() {
	m.named++
	n := &modelNode{m: m, id: fmt.Sprintf("n%d", m.named), addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(100 + m.named%100)}),
		member: true, state: fleet.NewState(), disk: map[string]Lease{}}
	n.start()
	m.nodes = append(m.nodes, n)
	if err := m.agree(fleet.Command{Version: 2, At: m.now, Body: fleet.PutNode{Node: fleet.Node{ID: n.id, Name: n.id}}}); err != nil {
		m.t.Fatal(err)
	}
}

// leave removes a node, which need not notice: it goes on as if it were cut off.
func (m *model) leave() {
	var members []*modelNode
	for _, n := range m.nodes {
		if n.member {
			members = append(members, n)
		}
	}
	i := slices.IndexFunc(members, (*modelNode).quorum)
	if len(members) < 4 || i < 0 {
		return
	}
	gone := members[m.r.IntN(len(members))]
	if gone == members[i] || members[i].propose(fleet.RemoveNode{ID: gone.id, By: "anna"}) != nil {
		return
	}
	gone.member = false
	if len(m.nodes) > 6 { // the first of those that were removed is switched off
		j := slices.IndexFunc(m.nodes, func(n *modelNode) bool { return !n.member })
		m.nodes = slices.Delete(m.nodes, j, j+1)
	}
}

// world is what happens besides machines.
func (m *model) world() {
	switch {
	case m.chance(70):
		m.now = m.now.Add(time.Duration(m.r.IntN(20_000)) * time.Millisecond)
	case m.chance(5):
		m.now = m.now.Add(time.Duration(m.r.IntN(90)) * time.Minute)
	case m.chance(0.5):
		m.now = m.now.Add(time.Duration(m.r.IntN(30)) * time.Hour)
	}
	m.late = slices.DeleteFunc(m.late, func(l lateCommand) bool {
		if m.now.Before(l.at) {
			return false
		}
		_ = m.agree(l.c)
		return true
	})
	n := m.nodes[m.r.IntN(len(m.nodes))]
	switch {
	case m.chance(10):
		n.keep()
	case m.chance(10):
		if n.quorum() {
			n.catchUp(1 + m.r.IntN(5))
		}
	case m.chance(0.5):
		whole := m.chance(50)
		for _, n := range m.nodes {
			n.group = 0
			if !whole {
				n.group = m.r.IntN(3)
			}
		}
	case m.chance(0.1):
		n.restart()
	case m.chance(0.03):
		m.join()
	case m.chance(0.03):
		m.leave()
	}
}

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
	const usual, each = 200_000, 20_000
	exchanges := usual
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
	for _, d := range []string{"RemoveNode", "YieldPool", "TakePool", "ReportMachine"} {
		if exchanges >= usual && (deeds[d] == 0 || answers["ACK"] < exchanges/4) {
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

func newModel(t *testing.T, r *rand.Rand, careless mistake) *model {
	m := &model{t: t, r: r, now: time.Unix(1_700_000_000, 0).UTC(), truth: fleet.NewState(), saved: map[int][]byte{},
		holds: map[netip.Addr]hold{}, replies: map[string]int{}, careless: careless}
	for i := range modelMachines {
		hw := net.HardwareAddr{0x52, 0x54, 0, 0, 1, byte(i)}
		m.machines = append(m.machines, &modelMachine{mac: hw.String(), hw: hw})
	}
	for range 3 {
		m.join()
	}
	for _, n := range m.nodes {
		n.verify()
		_ = n.propose(fleet.ClaimPool{NodeID: n.id, Network: modelNetwork, First: modelRange.First.String(), Last: modelRange.Last.String()})
	}
	return m
}
