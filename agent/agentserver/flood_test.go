package agentserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// S55: what is larger than a report is no report, and costs the machine nothing of what
// is known of it; what is cut is marked.
func TestS55_AFloodIsRefused(t *testing.T) {
	r := newRig(t)
	r.report(machineReport())
	var before *fleet.Machine
	r.c.View(func(s *fleet.State) { before = s.MachineByMAC(mac) })
	nics := machineReport()
	for i := range 100_000 {
		nics.Inventory.NICs = append(nics.Inventory.NICs, wire.NIC{MAC: fmt.Sprintf("52:54:01:%02x:%02x:%02x", i>>16, i>>8&255, i&255)})
	}
	model := machineReport()
	model.Inventory.System.Product = strings.Repeat("A", 1<<20)
	for name, req := range map[string]wire.ReportRequest{"100,000 NICs": nics, "a model of a megabyte": model} {
		req.Claim = r.claim(req.MAC)
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		// The node hangs up on who goes on sending, who may see that before the answer.
		res, err := r.caller("").Do(t.Context(), "POST", r.url+"/api/v1/agent/report", body)
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if res.Body.Close(); res.Status != 413 {
			t.Errorf("%s: answered %d", name, res.Status)
		}
	}
	r.c.View(func(s *fleet.State) {
		if s.MachineByMAC(mac) != before {
			t.Error("what is known of the machine has changed")
		}
	})
	// One that fits and says too much of one thing.
	long := machineReport()
	long.Inventory.System.Product = strings.Repeat("A", maxString+1)
	long.Inventory.Disks[0].Model = strings.Repeat("é", maxString)
	r.report(long)
	r.c.View(func(s *fleet.State) {
		inv := s.MachineByMAC(mac).Inventory
		if len(inv.System.Product) != maxString || len(inv.Disks[0].Model) > maxString || !inv.Truncated {
			t.Errorf("kept %d and %d bytes, truncated %v", len(inv.System.Product), len(inv.Disks[0].Model), inv.Truncated)
		}
	})
	r = newRig(t)
	r.report(machineReport())
	r.c.View(func(s *fleet.State) {
		if s.MachineByMAC(mac).Inventory.Truncated {
			t.Error("an ordinary report is marked as cut")
		}
	})
}
