//go:build journey

package journey

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/appliance/lab"
)

// bootPort is where machines and nodes of a rack talk.
const bootPort = 80

// serving is the node that a machine's agent talks to: the one with the most
// open connections to it.
func (r *rack) serving(m lab.MachineState) string {
	r.t.Helper()
	address, err := netip.ParseAddr(r.machineOf(m.MAC).Addresses[m.MAC])
	if err != nil {
		r.t.Fatalf("address of %s: %v", m.Name, err)
	}
	best, most := "", 0
	r.await("a node talks to "+m.Name, func() bool {
		for _, n := range r.state().Nodes {
			// A process's view of the network is that of its namespace.
			table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", n.PID))
			if open := established(string(table), address); err == nil && open > most {
				best, most = n.Name, open
			}
		}
		return best != ""
	})
	return best
}

// established counts the connections between the boot port and a peer in a
// table such as /proc/net/tcp.
func established(table string, peer netip.Addr) int {
	bytes := peer.As4()
	slices.Reverse(bytes[:]) // it is printed as a number of the host's byte order
	remote := strings.ToUpper(hex.EncodeToString(bytes[:])) + ":"
	local := fmt.Sprintf(":%04X", bootPort)
	count := 0
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], local) && strings.HasPrefix(f[2], remote) && f[3] == "01" {
			count++
		}
	}
	return count
}

func TestEstablished(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 01004D0A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 90210 1 0 100 0 0 10 0
   1: 01004D0A:0050 64004D0A:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 90211 1 0 20 4 30 10 -1
   2: 01004D0A:0050 64004D0A:A1B4 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   3: 01004D0A:0050 65004D0A:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 90212 1 0 20 4 30 10 -1
   4: 01004D0A:128B 64004D0A:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 90213 1 0 20 4 30 10 -1
`
	if got := established(table, netip.MustParseAddr("10.77.0.100")); got != 1 {
		t.Errorf("%d connections are open, want the one with state 01 of the boot port", got)
	}
}
