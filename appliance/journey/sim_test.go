//go:build journey

package journey

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/lab/sim"
)

// A simulated fleet goes the whole way on a real wire against the real program: firmware
// of every kind, the agent's own code, two installs onto files; with packets lost, and
// with one of three nodes killed half-way.
func TestSimulatedFleet(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		// What firmware and agent send when nothing is lost is two packets for each
		// address, and they ask for three at most.
		packets int // each, at most
	}{
		{"one node, every firmware", []string{"--install", "2", "--firmware", "bios,uefi,uefi-http,ipxe,ipxe-uefi"}, 12},
		{"packets are lost", []string{"--install", "2", "--loss", "0.05"}, 40},
		{"one of three nodes is killed", []string{"--install", "2", "--nodes", "3", "--kill-node", "50%"}, 24},
	} {
		t.Run(c.name, func(t *testing.T) {
			const machines = 20
			dir, err := os.MkdirTemp("", "lpmos-sim-") // short: the control socket's name has a limit
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			args := append([]string{"lab", "sim", "--json", "--dir", filepath.Join(dir, "rack"), "--machines", "20", "--quick",
				"--image", "tiny=" + tinyImage(t)}, c.args...)
			cmd := exec.CommandContext(ctx, filepath.Join(repository(t), "bin/lpmos"), args...)
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = time.Minute
			var out, complaint bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &complaint
			err = cmd.Run()
			var res sim.Result
			if parse := json.Unmarshal(out.Bytes(), &res); err != nil || parse != nil {
				t.Fatalf("%v, %v: %s\n%s", err, parse, complaint.String(), out.String())
			}
			var table bytes.Buffer
			res.Print(&table)
			t.Logf("\n%s", table.String())
			if res.Agents != machines || res.Installed != 2 {
				t.Errorf("%d of %d machines reached the agent, and %d of 2 are installed", res.Agents, machines, res.Installed)
			}
			if res.Packets > c.packets*machines {
				t.Errorf("%d DHCP packets, more than %d for each machine: a storm", res.Packets, c.packets)
			}
			for _, name := range []string{"firmware offer", "script", "kernel", "initrd", "agent ack", "report", "approval → first byte", "approval → up"} {
				if s := res.Step(name); s == nil || s.N == 0 && name != "firmware offer" {
					t.Errorf("nobody has measured %q", name)
				}
			}
			// A kernel and an initramfs each, to the last byte.
			if least := int64(machines) * 15e6; res.Bytes < least {
				t.Errorf("%d bytes were fetched to boot, want %d", res.Bytes, least)
			}
			for name, n := range res.Nodes {
				if n.CPUSeconds <= 0 || n.MaxRSS <= 0 {
					t.Errorf("%s took %+v", name, n)
				}
			}
		})
	}
}
