package appliance

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
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
				a, ok := fleetSeam{n}.Address(mac)
				return ok && a.String() == want && fleetSeam{n}.Taken(a)
			})
			if !(fleetSeam{n}).Taken(netip.MustParseAddr("10.77.0.130")) {
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
