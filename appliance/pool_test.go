package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

var (
	rack   = netip.MustParsePrefix("10.77.0.0/24")
	office = netip.MustParsePrefix("10.78.0.0/24")
)

// rackNode is one node's half of what netboot is given, on a network that is not
// there.
type rackNode struct {
	*neighbours
	keeper *poolKeeper
	held   []netip.Addr // lent to somebody, so that a block with one of these is not yielded
}

// Yield is netboot's: all blocks that are wanted and that nobody is in.
func (n *rackNode) Yield(self string, pool []netboot.PoolBlock) (places []int) {
	for i, b := range pool {
		if b.Owner == self && b.Wanted != "" && !slices.ContainsFunc(n.held, b.Contains) {
			places = append(places, i)
		}
	}
	return places
}

func newRackNode(t *testing.T, node *consensus.Node, i int, mode netboot.Mode) *rackNode {
	t.Helper()
	r, err := netboot.ParseRange("10.77.0.100-10.77.0.195")
	if err != nil {
		t.Fatal(err)
	}
	served := []servedNetwork{{Interface: netboot.Interface{Name: "br0", Mode: mode, Range: r}, addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}), network: rack}}
	n := &rackNode{neighbours: newNeighbours(node, served)}
	n.keeper = newPoolKeeper(node, nil, n.neighbours, slog.New(slog.DiscardHandler))
	n.keeper.boot = n
	own := fleet.Node{ID: node.ID(), Name: node.ID(), RegionID: "dc1", Networks: []string{rack.String()}}
	consensustest.Propose[*fleet.Node](t, node, fleet.PutNode{Node: own})
	return n
}

// lends lists what the node may lend to newcomers, as far as it knows.
func (n *rackNode) lends() (out []netboot.Range) {
	for _, b := range n.Share(rack).Blocks {
		if !b.Wanted {
			out = append(out, b.Range)
		}
	}
	return out
}

// Three nodes of one network come one after the other and end with a share each; a
// node that is cut off keeps its own and changes nothing.
func TestNodesOfOneNetworkShareItsRange(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	var nodes []*rackNode
	turn := func(times int) {
		for range times {
			for _, n := range nodes {
				n.keeper.keep(t.Context())
			}
		}
	}
	for i := range 3 {
		nodes = append(nodes, newRackNode(t, c.Nodes[i], i, netboot.ModeDHCP))
		if i == 1 {
			nodes[0].held = []netip.Addr{netip.MustParseAddr("10.77.0.195")} // in the block that is wanted first
		}
		turn(2)
	}
	if n := len(nodes[0].lends()) + len(nodes[1].lends()) + len(nodes[2].lends()); n > 15 {
		t.Errorf("%d blocks are lent from; one is in use and wanted", n)
	}
	nodes[0].held = nil
	turn(2)
	seen := map[netboot.Range]int{}
	for i, n := range nodes {
		if got := len(n.lends()); got < 5 || got > 6 {
			t.Errorf("node %d lends %d of 16 blocks", i, got)
		}
		for _, r := range n.lends() {
			seen[r]++
		}
	}
	if len(seen) != 16 {
		t.Errorf("%d different blocks are lent", len(seen))
	}
	for i, n := range nodes {
		n.look(c.Nodes[i].Status())
	}
	c.Until("each knows all that answer", func() bool {
		for i, n := range nodes {
			n.look(c.Nodes[i].Status())
			if self, alive := n.Answering(rack, netboot.ModeDHCP); self != consensustest.Name(i) || len(alive) != 3 {
				return false
			}
		}
		return true
	})

	c.Isolate(2)
	c.Until("the others notice", func() bool {
		nodes[0].look(c.Nodes[0].Status())
		_, alive := nodes[0].Answering(rack, netboot.ModeDHCP)
		return len(alive) == 2
	})
	before := nodes[2].Share(rack)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	nodes[2].keeper.keep(ctx)
	if after := nodes[2].Share(rack); !after.Heard.Equal(before.Heard) || before.Heard.IsZero() || len(after.Blocks) != len(before.Blocks) {
		t.Errorf("cut off, its share went from %+v to %+v", before, after)
	}
}

func TestWhatANodeTakesOver(t *testing.T) {
	node := consensustest.Node(t)
	n := newRackNode(t, node, 0, netboot.ModeDHCP)
	now := time.Now()
	n.keeper.now = func() time.Time { return now }
	freed := now.Add(-27 * time.Hour)
	p := &fleet.Pool{Network: rack.String(), Blocks: []fleet.PoolBlock{
		{First: "10.77.0.100", Last: "10.77.0.105", Owner: "gone", FreedAt: freed},
		{First: "10.77.0.106", Last: "10.77.0.111", Owner: "gone", FreedAt: now.Add(-25 * time.Hour)},
		{First: "10.77.0.112", Last: "10.77.0.117", Owner: "there"},
		{First: "10.77.0.118", Last: "10.77.0.123", Owner: node.ID()},
	}}
	if got := n.keeper.takable(p); !slices.Equal(got, []int{0}) {
		t.Errorf("takes %v", got)
	}
	p.Network = office.String()
	if got := n.keeper.takable(p); got != nil {
		t.Errorf("takes %v of a network it does not serve", got)
	}
	p.Network = rack.String()
	n.keeper.cluster = offClock{n.keeper.cluster}
	if got := n.keeper.takable(p); got != nil {
		t.Errorf("takes %v by a clock that is far off the others'", got)
	}
}

// offClock is a cluster whose other node has another time.
type offClock struct{ poolCluster }

func (o offClock) Status() consensus.Status {
	return consensus.Status{Members: []consensus.Member{{ID: "other", Reachable: true, ClockOff: -90_000}}}
}

func TestWhomMachinesMayTurnTo(t *testing.T) {
	st := fleet.NewState()
	put := func(id, region string, networks []string, urls ...string) {
		n := fleet.Node{ID: id, Name: "node-" + id, RegionID: region, BootURLs: urls, Networks: networks}
		if _, _, err := st.Apply(st.Index()+1, fleet.Command{Version: 2, At: time.Now(), Body: fleet.PutNode{Node: n}}); err != nil {
			t.Fatal(err)
		}
	}
	both := []string{rack.String(), office.String()}
	put("me", "dc1", both, "http://10.77.0.1:80", "http://10.78.0.1:80")
	put("far", "dc2", []string{"10.99.0.0/24"}, "http://10.99.0.1:80")
	put("region", "dc1", []string{"10.98.0.0/24"}, "http://10.98.0.1:80")
	put("rack", "dc1", both, "http://10.78.0.2:80", "http://10.77.0.2:80")
	put("dead", "dc1", []string{rack.String()}, "http://10.77.0.3:80")
	put("blind", "dc1", nil)
	n := &neighbours{self: "me", view: func(f func(*fleet.State)) { f(st) }, alive: map[string]bool{},
		served: []servedNetwork{{addr: netip.MustParseAddr("10.77.0.1"), network: rack}, {addr: netip.MustParseAddr("10.78.0.1"), network: office}}}
	n.look(consensus.Status{Members: []consensus.Member{{ID: "far", Reachable: true}, {ID: "region", Reachable: true}, {ID: "rack", Reachable: true}, {ID: "dead"}, {ID: "blind", Reachable: true}}})
	for own, want := range map[string][]string{
		"https://10.77.0.1:80": {"https://10.77.0.2:80", "https://10.98.0.1:80", "https://10.99.0.1:80", "https://10.77.0.3:80"},
		"https://10.78.0.1:80": {"https://10.78.0.2:80", "https://10.98.0.1:80", "https://10.99.0.1:80", "https://10.77.0.3:80"},
		"https://me":           nil,
	} {
		if got := n.NodesOf(own); !slices.Equal(got, want) {
			t.Errorf("machines that came to %s may turn to %v, want %v", own, got, want)
		}
	}
	got := n.Addresses()
	slices.SortFunc(got, netip.Addr.Compare)
	if want := "[10.77.0.2 10.77.0.3 10.78.0.2 10.98.0.1 10.99.0.1]"; fmt.Sprint(got) != want {
		t.Errorf("the other nodes have %v, want %s", got, want)
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{{"10.77.0.5", "10.77.0.9", true}, {"10.99.0.5", "10.99.0.9", true}, {"10.77.0.5", "10.78.0.5", false}, {"10.55.0.5", "10.55.0.5", false}} {
		if got := n.SameNetwork(netip.MustParseAddr(c.a), netip.MustParseAddr(c.b)); got != c.want {
			t.Errorf("%s and %s are of one network: %v", c.a, c.b, got)
		}
	}
	if _, _, err := st.Apply(st.Index()+1, fleet.Command{Version: 2, At: time.Now(), Body: fleet.ClaimPool{NodeID: "me", Network: rack.String(), First: "10.77.0.100", Last: "10.77.0.199"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		network netip.Prefix
		mode    netboot.Mode
		want    string
	}{
		{rack, netboot.ModeDHCP, "[me]"},    // the others lend nothing there
		{rack, netboot.ModeProxy, "[rack]"}, // and this one is no proxy
		{office, netboot.ModeProxy, "[me rack]"},
		{office, netboot.ModeDHCP, "[]"},
	} {
		self, alive := n.Answering(c.network, c.mode)
		slices.Sort(alive)
		if self != "me" || fmt.Sprint(alive) != c.want {
			t.Errorf("%s %s: %v, want %s", c.network, c.mode, alive, c.want)
		}
	}
}

// An install that ended at a node that was cut off has ended there: the machine is
// told to boot its disk, although the state says that it is being written.
func TestAMachineBootsWhatWasInstalledWithoutTheOthers(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	node := c.Nodes[2]
	const mac = "52:54:00:aa:bb:01"
	inv := wire.Inventory{NICs: []wire.NIC{{Name: "eth0", MAC: mac}}, Disks: []wire.Disk{
		{Name: "sr0", Serial: "CD", SizeBytes: 1 << 30, Removable: true},
		{Name: "sda", Serial: "D1", SizeBytes: 64 << 20, LogicalSector: 512},
		{Name: "sdb", Serial: "D2", SizeBytes: 8 << 30, LogicalSector: 512},
	}}
	consensustest.Propose[*fleet.Image](t, node, fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: fmt.Sprintf("%064d", 1), SizeBytes: 128 << 20, Sector: 512}})
	consensustest.Propose[*fleet.Machine](t, node, fleet.ReportMachine{NewID: "m-1", BootID: "boot-1", SessionHash: "s", MAC: mac, Inventory: inv})
	task := consensustest.Propose[*fleet.Task](t, node, fleet.CreateTask{ID: "t-1", TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "x"})
	consensustest.Propose[*fleet.Task](t, node, fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: task.PlanHash, By: "anna"})
	consensustest.Propose[*fleet.Task](t, node, fleet.StartInstall{TaskID: "t-1", Generation: 1, PlanHash: task.PlanHash, SessionHash: "s"})
	seam := fleetSeam{node, time.Now}
	if d := seam.Decide(t.Context(), netboot.Machine{MAC: mac}); d.Action != netboot.BootAgent {
		t.Errorf("while it installs: %+v", d)
	}
	c.Isolate(2)
	if err := node.Defer(fleet.FinishInstall{TaskID: "t-1", Generation: 1, SessionHash: "s"}); err != nil {
		t.Fatal(err)
	}
	if d := seam.Decide(t.Context(), netboot.Machine{MAC: mac}); d.Action != netboot.BootLocal || d.LocalDrive != 1 {
		t.Errorf("after it has ended: %+v", d)
	}
}
