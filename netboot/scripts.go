package netboot

import (
	"context"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"time"
)

// scripts decides what a machine that asks for its script is told, in whichever
// language and over whichever protocol.
type scripts struct {
	fleet      Fleet
	files      *Files
	profiles   Profiles   // nil: there are none
	neighbours Neighbours // nil: this node is alone
	kernelArgs string
	paths      paths
	bound      *bound
	lent       func(netip.Addr) string // the MAC of the machine that this node has lent the address to, or ""
	lends      func(netip.Addr) bool   // whether this node lends addresses of that one's network
	pin        string
	claim      func(mac string, addr netip.Addr) (string, error)
	strangers  *strangers
	loaders    *loaders
	complaints *pace
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time
}

// begin makes the path of a boot for whoever asks without one: a machine whose
// address another server lent, or that boots by a file of a fixed name. It leads to
// a script only from this address and, if this node lent it, for its machine.
func (s *scripts) begin(in language, node netip.AddrPort, from netip.Addr) string {
	return in.stub(node, s.paths.new(s.lent(from), from))
}

// scriptAsk is who asks for a script, in its own words but for node and from.
type scriptAsk struct {
	node                netip.AddrPort // that was asked
	from                netip.Addr
	path                string // of the boot, well formed
	looks               bool   // and does not take it
	mac, uuid, platform string
	built               string // the processor its loader was built for
}

// of is a machine's own script. A MAC that makes no sense gets the disk: it must not
// get the stub again, or the machine would go round for ever. The script is to be had
// when ok; served, if it is given, is to be called when the machine takes it, and may
// take as long as servedTime.
func (s *scripts) of(ctx context.Context, in language, ask scriptAsk) (script string, served func(), ok bool) {
	mac, ok := ParseMAC(ask.mac)
	if !ok {
		s.stats.add("script.bad mac")
		if s.complaints.mayComplain(s.now()) {
			s.log.Warn("boot script asked for without a proper MAC; the machine boots its disk", "mac", clip(ask.mac), "from", ask.from)
		}
		return in.local("this machine did not say who it is", 0), nil, true
	}
	leads := s.paths.leads(ask.path, mac, ask.from) || s.paths.anywhere(ask.path, mac) && s.bound.leads(ask.path, mac, ask.from, s.now())
	// Where this node lends the addresses, a machine that is known has its own. Whoever
	// comes from another, and was not lent that by this node as this machine, is somebody else.
	if fixed, known := s.fleet.Address(mac); known && fixed != ask.from && !s.paths.exactly(ask.path, mac, ask.from) && (s.lends(ask.from) || s.lends(fixed)) {
		leads = false
	}
	if !leads {
		s.stats.add("script.wrong path")
		if s.complaints.mayComplain(s.now()) {
			s.log.Warn("a boot script was asked for that is another machine's, or too late", "mac", mac, "from", ask.from)
		}
		return "", nil, false
	}
	m := Machine{MAC: mac, Addr: ask.from, Firmware: Firmware{Stage: StageIPXE, ArchCode: -1}}
	m.UUID, _ = ParseUUID(ask.uuid)
	switch ask.platform {
	case "efi":
		m.Firmware.Platform = "uefi"
	case "pcbios":
		m.Firmware.Platform = "bios"
	}
	d := s.fleet.Decide(ctx, m)
	if d.LocalDrive < 0 || d.LocalDrive > 0x7f {
		d.LocalDrive = 0
	}
	switch {
	case d.Counted:
		s.strangers.forget(mac)
	case d.Action == BootAgent && !ask.looks && s.strangers.held(mac, s.now()):
		// Nobody wants anything of it: it may be a server that runs.
		d.Action, d.Reason = BootLocal, strangerTried
	}
	m.Firmware.CPU = cpuOf(ask.built)
	if d.Action == BootAgent && !s.files.hasAgent(m.Firmware.CPU) {
		d.Action, d.Reason = BootLocal, "this node has no agent for "+m.Firmware.CPU+" machines"
	}
	files, _ := agentFor(m.Firmware.CPU)
	var claim string
	if d.Action == BootAgent {
		var err error
		if claim, err = s.claim(mac, m.Addr); err != nil {
			s.log.Warn("no claim code for a machine; it boots its disk", "mac", mac, "from", ask.from, "err", err)
			d.Action, d.Reason = BootLocal, "no claim code can be made for it"
		}
	}
	what := "to boot its own disk"
	switch d.Action {
	case BootProfile:
		if script, d = s.takeProfile(ctx, in, m, d, ask); d.Action == BootProfile {
			what = "to boot a profile, once"
		}
	case BootHold:
		what, script = "to wait", in.hold(ask.node, title(d))
	case BootAgent:
		what = "to start the agent"
		script = in.agent(agentScript{Node: ask.node, Others: s.others(ask.node), MAC: mac, Pin: s.pin, Claim: claim,
			Title: title(d), KernelArgs: s.kernelArgs, Now: s.now(), Files: files, Drive: d.LocalDrive})
	default:
		// A machine that has come this far needs a script even when nothing was
		// meant to be booted.
		script = in.local(title(d), d.LocalDrive)
	}
	s.loaders.runs(mac)
	s.sightings.netboots(mac, s.now())
	s.sightings.holds(mac, m.Addr)
	s.sightings.Add(Sighting{At: s.now(), MAC: mac, Kind: KindScript, Addr: m.Addr, Text: "was told " + what + because(d.Reason),
		Step: StepScript, Stage: StageIPXE, Platform: m.Firmware.Platform, UUID: m.sameUUID(), Action: d.Action})
	return script, func() { s.tell(ctx, m, d) }, true
}

// tell has the fleet know what the machine was told.
func (s *scripts) tell(ctx context.Context, m Machine, d Decision) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("recording what a machine was told caused a panic", "mac", m.MAC, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), servedTime)
	defer cancel()
	if err := s.fleet.BootServed(ctx, m, d); err != nil {
		s.log.Warn("could not record that a machine was told what to boot", "mac", m.MAC, "action", d.Action, "err", err)
	}
}

// servedTime is how long it may take until the fleet knows.
const servedTime = 10 * time.Second

// others are the nodes a machine may turn to when this one is gone.
func (s *scripts) others(own netip.AddrPort) []string {
	if s.neighbours == nil {
		return nil
	}
	return s.neighbours.Nodes(own)
}

// because appends a reason to a sentence.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}
