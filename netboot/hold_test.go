package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

const goldenHold = `#!ipxe
echo LPMOS: HELD. web1: it does not start
echo LPMOS: release it on the dashboard or with lpmos machine release. Asking again every minute.
:again
sleep 60
chain --replace http://10.77.0.1:80/boot/script || goto again
`

func TestAMachineThatIsHeldWaits(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.fleet.boots(macA, Decision{Action: BootHold, Name: "web1", Reason: "it does not start"})
	if got := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA).Body.String(); got != goldenHold {
		t.Errorf("it is told\n%s\nwant\n%s", got, goldenHold)
	}
	seen := s.Sightings().Of(macA)
	if last := seen[len(seen)-1].Text; !strings.Contains(last, "was told to wait: it does not start") {
		t.Errorf("its timeline says %q", last)
	}
	if served := s.fleet.told(); len(served) != 1 || served[0].Action != BootHold {
		t.Errorf("the fleet was told %+v", served)
	}
}

// A stranger that dies before it can report boots its disk after some tries, and the
// node itself counts them: nothing of it may be written.
func TestAStrangerThatNeverReportsBootsItsDisk(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	now := time.Unix(1700000000, 0)
	s.cfg.Now = func() time.Time { return now }
	told := func() Action {
		text := s.get("GET", "/boot/"+s.path(macB)+"/script?mac="+macB).Body.String()
		switch {
		case strings.Contains(text, "kernel http://"):
			return BootAgent
		case strings.Contains(text, "booting the disk. told 5 times to start the agent"):
			return BootLocal
		}
		return Action(text)
	}
	for i := range maxNetboots {
		s.get("HEAD", "/boot/"+s.path(macB)+"/script?mac="+macB) // fetches nothing
		if got := told(); got != BootAgent {
			t.Fatalf("netboot %d: %s", i+1, got)
		}
		now = now.Add(time.Minute)
	}
	for range 3 {
		if got := told(); got != BootLocal {
			t.Fatalf("after %d netboots without a word: %s", maxNetboots, got)
		}
		now = now.Add(time.Minute)
	}
	now = now.Add(holdRest)
	if got := told(); got != BootAgent {
		t.Errorf("after its rest: %s", got)
	}
	if got := told(); got != BootLocal {
		t.Errorf("and once more: %s", got)
	}
	s.fleet.boots(macB, Decision{Action: BootAgent, Reason: "it is known now"})
	if got := told(); got != BootAgent {
		t.Errorf("once the fleet counts: %s", got)
	}
}

// GRUB and shim cannot leave a machine to its disk, so that a stranger that is held is not
// given them any more: its firmware can.
func TestAStrangerThatIsHeldIsGivenNoGRUB(t *testing.T) {
	const amd64, arm64 = "PXEClient:Arch:00007:UNDI:003016", "PXEClient:Arch:00011:UNDI:003016"
	for name, c := range map[string]struct {
		mode   Mode
		choice UEFILoader
		arch   string
		first  string // that it is given
		held   string
	}{
		"arm64":               {ModeDHCP, "", arm64, LoaderGRUBARM64, LoaderNone},
		"arm64, proxy":        {ModeProxy, "", arm64, LoaderGRUBARM64, LoaderNone},
		"arm64, signed":       {ModeDHCP, UEFILoaderShim, arm64, LoaderShimARM64, LoaderNone},
		"signed":              {ModeDHCP, UEFILoaderShim, amd64, LoaderShim, LoaderNone},
		"iPXE can leave":      {ModeDHCP, "", amd64, LoaderUEFI, LoaderUEFI},
		"as can a BIOS's":     {ModeDHCP, "", "PXEClient:Arch:00000:UNDI:002001", LoaderBIOS, LoaderBIOS},
		"iPXE beside another": {ModeProxy, "", amd64, LoaderUEFI, LoaderUEFI},
	} {
		s := newSetup(t, c.mode)
		s.cfg.UEFILoader = c.choice
		given := func() string {
			t.Helper()
			req, drop := parseRequest(packet{kind: discover, mac: macB, opts: map[uint8][]byte{60: []byte(c.arch)}}.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
			if drop != "" {
				t.Fatal(drop)
			}
			r := s.responder(s.link)
			answer := r.answer
			if c.mode == ModeProxy {
				answer = r.proxyOffer
			}
			out, ok := answer(t.Context(), req)
			if !ok {
				t.Fatalf("%s: no answer", name)
			}
			p, err := dhcpv4.FromBytes(out.packet)
			if err != nil {
				t.Fatal(err)
			}
			return p.BootFileName
		}
		for range maxNetboots {
			for range 3 { // asking alone counts for nothing
				if got := given(); got != c.first {
					t.Fatalf("%s: a stranger is given %q, want %q", name, got, c.first)
				}
			}
			s.get("GET", "/boot/"+s.path(macB)+"/script?mac="+macB)
			s.pass(time.Minute)
		}
		if got := given(); got != c.held {
			t.Errorf("%s: when it is held it is given %q, want %q", name, got, c.held)
		}
		seen := s.Sightings().Of(macB)
		if told := slices.ContainsFunc(seen, func(sg Sighting) bool {
			return strings.Contains(sg.Text, "is left to its disk: it was told 5 times")
		}); told != (c.held == LoaderNone) {
			t.Errorf("%s: its timeline says why: %v", name, told)
		}
		s.pass(holdRest)
		if got := given(); got != c.first {
			t.Errorf("%s: after its rest it is given %q", name, got)
		}
		s.get("GET", "/boot/"+s.path(macB)+"/script?mac="+macB)
		if got := given(); got != c.held {
			t.Errorf("%s: and once more: %q", name, got)
		}
		s.fleet.boots(macB, Decision{Action: BootAgent, Reason: "it is known now"})
		if got := given(); got != c.first {
			t.Errorf("%s: once the fleet counts: %q", name, got)
		}
	}
}

func TestAStrangerThatComesNowAndThenIsNotHeld(t *testing.T) {
	var s strangers
	now := time.Unix(1700000000, 0)
	for i := range 100 {
		if s.held(macA, now) {
			t.Fatalf("netboot %d: held", i+1)
		}
		now = now.Add(holdRest)
	}
}

func TestWhatIsRememberedOfStrangersIsBounded(t *testing.T) {
	var s strangers
	now := time.Unix(1700000000, 0)
	for i := range 3 * maxStrangers {
		s.held(fmt.Sprint(i), now)
	}
	if len(s.byMAC) > maxStrangers {
		t.Errorf("%d are remembered", len(s.byMAC))
	}
}
