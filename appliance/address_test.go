package appliance

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// What a person has given a machine every node gives it, and nobody else.
func TestEveryNodeGivesTheAddressThatAPersonHasChosen(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	const mac = "52:54:00:aa:bb:01"
	node := c.Nodes[1]
	consensustest.Propose[*fleet.Node](t, node, fleet.PutNode{Node: fleet.Node{ID: node.ID(), Name: "n"}})
	consensustest.Propose[*fleet.Pool](t, node, fleet.ClaimPool{NodeID: node.ID(), Network: "10.77.0.0/24", First: "10.77.0.100", Last: "10.77.0.199"})
	consensustest.Propose[*fleet.Machine](t, node, fleet.ReportMachine{NewID: "m-1", BootID: "b", SessionHash: "s", MAC: mac, IP: "10.77.0.130",
		Inventory: wire.Inventory{NICs: []wire.NIC{{Name: "eth0", MAC: mac}}}})
	has := func(want string) {
		t.Helper()
		for i, n := range c.Nodes {
			c.Until(fmt.Sprintf("node %d gives %s", i, want), func() bool {
				a, ok := fleetSeam{n, time.Now}.Address(mac)
				return ok && a.String() == want && fleetSeam{n, time.Now}.Taken(a)
			})
			if !(fleetSeam{n, time.Now}).Taken(netip.MustParseAddr("10.77.0.130")) {
				t.Errorf("node %d lends to others what the machine keeps", i)
			}
		}
	}
	has("10.77.0.130")
	consensustest.Propose[*fleet.Machine](t, node, fleet.AssignAddress{MachineID: "m-1", Address: "10.77.0.20", By: "anna"})
	has("10.77.0.20")
	consensustest.Propose[*fleet.Machine](t, node, fleet.AssignAddress{MachineID: "m-1", By: "anna"})
	has("10.77.0.130")
}

// Whose a reservation by serial number or UUID is, every node reads out of the same.
func TestWhoIsKnownByAnId(t *testing.T) {
	c := consensustest.NewCluster(t, 1, nil)
	node := c.Nodes[0]
	report := func(id, uuid, serial, agent string, macs ...string) {
		inv := wire.Inventory{System: wire.System{UUID: uuid, Serial: serial}}
		for _, mac := range macs {
			inv.NICs = append(inv.NICs, wire.NIC{Name: "eth", MAC: mac})
		}
		consensustest.Propose[*fleet.Machine](t, node, fleet.ReportMachine{NewID: id, BootID: id, SessionHash: "s" + id, MAC: agent, Inventory: inv})
	}
	const a, b, d = "52:54:00:aa:bb:01", "52:54:00:aa:bb:02", "52:54:00:aa:bb:03"
	report("m-1", "11111111-2222-3333-4444-55555555550A", "SN-7", b, a, b)
	report("m-2", "11111111-2222-3333-4444-55555555550b", "sn-7", d, d)
	got := fleetSeam{node, time.Now}.owners([]string{"sn-7", "11111111-2222-3333-4444-55555555550a", "nobody"})
	one, two := netboot.Owner{Name: "sn-7", Card: b}, netboot.Owner{Name: "sn-7", Card: d}
	if fmt.Sprint(got["sn-7"]) != fmt.Sprint([]netboot.Owner{one, two}) || fmt.Sprint(got["11111111-2222-3333-4444-55555555550a"]) != fmt.Sprint([]netboot.Owner{one}) || len(got) != 2 {
		t.Errorf("%v", got)
	}
}
