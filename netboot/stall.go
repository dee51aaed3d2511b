package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A machine that does not boot says nothing: it stops. What it did last, and what it
// did not do then, nearly always names the cause. STALLS.md has them all.

// Stall is why a machine does not go on, as far as that can be told from outside.
type Stall struct {
	ID    string    `json:"id"`    // "loader-silent"
	Text  string    `json:"text"`  // "took snponly.efi, then nothing for 40 s: did Secure Boot refuse it?"
	Hint  string    `json:"hint"`  // what to do
	Since time.Time `json:"since"` // the last thing it did
	At    time.Time `json:"at"`    // when it was named
}

// Journey is what is known of a machine beyond the wire, from the agents' server and
// the fleet. The zero Journey is a stranger's.
type Journey struct {
	AgentSpoke time.Time // when its agent last said anything, to whichever node
	AgentDue   bool      // its agent should be talking now
	Installed  time.Time // when its last install was completed, if the disk is to be booted
	CameUp     time.Time // when the installed system first reported from its disk
	// UpTook is the longest that it took before, on this machine, from the end of an
	// install to that; 0 if none is known.
	UpTook   time.Duration
	Question string // a clash of ids that a person has to settle
}

// How long a machine may be silent before that is a stall. Each is longer than what
// is healthy (BOOTING.md has the times) and short enough to be named in a minute.
const (
	stopTime     = 5 * time.Second  // after a transfer that broke off: the firmware tries again at once
	missingTime  = 15 * time.Second // after a file that is not here: GRUB and shim ask for many
	againTime    = 10 * time.Second // after something that failed before
	loaderTime   = 40 * time.Second // from a loader to iPXE's DISCOVER
	scriptTime   = 30 * time.Second // from iPXE's address to its script: it may wait 16 s for an IPv6 router
	kernelTime   = 20 * time.Second // from the script to the kernel, and from that to the initramfs
	agentTime    = 50 * time.Second // from the initramfs to the agent's first word
	agentSilence = 55 * time.Second // of an agent, which asks for its approval every 25 s
	diskTime     = 55 * time.Second // from being told to boot its disk to the system's first word, of a machine that is known to be quicker, and
	diskUnknown  = 5 * time.Minute  // of one that nothing is known of: a Debian that makes its disk larger and its keys first has been seen to take 195 s
	diskMost     = 12 * time.Minute // whatever it took before: somebody may have had it off. It is less than watchedFor
	rebootTime   = 10 * time.Minute // from an install to any sign of life: servers take minutes to start
	proxyTime    = 25 * time.Second // from a proxy's offer to port 4011
	offersFor    = 5 * time.Second  // that three offers in a row are not one attempt
	togetherTime = 10 * time.Minute // in which what is repeated is one story
	stallLasts   = 24 * time.Hour   // without a sighting: somebody has switched it off
	watchedFor   = 15 * time.Minute // after its last sighting a machine is not looked at any more
	loopTimes    = 3
)

// stalled says why a machine does not go on, from what it was seen to do, oldest
// first. others is whether another DHCP server is known on its network. It is a
// function of what it is given, and ends a stall by not naming it any more.
func stalled(seen []Sighting, j Journey, others bool, now time.Time) (Stall, bool) {
	var d detector
	return d.look(seen, j, others, now)
}

// detector is stalled for many machines, one after the other.
type detector struct{ own []Sighting }

func (d *detector) look(seen []Sighting, j Journey, others bool, now time.Time) (Stall, bool) {
	l := cluesOf(d.own[:0], seen, j, others, now)
	d.own = l.seen
	for _, rule := range []func(clues) (Stall, bool){ // the cause before what follows from it
		clues.twoMachines, clues.agentSilent, clues.neverCameUp, clues.loop, clues.wrongPlatform, clues.missing, clues.stopped,
		clues.noAddress, clues.noLoader, clues.elsewhere, clues.offerNotTaken, clues.proxyNotTaken,
		clues.loaderSilent, clues.scriptNotAsked, clues.kernelNotAsked, clues.agentNeverSpoke,
	} {
		if s, ok := rule(l); ok {
			s.At = now
			return s, true
		}
	}
	return Stall{}, false
}

func (l clues) twoMachines() (Stall, bool) {
	const hint = "compare the labels of both machines; a MAC that was set by hand (bonding, virtual machines, a replaced card) is the usual cause. Nothing is overwritten before somebody settles it"
	if l.j.Question != "" {
		at := l.now
		if len(l.all) > 0 {
			at = l.all[len(l.all)-1].At
		}
		return Stall{ID: "two-machines", Text: "may be two machines: " + l.j.Question, Since: at,
			Hint: "look at both machines, then settle the question on the machine's page or with lpmos machine settle"}, true
	}
	uuid := map[Stage]Sighting{}
	for _, s := range l.all {
		if !s.own() || s.UUID == "" || s.Stage == "" || l.quiet(s) > togetherTime {
			continue
		}
		if other, ok := uuid[s.Stage]; ok && other.UUID != s.UUID {
			return Stall{ID: "two-machines", Since: other.At, Hint: hint,
				Text: fmt.Sprintf("two machines use this MAC: one says its UUID is %s, another %s", other.UUID, s.UUID)}, true
		}
		uuid[s.Stage] = s
	}
	return Stall{}, false
}

// agentSilent is for an agent that has spoken and should go on to.
func (l clues) agentSilent() (Stall, bool) {
	quiet := l.now.Sub(l.j.AgentSpoke)
	if !l.j.AgentDue || l.j.AgentSpoke.IsZero() || quiet < agentSilence {
		return Stall{}, false
	}
	for _, s := range l.seen {
		if s.Stage == StagePXE || s.Stage == StageHTTP || s.Stage == StageIPXE {
			return Stall{}, false // it starts anew, which is told by what comes of that
		}
	}
	return Stall{ID: "agent-silent", Since: l.j.AgentSpoke, Text: "its agent spoke, then said nothing for " + spanOf(quiet),
		Hint: "look at its console: the machine has lost power or its link, or the agent has stopped. It goes on by itself when it netboots again"}, true
}

// neverCameUp is for a machine that was installed.
func (l clues) neverCameUp() (Stall, bool) {
	if l.j.Installed.IsZero() || !l.j.CameUp.IsZero() && !l.j.CameUp.Before(l.j.Installed) {
		return Stall{}, false
	}
	told, toDisk, ok := l.told()
	limit, before := diskUnknown, "how long it takes is not known yet"
	if took := l.j.UpTook; took > 0 {
		limit, before = min(max(diskTime, took+took/2), diskMost), "it took "+spanOf(took)+" before"
	}
	switch {
	case ok && toDisk && told.At.After(l.j.Installed) && l.quiet(told) >= limit:
		return Stall{ID: "never-came-up", Since: told.At, Text: fmt.Sprintf("was installed and told to boot its disk, and the new system has not come up for %s; %s", spanOf(l.quiet(told)), before),
			Hint: "look at its console: does the firmware find the disk (boot order, RAID or NVMe driver, UEFI or BIOS), does the system start, has it got an address?"}, true
	case !ok && l.now.Sub(l.j.Installed) >= rebootTime && slices.ContainsFunc(l.all, Sighting.netboots):
		return Stall{ID: "never-came-up", Since: l.j.Installed, Text: fmt.Sprintf("was installed %s ago and has not been seen since: neither its firmware nor the new system", spanOf(l.now.Sub(l.j.Installed))),
			Hint: "look at its console: it may be off, or wait for a key, or boot its disk without a network"}, true
	}
	return Stall{}, false
}

// loop is for what goes round and round.
func (l clues) loop() (Stall, bool) {
	if got := l.loads(); got.n >= loopTimes {
		first, last := got.first, got.last
		text := fmt.Sprintf("loaded %s %d times in %s and got no further: ", last.File, got.n, spanOf(last.At.Sub(first.At)))
		if got.ipxe {
			hint := "another DHCP server tells iPXE to load iPXE: take the boot file out of its configuration, or have it tell iPXE apart by its user class"
			if s, ok := l.last(StepElsewhere); ok {
				hint = "the DHCP server " + s.Server.String() + " answers iPXE, too: " + hint
			}
			return Stall{ID: "chainload-loop", Since: first.At, Text: text + "iPXE loads itself again", Hint: hint}, true
		}
		return Stall{ID: "loader-loop", Since: first.At, Text: text + "it does not start on this machine", Hint: loaderHint(last.File)}, true
	}
	// One boot may try HTTP and then PXE, and be left to its disk by both: each is counted
	// by itself. An offer is not yet an answer that it takes, and an answer that comes
	// again a moment later was lost.
	type round struct {
		n           int
		first, last time.Time
	}
	rounds := map[Stage]round{}
	for _, s := range l.seen {
		switch {
		case l.quiet(s) > togetherTime:
		case s.Step == StepScript && s.Action == BootLocal, s.leavesToDisk() && (s.Step == StepAck || s.Step == StepProxyAck):
			r := rounds[s.Stage]
			if s.Step != StepScript && r.n > 0 && s.At.Sub(r.last) < againTime {
				continue
			}
			if r.n++; r.n == 1 {
				r.first = s.At
			}
			r.last = s.At
			rounds[s.Stage] = r
		case s.Step == StepScript:
			clear(rounds)
		}
	}
	for _, stage := range []Stage{StageIPXE, StagePXE, StageHTTP} {
		if r := rounds[stage]; r.n >= loopTimes {
			return Stall{ID: "disk-loop", Since: r.first, Text: fmt.Sprintf("was told to boot its own disk %d times in %s and came back each time", r.n, spanOf(r.last.Sub(r.first))),
				Hint: "nothing on its disk starts: put the disk into the boot order behind the network, choose UEFI or BIOS as the system was installed, or install it anew"}, true
		}
	}
	return Stall{}, false
}

// wrongPlatform is for a loader that cannot run on the firmware which asks for it.
func (l clues) wrongPlatform() (Stall, bool) {
	fw := Sighting{}
	var bad Sighting
	for _, s := range l.seen {
		file := platformOfFile(s.File)
		switch {
		case s.Stage == StagePXE || s.Stage == StageHTTP:
			fw, bad = s, Sighting{} // it begins anew
		case fw.Platform == "" || bad.Step != "":
		case s.Stage == StageIPXE && s.Platform != "" && s.Platform != fw.Platform:
			bad = s
		case file != "" && file != fw.Platform && (s.Step == StepAsked || s.Step == StepMissing || s.Step == StepServed):
			bad = s
		}
		if s.Step == StepServed && isKernel(s.File) {
			bad = Sighting{} // it went on all the same
		}
	}
	if bad.Step == "" {
		return Stall{}, false
	}
	names := map[string]string{"bios": "BIOS", "uefi": "UEFI"}
	if bad.Stage == StageIPXE {
		return Stall{ID: "wrong-platform", Since: bad.At, Text: fmt.Sprintf("its firmware is %s and the iPXE it runs is for %s", names[fw.Platform], names[bad.Platform]),
			Hint: "set the firmware to one of both in its setup, and see that no other DHCP server gives out a loader"}, true
	}
	return Stall{ID: "wrong-platform", Since: bad.At, Text: fmt.Sprintf("asked for %s, a %s loader, with %s firmware", bad.File, names[platformOfFile(bad.File)], names[fw.Platform]),
		Hint: "another DHCP server or a fixed option 67 names that file for every machine: have it tell them apart by option 93, or leave the boot file to LPMOS"}, true
}

// missing is for a file that is not here.
func (l clues) missing() (Stall, bool) {
	last, ok := l.outcome()
	if !ok || last.Step != StepMissing {
		return Stall{}, false
	}
	first, times := last, 0
	for _, s := range l.seen {
		switch {
		case s.Step == StepServed || s.Step == StepScript || s.leavesToDisk():
			times = 0
		case s.Step == StepMissing && s.File == last.File:
			if times == 0 {
				first = s
			}
			times++
		}
	}
	if l.quiet(last) < missingTime && (times < loopTimes || l.quiet(first) < stopTime) {
		return Stall{}, false
	}
	hint := "another DHCP server or a fixed option 67 names that file: have it name " + LoaderBIOS + " or " + LoaderUEFI + ", or leave the boot file to LPMOS"
	if isOurs(last.File) {
		hint = "this node was built without that file: build it with make boot-image, and start it again"
	}
	return Stall{ID: "file-missing", Since: first.At, Text: fmt.Sprintf("asked for the boot file %s, which there is not here", last.File), Hint: hint}, true
}

// stopped is for a transfer that broke off.
func (l clues) stopped() (Stall, bool) {
	s, ok := l.outcome()
	if !ok || s.Step != StepStopped || l.quiet(s) < stopTime {
		return Stall{}, false
	}
	switch {
	case s.Kind == KindHTTP:
		return Stall{ID: "http-stopped", Since: s.At, Text: fmt.Sprintf("HTTP stopped in the middle of %s, at %d of %d bytes", s.File, s.Bytes, s.Size),
			Hint: "the machine or something between ended the connection: look at its screen, at the link's errors, and at the path's MTU"}, true
	case s.End == EndUnheard:
		return Stall{ID: "tftp-unheard", Since: s.At, Text: fmt.Sprintf("asked for %s over TFTP, and nothing that it was sent came back acknowledged", s.File),
			Hint: "its request came through and the answers do not: they leave from a port of their own. Let UDP from this node's high ports to the machine through the firewall"}, true
	case s.Bytes == 0 && s.End == EndSilent && s.Block > tftpPlain:
		return Stall{ID: "tftp-block", Since: s.At, Text: fmt.Sprintf("TFTP stopped at block 1: a %d-byte block does not pass this path", s.Block),
			Hint: fmt.Sprintf("a packet of %d bytes gets lost between here and the machine: look for a smaller MTU (tunnel, VPN, VLAN stacking) on the way", s.Block+32)}, true
	}
	how := "the machine fell silent"
	if s.End == EndHungUp {
		how = "the machine ended it"
	}
	return Stall{ID: "tftp-stopped", Since: s.At, Text: fmt.Sprintf("TFTP stopped in the middle of %s, at %d of %d bytes: %s", s.File, s.Bytes, s.Size, how),
		Hint: "packets get lost on the way, or the machine was switched off: look at the link's errors, its speed and duplex"}, true
}

func (l clues) noAddress() (Stall, bool) {
	s, ok := l.dhcp()
	if !ok || s.End != EndNoAddress || l.quiet(s) < stopTime { // another node may have one
		return Stall{}, false
	}
	return Stall{ID: "no-address", Since: s.At, Text: s.Text,
		Hint: "make the range of the interface larger, or wait: firmware's addresses are free after 10 minutes, a system's after an hour"}, true
}

func (l clues) noLoader() (Stall, bool) {
	s, ok := l.dhcp()
	if !ok || s.End != EndNoLoader {
		return Stall{}, false
	}
	return Stall{ID: "no-loader", Since: s.At, Text: "asks for a boot loader as " + s.Firmware + ", and there is none for that here",
		Hint: noLoaderHint(s.Firmware)}, true
}

func noLoaderHint(firmware string) string {
	if firmware == (Firmware{Stage: StagePXE, Platform: "uefi", CPU: "arm64"}).String() {
		return "this node was built where apt had no packages of arm64: build it where it has, with make boot-image build"
	}
	return "x86-64 machines, with BIOS or UEFI, and arm64 machines with UEFI can be booted; choose another boot mode in its setup if there is one"
}

func (l clues) elsewhere() (Stall, bool) {
	i := l.lastAt(StepElsewhere)
	if i < 0 || l.quiet(l.seen[i]) < stopTime {
		return Stall{}, false
	}
	for _, s := range l.seen[i+1:] {
		if s.Step != StepOffer && s.Step != StepElsewhere {
			return Stall{}, false // it came here after all
		}
	}
	s := l.seen[i]
	return Stall{ID: "other-server", Since: s.At, Text: s.Server.String() + " answered first: the machine took its address, and what to boot from there",
		Hint: "stop the DHCP server at " + s.Server.String() + " on this network, or let LPMOS stand beside it: mode proxy"}, true
}

func (l clues) offerNotTaken() (Stall, bool) {
	var first Sighting
	n := 0
	for _, s := range l.seen {
		switch {
		case l.quiet(s) > togetherTime:
		case s.Step == StepOffer && s.Stage != StageSystem:
			if n == 0 {
				first = s
			}
			n++
		default:
			n = 0
		}
	}
	if n < loopTimes || l.quiet(first) < offersFor {
		return Stall{}, false
	}
	return Stall{ID: "offer-not-taken", Since: first.At, Text: fmt.Sprintf("asked for an address %d times and took none: the offers do not reach it", n),
		Hint: "look at the switch: a VLAN that is tagged one way only, spanning tree that holds the port back (use portfast), or DHCP snooping that takes this node for a stranger"}, true
}

func (l clues) proxyNotTaken() (Stall, bool) {
	i := l.lastAt(StepProxy)
	if i < 0 {
		return Stall{}, false
	}
	for _, s := range l.seen[i+1:] {
		if s.Step != StepProxy {
			return Stall{}, false
		}
	}
	first, n := l.seen[i], 0
	for ; i >= 0 && l.seen[i].Step == StepProxy; i-- {
		first, n = l.seen[i], n+1
	}
	if l.quiet(first) < proxyTime {
		return Stall{}, false
	}
	if !l.others {
		return Stall{ID: "proxy-alone", Since: first.At, Text: fmt.Sprintf("asked %s what to boot and has no address: no other DHCP server answers here, and a proxy lends none", counted(n)),
			Hint: "start the network's own DHCP server, or let LPMOS lend addresses: mode dhcp"}, true
	}
	return Stall{ID: "proxy-not-taken", Since: first.At, Text: fmt.Sprintf("was told %s what to boot and never came for it: it got no address from the other DHCP server, or does not merge two offers", counted(n)),
		Hint: "if the other server has addresses left, set its options 66 and 67 to this node and the loader's name, or let LPMOS lend addresses: mode dhcp"}, true
}

// loaderSilent is for a loader that does not start.
func (l clues) loaderSilent() (Stall, bool) {
	last, ok := l.outcome()
	if !ok || last.Step != StepServed || !isLoader(last.File) {
		return Stall{}, false
	}
	again, first := 0, last
	if got := l.loads(); got.n > 0 {
		again, first = got.n, got.first
	}
	for _, s := range l.seen {
		if s.Stage == StageIPXE && !s.At.Before(last.At) {
			return Stall{}, false
		}
	}
	if l.quiet(last) < loaderTime && (again < 2 || l.quiet(last) < againTime) {
		return Stall{}, false
	}
	why := "it does not start on this machine"
	hint := loaderHint(last.File)
	switch i := l.lastAt(StepAck, StepProxy, StepProxyAck); {
	case isGRUB(last.File) && i >= 0 && l.seen[i].Step != StepAck:
		// Seen with GRUB 2.06: it knows the packet that lent the address, and not the proxy's.
		why = "beside another DHCP server it asks that one for its next file"
		hint = "have the other DHCP server name this node as the next server (siaddr; dnsmasq: dhcp-boot=,,ADDRESS), or let LPMOS lend addresses: mode dhcp"
	case platformOfFile(last.File) == "uefi":
		why = "did Secure Boot refuse it?"
	}
	text := fmt.Sprintf("took %s, then silence for %s: %s", last.File, spanOf(l.quiet(last)), why)
	if again > 1 {
		text = fmt.Sprintf("took %s %d times, and it never began: %s", last.File, again, why)
	}
	return Stall{ID: "loader-silent", Since: first.At, Text: text, Hint: hint}, true
}

// scriptNotAsked is for iPXE that has an address and does not come for its script.
func (l clues) scriptNotAsked() (Stall, bool) {
	i := l.lastAt(StepAck, StepProxy, StepProxyAck)
	if i < 0 || l.seen[i].Stage != StageIPXE || l.quiet(l.seen[i]) < scriptTime {
		return Stall{}, false
	}
	for _, s := range l.seen[i+1:] {
		if s.Step == StepScript || s.Step == StepAsked || s.Step == StepElsewhere {
			return Stall{}, false
		}
	}
	return Stall{ID: "script-not-asked", Since: l.seen[i].At, Text: "iPXE has an address and was told where its script is, and has not come for it for " + spanOf(l.quiet(l.seen[i])),
		Hint: "it cannot open a TCP connection to this node: let the boot port through the firewall, and see that the address it was lent is of the network it is in"}, true
}

// kernelNotAsked is for a machine that was told to start the agent and does not.
func (l clues) kernelNotAsked() (Stall, bool) {
	i := l.lastAt(StepScript)
	if i < 0 || l.seen[i].Action != BootAgent {
		return Stall{}, false
	}
	told, kernel := l.seen[i], Sighting{}
	for _, s := range l.seen[i+1:] {
		switch {
		case isInitrd(s.File), s.Stage != "":
			return Stall{}, false // it went on, or began anew
		case isKernel(s.File):
			kernel = s
		}
	}
	switch {
	case kernel.Step == "" && l.quiet(told) >= kernelTime:
		return Stall{ID: "kernel-not-asked", Since: told.At, Text: fmt.Sprintf("fetched its script and for %s never asked for the kernel: HTTP to the boot port is cut off after the first answers", spanOf(l.quiet(told))),
			Hint: "look at the machine's screen for iPXE's error, and at firewalls or proxies between that look into HTTP"}, true
	case kernel.Step == StepServed && l.quiet(kernel) >= kernelTime:
		return Stall{ID: "initrd-not-asked", Since: kernel.At, Text: fmt.Sprintf("fetched the kernel and for %s never asked for the initramfs", spanOf(l.quiet(kernel))),
			Hint: "look at the machine's screen for iPXE's error: it may have too little memory"}, true
	}
	return Stall{}, false
}

// agentNeverSpoke is for a machine that has all of the agent and says nothing.
func (l clues) agentNeverSpoke() (Stall, bool) {
	i := -1
	for k, s := range l.seen {
		if s.Step == StepServed && isInitrd(s.File) {
			i = k
		}
	}
	if i < 0 || l.quiet(l.seen[i]) < agentTime {
		return Stall{}, false
	}
	system := false
	for _, s := range l.seen[i+1:] {
		switch s.Stage {
		case StagePXE, StageHTTP, StageIPXE:
			return Stall{}, false
		case StageSystem:
			system = system || s.Step == StepAck
		}
	}
	if system {
		return Stall{ID: "agent-unheard", Since: l.seen[i].At, Text: fmt.Sprintf("started and has an address, and its agent has not spoken for %s", spanOf(l.quiet(l.seen[i]))),
			Hint: "its console says why: TLS to the boot port may be cut off, or its cluster's pin is another"}, true
	}
	return Stall{ID: "agent-never-spoke", Since: l.seen[i].At, Text: fmt.Sprintf("has the agent's kernel and initramfs, then nothing for %s: does the kernel start, and has it a driver for the network card?", spanOf(l.quiet(l.seen[i]))),
		Hint: "look at its console (serial, 115200): a kernel that stops, a card without a driver in the boot image, or a link that takes long to come up"}, true
}

func loaderHint(file string) string {
	switch {
	case isShim(file) || file == LoaderGRUB:
		return "look at its screen: does its setup know Microsoft's key for other systems (\"3rd party UEFI CA\")? Else switch Secure Boot off there"
	case file == LoaderGRUBARM64:
		return "switch it on once more: by PXE it is given " + LoaderShimARM64 + " then, which is signed. If Secure Boot is off in its setup, look at its screen"
	case platformOfFile(file) == "uefi":
		return "switch it on once more: by PXE it is given " + LoaderShim + " then, which is signed. If Secure Boot is off in its setup, look at its screen"
	}
	return "look at its screen; try UEFI in the machine's setup, or a network card whose ROM is iPXE"
}

// isLoader says whether a file is what firmware loads before iPXE.
func isLoader(file string) bool {
	switch file {
	case LoaderBIOS, LoaderUEFI, LoaderUEFIAll:
		return true
	}
	return platformOfFile(file) != ""
}

// isOurs says whether a boot file of that name belongs to a node.
func isOurs(file string) bool {
	switch file {
	case LoaderBIOS, LoaderUEFI, LoaderUEFIAll, LoaderShim, LoaderGRUB, FileKernel, FileInitrd, LoaderShimARM64, LoaderGRUBARM64, FileKernelARM64, FileInitrdARM64:
		return true
	}
	return false
}

// platformOfFile is what a loader runs on, by its name; empty for what is no loader.
func platformOfFile(file string) string {
	name := strings.ToLower(file)
	switch {
	case strings.HasSuffix(name, ".efi"):
		return "uefi"
	case strings.HasSuffix(name, ".kpxe"), strings.HasSuffix(name, ".pxe"), strings.HasSuffix(name, ".0"), strings.HasSuffix(name, ".kkpxe"):
		return "bios"
	}
	return ""
}

// spanOf words a span of time.
func spanOf(d time.Duration) string {
	switch s := int(d.Seconds()); {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 120*60:
		return fmt.Sprintf("%d min", s/60)
	default:
		return fmt.Sprintf("%d h", s/3600)
	}
}

func counted(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// Stalled is a machine with why it does not go on.
type Stalled struct {
	MAC  string     `json:"mac"`
	Addr netip.Addr `json:"addr,omitzero"`
	Stall
}
