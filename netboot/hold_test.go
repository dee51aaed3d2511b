package netboot

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
