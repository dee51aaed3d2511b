package netboot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

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
	book.put = func(l Lease, loser string, done func(error)) {
		delete(n.disk, loser)
		n.disk[l.MAC] = l
		done(nil)
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
func (n *modelNode) Addresses() []netip.Addr                             { return nil }
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
		a, err := netip.ParseAddr(k.AddressOf(mac))
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
