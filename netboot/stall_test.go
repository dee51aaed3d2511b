package netboot

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// A trail is told as what was seen so many seconds after the first.
type seenAt struct {
	s int
	Sighting
}

var (
	pxeAck   = Sighting{Kind: KindDHCP, Step: StepAck, Stage: StagePXE, Platform: "uefi", File: LoaderUEFI}
	pxeOffer = Sighting{Kind: KindDHCP, Step: StepOffer, Stage: StagePXE, Platform: "uefi", File: LoaderUEFI}
	loaded   = Sighting{Kind: KindTFTP, Step: StepServed, File: LoaderUEFI, Bytes: 9, Size: 9, Block: 1468}
	biosAck  = Sighting{Kind: KindDHCP, Step: StepAck, Stage: StagePXE, Platform: "bios", File: LoaderBIOS}
	biosLoad = Sighting{Kind: KindTFTP, Step: StepServed, File: LoaderBIOS, Bytes: 9, Size: 9, Block: 1468}
	ipxeAck  = Sighting{Kind: KindDHCP, Step: StepAck, Stage: StageIPXE, Platform: "uefi", File: "script"}
	agent    = Sighting{Kind: KindScript, Step: StepScript, Stage: StageIPXE, Platform: "uefi", Action: BootAgent}
	ownDisk  = Sighting{Kind: KindScript, Step: StepScript, Stage: StageIPXE, Platform: "uefi", Action: BootLocal}
	kernel   = Sighting{Kind: KindHTTP, Step: StepServed, File: FileKernel}
	initrd   = Sighting{Kind: KindHTTP, Step: StepServed, File: FileInitrd}
	system   = Sighting{Kind: KindDHCP, Step: StepAck, Stage: StageSystem}
	proxied  = Sighting{Kind: KindDHCP, Step: StepProxy, Stage: StagePXE, Platform: "uefi", File: LoaderUEFI}
	taken    = Sighting{Kind: KindDHCP, Step: StepElsewhere, Stage: StagePXE, Platform: "uefi", Server: netip.MustParseAddr("10.77.0.2")}
)

func (s Sighting) but(change func(*Sighting)) Sighting {
	change(&s)
	return s
}

func ofFile(name string) func(*Sighting) { return func(s *Sighting) { s.File = name } }

func TestStalls(t *testing.T) {
	start := time.Unix(1700000000, 0)
	after := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	stopped := func(bytes int64, block int, end End) Sighting {
		return Sighting{Kind: KindTFTP, Step: StepStopped, File: LoaderUEFI, Bytes: bytes, Size: 200000, Block: block, End: end}
	}
	missing := Sighting{Kind: KindTFTP, Step: StepMissing, File: "pxelinux.0"}
	full := Sighting{Kind: KindDHCP, Step: StepDiscover, Stage: StagePXE, Platform: "bios", End: EndNoAddress, Text: "asked for an address, but none is left in 10.77.0.100-10.77.0.199"}
	ofGRUB := func(s *Sighting) { s.File = LoaderGRUBARM64 }
	arm := Sighting{Kind: KindDHCP, Step: StepAck, Stage: StagePXE, Platform: "uefi", End: EndNoLoader, Firmware: "UEFI arm64 PXE firmware"}
	// As firmware is told of it that is left to its disk.
	none := told(request{machine: Machine{Firmware: Firmware{Stage: StagePXE}}}, LoaderNone)
	noneOffer, noneAck, noneProxy := pxeOffer.but(ofFile(none)), pxeAck.but(ofFile(none)), proxied.but(ofFile(none))
	noneProxyAck := noneProxy.but(func(s *Sighting) { s.Step = StepProxyAck })
	noneHTTP := noneAck.but(func(s *Sighting) {
		s.Stage, s.File = StageHTTP, told(request{machine: Machine{Firmware: Firmware{Stage: StageHTTP, CPU: "arm64"}}}, "http://10.77.0.1/boot/"+LoaderNone)
	})
	list, err := os.ReadFile("STALLS.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	whole := []seenAt{{0, pxeOffer}, {1, pxeAck}, {2, loaded}, {5, ipxeAck}, {6, agent}, {7, kernel}, {8, initrd}}
	with := func(base []seenAt, more ...seenAt) []seenAt { return append(append([]seenAt(nil), base...), more...) }
	for name, c := range map[string]struct {
		seen   []seenAt
		j      Journey
		others bool
		now    int
		id     string // "" for none
		says   string // in the sentence
	}{
		"nothing was seen":                     {now: 100},
		"a boot that has just begun":           {seen: whole[:2], now: 5},
		"a loader that may yet start":          {seen: whole[:3], now: 41},
		"a loader that does not":               {seen: whole[:3], now: 42, id: "loader-silent", says: "took snponly.efi, then silence for 40 s: did Secure Boot refuse it?"},
		"a BIOS loader that does not":          {seen: []seenAt{{0, biosAck}, {1, biosLoad}}, now: 60, id: "loader-silent", says: "it does not start on this machine"},
		"the second time is soon enough":       {seen: []seenAt{{0, pxeAck}, {1, loaded}, {20, pxeAck}, {21, loaded}}, now: 31, id: "loader-silent", says: "2 times"},
		"a loader that has started":            {seen: whole[:4], now: 30},
		"three times is a loop":                {seen: []seenAt{{0, pxeAck}, {1, loaded}, {20, pxeAck}, {21, loaded}, {40, pxeAck}, {41, loaded}}, now: 42, id: "loader-loop", says: "loaded snponly.efi 3 times in 40 s"},
		"iPXE that loads itself":               {seen: []seenAt{{0, pxeAck}, {1, loaded}, {3, taken.but(func(s *Sighting) { s.Stage = StageIPXE })}, {4, loaded}, {6, ipxeAck}, {7, loaded}}, now: 8, id: "chainload-loop", says: "iPXE loads itself again"},
		"loops of long ago":                    {seen: []seenAt{{0, pxeAck}, {1, loaded}, {900, pxeAck}, {901, loaded}, {1800, pxeAck}, {1801, loaded}}, now: 1805},
		"a script that is not come for":        {seen: whole[:4], now: 35, id: "script-not-asked", says: "has not come for it for 30 s"},
		"a kernel that is not come for":        {seen: whole[:5], now: 26, id: "kernel-not-asked", says: "fetched its script and for 20 s never asked for the kernel"},
		"nor its own disk's":                   {seen: with(whole[:4], seenAt{6, ownDisk}), now: 600},
		"an initramfs that is not come for":    {seen: whole[:6], now: 27, id: "initrd-not-asked"},
		"an agent that may yet speak":          {seen: whole, now: 57},
		"an agent that never spoke":            {seen: whole, now: 58, id: "agent-never-spoke", says: "then nothing for 50 s"},
		"an agent that had an address":         {seen: with(whole, seenAt{20, system}), now: 58, id: "agent-unheard", says: "has an address"},
		"an agent that spoke":                  {seen: whole, j: Journey{AgentSpoke: after(30), AgentDue: true}, now: 58},
		"an agent that spoke before this boot": {seen: whole, j: Journey{AgentSpoke: after(-300)}, now: 58, id: "agent-never-spoke"},
		"an agent that spoke once":             {seen: whole, j: Journey{AgentSpoke: after(30), AgentDue: true}, now: 85, id: "agent-silent", says: "spoke, then said nothing for 55 s"},
		"an agent nobody waits for":            {seen: whole, j: Journey{AgentSpoke: after(30)}, now: 600},
		"an agent whose machine starts anew":   {seen: with(whole, seenAt{80, pxeAck}), j: Journey{AgentSpoke: after(30), AgentDue: true}, now: 90},
		"installed and rebooting":              {seen: whole, j: Journey{AgentSpoke: after(100), Installed: after(100)}, now: 300},
		"installed and never back":             {seen: whole, j: Journey{AgentSpoke: after(100), Installed: after(100)}, now: 700, id: "never-came-up", says: "has not been seen since"},
		"installed, told to boot its disk":     {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100)}, now: 454},
		"and that for too long":                {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100)}, now: 455, id: "never-came-up", says: "has not come up for 5 min; how long it takes is not known"},
		"a machine that is quick":              {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 20 * time.Second}, now: 210, id: "never-came-up", says: "has not come up for 55 s; it took 20 s before"},
		"a machine that is slow":               {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 240 * time.Second}, now: 514},
		"and slower than it was":               {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 240 * time.Second}, now: 515, id: "never-came-up", says: "it took 4 min before"},
		"a machine that was off for a day":     {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 24 * time.Hour}, now: 155 + 12*60, id: "never-came-up", says: "for 12 min; it took 24 h before"},
		"installed and up":                     {seen: with(whole, seenAt{150, pxeAck}, seenAt{155, ownDisk}), j: Journey{AgentSpoke: after(100), Installed: after(100), CameUp: after(180)}, now: 900},
		"comes back from its disk":             {seen: []seenAt{{0, ownDisk}, {40, pxeAck}, {50, ownDisk}, {90, pxeAck}, {100, ownDisk}}, now: 101, id: "disk-loop", says: "3 times in 100 s"},
		"left to its disk, and a while ago":    {seen: with(whole, seenAt{150, noneOffer}, seenAt{151, noneAck}), j: Journey{AgentSpoke: after(100), Installed: after(100)}, now: 450},
		"left to its disk for too long":        {seen: with(whole, seenAt{150, noneOffer}, seenAt{151, noneAck}), j: Journey{AgentSpoke: after(100), Installed: after(100)}, now: 451, id: "never-came-up", says: "told to boot its disk, and the new system has not come up for 5 min; how long it takes is not known"},
		"left to its disk, and quick before":   {seen: with(whole, seenAt{150, noneOffer}, seenAt{151, noneAck}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 20 * time.Second}, now: 206, id: "never-came-up", says: "has not come up for 55 s; it took 20 s before"},
		"left to its disk, and slow before":    {seen: with(whole, seenAt{150, noneOffer}, seenAt{151, noneAck}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 8 * time.Minute}, now: 860},
		"left to its disk by a proxy":          {seen: with(whole, seenAt{150, noneProxy}, seenAt{154, noneProxyAck}), j: Journey{AgentSpoke: after(100), Installed: after(100), UpTook: 20 * time.Second}, now: 209, id: "never-came-up", says: "has not come up for 55 s"},
		"refused by PXE, none by HTTP boot":    {seen: []seenAt{{0, pxeAck}, {2, loaded}, {6, noneHTTP}}, now: 60, id: "loader-silent", says: "did Secure Boot refuse it?"},
		"left to its disk before the install":  {seen: []seenAt{{0, noneAck}}, j: Journey{Installed: after(100)}, now: 600},
		"left to its disk, and back":           {seen: []seenAt{{0, noneOffer}, {1, noneAck}, {40, noneOffer}, {41, noneAck}, {80, noneOffer}, {84, noneOffer}, {85, noneAck}}, now: 86, id: "disk-loop", says: "told to boot its own disk 3 times in 84 s and came back"},
		"and beside another server":            {seen: []seenAt{{0, noneProxy}, {4, noneProxyAck}, {40, noneProxy}, {44, noneProxyAck}, {80, noneProxy}, {84, noneProxyAck}}, others: true, now: 86, id: "disk-loop", says: "3 times in 80 s"},
		"one answer that was lost twice":       {seen: []seenAt{{0, noneOffer}, {1, noneAck}, {4, noneAck}, {8, noneAck}}, now: 9},
		"twice, by HTTP and by PXE":            {seen: []seenAt{{0, noneHTTP}, {9, noneAck}, {60, noneHTTP}, {69, noneAck}}, now: 90},
		"twice, and the agent in between":      {seen: []seenAt{{0, noneAck}, {40, noneAck}, {80, pxeAck}, {82, agent}, {83, kernel}, {84, initrd}, {120, noneAck}}, now: 121},
		"left to its disk after all":           {seen: []seenAt{{0, pxeAck.but(ofGRUB)}, {1, loaded.but(ofGRUB)}, {30, noneOffer}, {31, noneAck}}, now: 300},
		"left to its disk after a broken one":  {seen: []seenAt{{0, pxeAck.but(ofGRUB)}, {1, stopped(1468, 1468, EndSilent)}, {30, noneAck}}, now: 300},
		"a BIOS loader for UEFI":               {seen: []seenAt{{0, pxeAck}, {1, Sighting{Kind: KindTFTP, Step: StepAsked, File: LoaderBIOS}}}, now: 2, id: "wrong-platform", says: "asked for undionly.kpxe, a BIOS loader, with UEFI firmware"},
		"iPXE of the other kind":               {seen: []seenAt{{0, biosAck}, {1, biosLoad}, {3, ipxeAck}}, now: 4, id: "wrong-platform", says: "its firmware is BIOS and the iPXE it runs is for UEFI"},
		"UEFI, then BIOS as a second try":      {seen: []seenAt{{0, pxeAck}, {5, biosAck}, {6, biosLoad}}, now: 7},
		"a file that is not here":              {seen: []seenAt{{0, biosAck}, {1, missing}}, now: 16, id: "file-missing", says: "asked for the boot file pxelinux.0, which there is not here"},
		"again and again":                      {seen: []seenAt{{0, biosAck}, {1, missing}, {3, missing}, {6, missing}}, now: 7, id: "file-missing"},
		"one of many that GRUB asks for":       {seen: []seenAt{{0, biosAck}, {1, missing}}, now: 3},
		"one of ours that was not built":       {seen: []seenAt{{0, biosAck}, {1, missing.but(ofFile(LoaderBIOS))}}, now: 16, id: "file-missing"},
		"the first block does not arrive":      {seen: []seenAt{{0, pxeAck}, {1, stopped(0, 1468, EndSilent)}}, now: 6, id: "tftp-block", says: "TFTP stopped at block 1: a 1468-byte block does not pass this path"},
		"small blocks have another cause":      {seen: []seenAt{{0, pxeAck}, {1, stopped(0, 512, EndSilent)}}, now: 6, id: "tftp-stopped"},
		"nothing arrives":                      {seen: []seenAt{{0, pxeAck}, {1, stopped(0, 1468, EndUnheard)}}, now: 6, id: "tftp-unheard", says: "nothing that it was sent came back"},
		"the middle does not arrive":           {seen: []seenAt{{0, pxeAck}, {1, stopped(1468, 1468, EndSilent)}}, now: 6, id: "tftp-stopped", says: "at 1468 of 200000 bytes: the machine fell silent"},
		"the machine hung up":                  {seen: []seenAt{{0, pxeAck}, {1, stopped(1468, 1468, EndHungUp)}}, now: 6, id: "tftp-stopped", says: "the machine ended it"},
		"it asks anew":                         {seen: []seenAt{{0, pxeAck}, {1, stopped(1468, 1468, EndSilent)}, {8, pxeAck}}, now: 9, id: "tftp-stopped"},
		"it has it after all":                  {seen: []seenAt{{0, pxeAck}, {1, stopped(1468, 1468, EndSilent)}, {3, loaded}}, now: 9},
		"HTTP in the middle":                   {seen: with(whole[:5], seenAt{7, Sighting{Kind: KindHTTP, Step: StepStopped, File: FileInitrd, Bytes: 7, Size: 9}}), now: 12, id: "http-stopped", says: "at 7 of 9 bytes"},
		"no address is left":                   {seen: []seenAt{{0, full}}, now: 5, id: "no-address", says: "none is left in 10.77.0.100-10.77.0.199"},
		"an address after all":                 {seen: []seenAt{{0, full}, {2, biosAck}}, now: 3},
		"another node may have one":            {seen: []seenAt{{0, full}}, now: 4},
		"no loader":                            {seen: []seenAt{{0, arm}}, now: 1, id: "no-loader", says: "asks for a boot loader as UEFI arm64 PXE firmware, and there is none"},
		"GRUB beside another server":           {seen: []seenAt{{0, proxied.but(ofGRUB)}, {1, loaded.but(ofGRUB)}}, others: true, now: 42, id: "loader-silent", says: "took grubaa64.efi, then silence for 41 s: beside another DHCP server it asks that one for its next file"},
		"GRUB that does not start":             {seen: []seenAt{{0, pxeAck.but(ofGRUB)}, {1, loaded.but(ofGRUB)}}, now: 42, id: "loader-silent", says: "did Secure Boot refuse it?"},
		"another server was first":             {seen: []seenAt{{0, pxeOffer}, {1, taken}}, now: 6, id: "other-server", says: "10.77.0.2 answered first"},
		"and lets it come here all the same":   {seen: []seenAt{{0, pxeOffer}, {1, taken}, {2, loaded}}, now: 20},
		"offers that are not taken":            {seen: []seenAt{{0, pxeOffer}, {4, pxeOffer}, {12, pxeOffer}}, now: 13, id: "offer-not-taken", says: "asked for an address 3 times and took none"},
		"a few at once":                        {seen: []seenAt{{0, pxeOffer}, {1, pxeOffer}, {2, pxeOffer}}, now: 3},
		"a system's are not watched":           {seen: []seenAt{{0, system.but(func(s *Sighting) { s.Step = StepOffer })}, {9, system.but(func(s *Sighting) { s.Step = StepOffer })}, {18, system.but(func(s *Sighting) { s.Step = StepOffer })}}, now: 20},
		"a proxy nobody stands beside":         {seen: []seenAt{{0, proxied}, {4, proxied}}, now: 25, id: "proxy-alone", says: "asked 2 times what to boot and has no address"},
		"a proxy's offer is not taken":         {seen: []seenAt{{0, proxied}}, others: true, now: 25, id: "proxy-not-taken", says: "was told once what to boot and never came for it"},
		"a proxy's offer is taken":             {seen: []seenAt{{0, proxied}, {5, proxied.but(func(s *Sighting) { s.Step = StepProxyAck })}}, others: true, now: 30},
		"two machines":                         {seen: []seenAt{{0, pxeAck.but(func(s *Sighting) { s.UUID = "a" })}, {3, pxeAck.but(func(s *Sighting) { s.UUID = "b" })}}, now: 4, id: "two-machines", says: "one says its UUID is a, another b"},
		"the stages may differ":                {seen: []seenAt{{0, pxeAck.but(func(s *Sighting) { s.UUID = "a" })}, {3, ipxeAck.but(func(s *Sighting) { s.UUID = "b" })}}, now: 4},
		"a new board":                          {seen: []seenAt{{0, pxeAck.but(func(s *Sighting) { s.UUID = "a" })}, {700, pxeAck.but(func(s *Sighting) { s.UUID = "b" })}}, now: 701},
		"a clash the fleet has found":          {seen: whole, j: Journey{AgentSpoke: after(30), Question: "a machine with UUID b reported"}, now: 31, id: "two-machines", says: "may be two machines: a machine with UUID b reported"},
	} {
		if named[c.id] = true; c.id != "" && !strings.Contains(string(list), "| `"+c.id+"` |") {
			t.Errorf("STALLS.md lacks %s", c.id)
		}
		var trail []Sighting
		for _, s := range c.seen {
			s.Sighting.At = after(s.s)
			trail = append(trail, s.Sighting, Sighting{At: after(s.s), Kind: KindRouter, Text: "and a word that is no step"})
		}
		got, _ := stalled(trail, c.j, c.others, after(c.now))
		if got.ID != c.id || !strings.Contains(got.Text, c.says) {
			t.Errorf("%s: named %q (%s), want %q with %q", name, got.ID, got.Text, c.id, c.says)
		}
		if got.ID != "" && (got.Hint == "" || got.Since.IsZero() || !got.At.Equal(after(c.now))) {
			t.Errorf("%s: %+v has no hint, beginning or time", name, got)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(string(list), -1) {
		if !named[row[1]] {
			t.Errorf("STALLS.md has %s, which is in no row here", row[1])
		}
	}
}

// What firmware is left to its disk by is known again where stalls are looked for.
func TestFirmwareThatComesBackFromItsDiskIsNamed(t *testing.T) {
	for _, mode := range []Mode{ModeDHCP, ModeProxy} {
		s := newSetup(t, mode)
		s.fleet.boots(macA, Decision{Action: BootLocal, Reason: "it is installed"})
		r := s.responder(s.link)
		tell := func(p packet, from string, answer answerFunc) {
			t.Helper()
			p.opts[60] = []byte("PXEClient:Arch:00011:UNDI:003016")
			req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort(from))
			if drop != "" {
				t.Fatal(drop)
			}
			out, ok := answer(t.Context(), req)
			if _, ok = out.wait(ok); !ok {
				t.Fatalf("%s: no answer to %v", mode, p)
			}
		}
		for range loopTimes {
			if mode == ModeProxy {
				tell(packet{kind: discover, opts: map[uint8][]byte{}}, "0.0.0.0:68", r.proxyOffer)
				tell(packet{kind: reqst, ciaddr: "10.77.0.100", opts: map[uint8][]byte{}}, "10.77.0.100:68", r.proxyBoot)
			} else {
				tell(packet{kind: discover, opts: map[uint8][]byte{}}, "0.0.0.0:68", r.decide)
				tell(packet{kind: reqst, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: ip4("10.77.0.100")}}, "0.0.0.0:68", r.decide)
			}
			if stall, ok := s.Sightings().Stall(macA); ok {
				t.Errorf("%s: too early: %s", mode, stall.Text)
			}
			readTFTP(t, s.tftp(s.link), LoaderNone, netip.MustParseAddr("10.77.0.100"))
			s.pass(40 * time.Second)
			s.lookForStalls()
		}
		if stall, _ := s.Sightings().Stall(macA); stall.ID != "disk-loop" || !strings.Contains(stall.Text, "3 times in 80 s") {
			t.Errorf("%s: named %+v", mode, stall)
		}
	}
}

// Firmware and iPXE write the bytes of one UUID in two orders; that is one machine.
// QEMU's OVMF does so in one boot.
func TestOneUUIDInTwoOrdersIsOneMachine(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	if _, err := s.bootSim(t)(pxeclient.IPXEUEFI, macA); err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, sg := range s.Sightings().Of(macA) {
		if sg.UUID != "" {
			told[sg.UUID] = true
		}
	}
	if s.lookForStalls(); len(told) != 1 || len(s.Stalls()) != 0 {
		t.Errorf("UUIDs %v, stalls %v", told, s.Stalls())
	}
}

// A stall is told when it begins and when it ends, and for no longer than a day.
func TestAStallIsToldOnce(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	told := func() (out []string) {
		for _, sg := range s.Sightings().Of(macA) {
			if sg.Kind == KindStall {
				out = append(out, string(sg.Step)+" "+sg.Stall)
			}
		}
		return out
	}
	look := func(after time.Duration, want ...string) {
		t.Helper()
		s.pass(after)
		s.lookForStalls()
		if got := told(); strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Fatalf("told %v, want %v", got, want)
		}
	}
	saw := func(sg Sighting) {
		sg.At, sg.MAC = s.clock(), macA
		s.Sightings().Add(sg)
	}
	saw(pxeAck)
	saw(loaded)
	look(30 * time.Second)
	look(10*time.Second, "stalled loader-silent")
	look(time.Hour, "stalled loader-silent")
	if got := s.Stalls(); len(got) != 1 || got[0].MAC != macA || s.Stats()["stall.loader-silent"] != 1 {
		t.Errorf("stalls %v, counters %v", got, s.Stats())
	}
	saw(pxeOffer) // it asks again, and is no further
	look(time.Second, "stalled loader-silent")
	saw(ipxeAck)
	look(time.Second, "stalled loader-silent", "goes-on loader-silent")
	look(40*time.Second, "stalled loader-silent", "goes-on loader-silent", "stalled script-not-asked")
	look(stallLasts, "stalled loader-silent", "goes-on loader-silent", "stalled script-not-asked")
	if got := s.Stalls(); len(got) != 0 {
		t.Errorf("after a day %v still stands", got)
	}
	// It has gone on at another node, which this one is told.
	saw(pxeAck)
	saw(loaded)
	s.pass(5 * time.Second)
	there := agent
	there.At, there.MAC = s.clock(), macA
	s.cfg.Elsewhere = func(string) []Sighting {
		return []Sighting{there, kernel.but(func(k *Sighting) { k.At = there.At }), initrd.but(func(k *Sighting) { k.At = there.At })}
	}
	look(40*time.Second, "stalled loader-silent", "goes-on loader-silent", "stalled script-not-asked")
}

func TestOnWireIsWhoWasSeenLast(t *testing.T) {
	s := NewSightings(10, 10, nil)
	at := func(i int) time.Time { return time.Unix(int64(i), 0) }
	addr := netip.MustParseAddr("10.77.0.7")
	s.Add(Sighting{At: at(1), MAC: "m1", Step: StepAck, Addr: addr, Text: "lent"})
	s.Add(Sighting{At: at(2), MAC: "m1", Step: StepServed, Text: "loaded"})
	s.Add(Sighting{At: at(3), MAC: "m2", Text: "asked"})
	s.Add(Sighting{At: at(4), MAC: "m1", Kind: KindStall, Text: "stands"})
	s.Add(Sighting{At: at(5), MAC: "m3", Kind: KindAlarm, Text: "is a server"})
	got := s.OnWire(10)
	if len(got) != 2 || got[0].MAC != "m1" || got[0].Last.Text != "loaded" || got[0].Addr != addr || got[1].MAC != "m2" {
		t.Errorf("on the wire: %v", got)
	}
	if len(s.OnWire(1)) != 1 {
		t.Error("more than were asked for")
	}
}

// A rack of machines that all boot at once is looked at in little time.
func BenchmarkLookForStalls(b *testing.B) {
	s := newSetup(b, ModeDHCP)
	for i := range rememberedMachines {
		for k := range rememberedSightings {
			sg := []Sighting{pxeOffer, pxeAck, loaded, ipxeAck}[k%4]
			sg.At, sg.MAC = s.clock().Add(time.Duration(k)*time.Second), stallMAC(i)
			s.Sightings().Add(sg)
		}
	}
	s.pass(50 * time.Second)
	for b.Loop() {
		s.lookForStalls()
	}
}

// A machine that is forgotten is not stalled any more.
func TestAStalledMachineThatIsForgottenIsNotListed(t *testing.T) {
	s := NewSightings(2, 10, nil)
	now := time.Unix(1700000000, 0)
	for i := range 3 {
		sg := pxeAck
		sg.MAC, sg.At = stallMAC(i), now
		s.Add(sg)
		s.judge(sg.MAC, now, func([]Sighting) (Stall, bool) {
			return Stall{ID: "x", Since: now.Add(-time.Duration(i) * time.Second)}, true
		})
	}
	got := s.Stalls()
	if len(got) != 2 || got[0].MAC != stallMAC(2) || got[1].MAC != stallMAC(1) {
		t.Errorf("stalled: %v", got)
	}
	s.judge(stallMAC(2), now, func([]Sighting) (Stall, bool) { return Stall{}, false })
	if got := s.Stalls(); len(got) != 1 || got[0].MAC != stallMAC(1) {
		t.Errorf("one goes on: %v", got)
	}
}

// A page asks who stands while a thousand others boot.
func BenchmarkStalls(b *testing.B) {
	s := NewSightings(rememberedMachines, rememberedSightings, nil)
	now := time.Unix(1700000000, 0)
	for i := range rememberedMachines {
		sg := pxeAck
		sg.MAC, sg.At = stallMAC(i), now
		s.Add(sg)
		if i%1000 == 0 {
			s.judge(sg.MAC, now, func([]Sighting) (Stall, bool) { return Stall{ID: "x"}, true })
		}
	}
	for b.Loop() {
		s.Stalls()
	}
}
