package netboot

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"
)

// stallEvery is how often the machines are looked at that may not go on.
const stallEvery = 5 * time.Second

// watchStalls names stalls until ctx ends.
func (s *Server) watchStalls(ctx context.Context) error {
	tick := time.NewTicker(stallEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.lookForStalls()
		}
	}
}

// lookForStalls looks at every machine once that did something lately, or does not
// go on. There are no more of them than trails.
func (s *Server) lookForStalls() {
	now, others := s.cfg.Now(), s.othersHeard()
	var d detector
	for _, mac := range s.sightings.watched(now) {
		var j Journey
		if s.cfg.Journey != nil {
			j = s.cfg.Journey(mac)
		}
		var more []Sighting
		if s.cfg.Elsewhere != nil {
			more = s.cfg.Elsewhere(mac)
		}
		told, ok := s.sightings.judge(mac, now, func(seen []Sighting) (Stall, bool) {
			if more != nil { // it may have gone on at another node
				seen = slices.Concat(seen, more)
				slices.SortStableFunc(seen, func(a, b Sighting) int { return a.At.Compare(b.At) })
			}
			return d.look(seen, j, others, now)
		})
		if !ok {
			continue
		}
		if told.Step == StepStalled {
			s.stats.add("stall." + told.Stall)
			s.cfg.Log.Info("a machine does not go on", "mac", mac, "stall", told.Stall, "why", told.Text)
		}
		s.sightings.Add(told)
	}
}

// Stalls are the machines that do not go on, those that stand longest first.
func (s *Server) Stalls() []Stalled { return s.sightings.Stalls() }

// othersHeard says whether another DHCP server answers on a network served here.
func (s *Server) othersHeard() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.others, (*otherServers).any)
}

// any says whether one of them is known.
func (o *otherServers) any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(o.now())
	return len(o.known) > 0
}

// watched are the machines that did something lately, and those that are stalled.
func (s *Sightings) watched(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for e := s.recent.Front(); e != nil; e = e.Next() {
		if t := e.Value.(*trail); t.stall != nil || len(t.seen) > 0 && now.Sub(t.lastSeen()) <= watchedFor {
			out = append(out, t.mac)
		}
	}
	return out
}

// lastSeen is when the machine itself last did something. The lock is held.
func (t *trail) lastSeen() time.Time {
	for i := len(t.seen) - 1; i >= 0; i-- {
		if t.seen[i].Kind != KindStall {
			return t.seen[i].At
		}
	}
	return time.Time{}
}

// judge has find look at a machine's trail, keeps what it finds, and returns what is
// to be told of it: that the machine does not go on, or goes on again.
func (s *Sightings) judge(mac string, now time.Time, find func([]Sighting) (Stall, bool)) (told Sighting, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, known := s.byMAC[mac]
	if !known {
		return told, false
	}
	t := e.Value.(*trail)
	found, stalls := find(t.seen)
	last := t.lastSeen()
	if stalls && now.Sub(last) > stallLasts {
		stalls = false
	}
	told = Sighting{At: now, MAC: mac, Kind: KindStall, Addr: t.addr}
	switch {
	case stalls && (t.stall == nil || t.stall.ID != found.ID):
		t.stall = &found
		s.stalled[t] = true
		told.Step, told.Stall, told.Text, told.Hint = StepStalled, found.ID, found.Text, found.Hint
		return told, true
	case !stalls && t.stall != nil:
		was := t.stall
		t.stall = nil
		delete(s.stalled, t)
		if now.Sub(last) > stallLasts {
			return told, false
		}
		told.Step, told.Stall, told.Text = StepGoesOn, was.ID, "goes on, "+spanOf(now.Sub(was.Since))+" after it had stopped"
		return told, true
	}
	return told, false
}

// Stall is why a machine does not go on, if it does not.
func (s *Sightings) Stall(mac string) (Stall, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byMAC[mac]; ok {
		if t := e.Value.(*trail); t.stall != nil {
			return *t.stall, true
		}
	}
	return Stall{}, false
}

// Stalls are all machines that do not go on, those that stand longest first.
func (s *Sightings) Stalls() []Stalled {
	s.mu.Lock()
	out := make([]Stalled, 0, len(s.stalled))
	for t := range s.stalled {
		out = append(out, Stalled{MAC: t.mac, Addr: t.addr, Stall: *t.stall})
	}
	s.mu.Unlock()
	slices.SortStableFunc(out, func(a, b Stalled) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.MAC, b.MAC)) })
	return out
}

// OnWire is a machine that was seen on the wire, with the last that it did there.
type OnWire struct {
	MAC  string
	Addr netip.Addr
	Last Sighting
}

// OnWire are the machines seen last, newest first.
func (s *Sightings) OnWire(n int) []OnWire {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []OnWire
	for e := s.recent.Front(); e != nil && len(out) < n; e = e.Next() {
		t := e.Value.(*trail)
		m := OnWire{MAC: t.mac, Addr: t.addr}
		for i := len(t.seen) - 1; i >= 0; i-- {
			sg := &t.seen[i]
			if sg.Kind == KindStall || sg.Kind == KindAlarm {
				continue
			}
			if m.Last.At.IsZero() {
				m.Last = *sg
			}
			if m.Addr.IsValid() || sg.Addr.IsValid() { // what another node told says nothing of who holds what
				m.Addr = cmp.Or(m.Addr, sg.Addr)
				break
			}
		}
		if !m.Last.At.IsZero() {
			out = append(out, m)
		}
	}
	return out
}
