// Package netboot is what firmware is told: it answers DHCP (as the network's
// server, or as a proxyDHCP beside another one), hands out boot loaders over
// TFTP and HTTP, and gives iPXE the script that either starts the agent or
// boots the machine's own disk. BOOTING.md tells a whole boot as a walk.
//
// The package knows nothing of tasks and approvals: it asks a Fleet what a
// machine should boot and tells it when the machine has taken the answer.
package netboot

import (
	"context"
	"net/netip"
)

// Fleet is what netboot needs to know from the rest of the node. Its methods
// are called for every packet of every machine, also of unknown ones: they
// must be quick, answer from memory, and be safe for concurrent use.
type Fleet interface {
	// Decide says what the machine is to boot now. It must not write: a
	// stranger's packet may not cost the cluster a log entry.
	Decide(ctx context.Context, m Machine) Decision

	// BootServed reports that the machine has fetched the script of d. It may
	// write. An error is logged and the script is served all the same.
	BootServed(ctx context.Context, m Machine, d Decision) error

	// Address is the address a known machine keeps for ever on the interface
	// with this hardware address (lower case, colons).
	Address(mac string) (netip.Addr, bool)

	// Taken says whether addr belongs to some known machine and may therefore
	// not be drawn from the pool for another.
	Taken(addr netip.Addr) bool
}

// Action is what a machine is told to boot.
type Action string

// The actions. The zero Action is treated as BootLocal: in doubt a machine
// boots its own disk.
const (
	BootAgent   Action = "agent"   // the agent's kernel and initramfs
	BootLocal   Action = "local"   // the machine's own disk
	BootProfile Action = "profile" // a profile, once: see Profiles
	BootHold    Action = "hold"    // wait, visibly: the agent is wanted and was started in vain too often
	BootNothing Action = "nothing" // no boot file at all: netboot stays silent about booting
)

// Decision is the fleet's answer.
type Decision struct {
	Action     Action
	MachineID  string
	Name       string // shown on the machine's console; may be empty
	Reason     string // half a sentence for the console and the timeline: "no task is waiting"
	LocalDrive int    // BIOS drive that BootLocal boots, counted from 0
	SecureBoot bool   // the machine's agent said that Secure Boot is on
	Wish       *Wish  // for BootProfile
	Counted    bool   // the fleet counts how often the machine netboots; else netboot does
}
