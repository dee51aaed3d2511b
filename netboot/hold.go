package netboot

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A machine whose agent dies before it can report asks what to boot again and
// again. The fleet counts that of the machines it wants something of and has them
// wait, see BootHold. Strangers leave no mark in the log, so each node counts them
// itself, and lets them boot their disks.

const (
	// maxNetboots is how often a stranger is told to start the agent in a row.
	maxNetboots = 5
	// holdRest is after how long such a stranger may try once more, since there is
	// nobody who could release it; and after how long one that did not ask is
	// taken to have been at something else.
	holdRest = 30 * time.Minute
	// maxStrangers bounds what made-up addresses can make a node remember.
	maxStrangers = 4096
)

// strangers counts how often machines that the fleet does not know were told to
// start the agent.
type strangers struct {
	mu    sync.Mutex
	byMAC map[string]stranger
}

type stranger struct {
	times int
	last  time.Time // when it was told
}

// held reports whether the machine has tried often enough, and counts it if not.
func (s *strangers) held(mac string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, known := s.byMAC[mac]
	if now.Sub(m.last) >= holdRest {
		if m.times >= maxNetboots {
			m.times = maxNetboots - 1
		} else {
			m.times = 0
		}
	}
	if m.times >= maxNetboots {
		return true
	}
	if !known && len(s.byMAC) >= maxStrangers {
		for any := range s.byMAC {
			delete(s.byMAC, any)
			break
		}
	}
	if s.byMAC == nil {
		s.byMAC = map[string]stranger{}
	}
	s.byMAC[mac] = stranger{times: m.times + 1, last: now}
	return false
}

// tired is what held would report, without counting anything.
func (s *strangers) tired(mac string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.byMAC[mac]
	return m.times >= maxNetboots && now.Sub(m.last) < holdRest
}

// forget drops a machine that the fleet counts by now.
func (s *strangers) forget(mac string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byMAC, mac)
}

// strangerTried is what a stranger is told whose agent never reports.
var strangerTried = fmt.Sprintf("told %d times to start the agent, which never reported; it may try again in half an hour", maxNetboots)

// strangersRest is the fleet as DHCP asks it: a stranger that is held is to boot its
// disk. For firmware that is told of it by a script that is no news. Where shim or GRUB
// would be given it decides, because those cannot leave a machine to its disk.
type strangersRest struct {
	Fleet
	strangers *strangers
	now       func() time.Time
}

// Decide implements Fleet.
func (f strangersRest) Decide(ctx context.Context, m Machine) Decision {
	d := f.Fleet.Decide(ctx, m)
	if d.Action == BootAgent && !d.Counted && f.strangers.tired(m.MAC, f.now()) {
		d.Action, d.Reason = BootLocal, strangerTried
	}
	return d
}
