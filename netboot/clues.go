package netboot

import (
	"strings"
	"time"
)

// clues are a machine's trail with what the rules ask of it.
type clues struct {
	all    []Sighting
	seen   []Sighting // its own steps since its agent or its system last spoke
	j      Journey
	others bool
	now    time.Time
}

func cluesOf(own, seen []Sighting, j Journey, others bool, now time.Time) clues {
	l := clues{all: seen, seen: own, j: j, others: others, now: now}
	spoke := j.AgentSpoke
	if j.CameUp.After(spoke) {
		spoke = j.CameUp
	}
	for _, s := range seen {
		if s.own() && s.At.After(spoke) {
			l.seen = append(l.seen, s)
		}
	}
	return l
}

// own says whether the machine itself has done it.
func (s Sighting) own() bool { return s.Step != "" && s.Kind != KindStall && s.Kind != KindAlarm }

// netboots says whether it is firmware's or a loader's, and no system's.
func (s Sighting) netboots() bool { return s.own() && s.Stage != "" && s.Stage != StageSystem }

// last is the newest of the steps, or nothing.
func (l clues) last(steps ...Step) (Sighting, bool) {
	i := l.lastAt(steps...)
	if i < 0 {
		return Sighting{}, false
	}
	return l.seen[i], true
}

func (l clues) lastAt(steps ...Step) int {
	for i := len(l.seen) - 1; i >= 0; i-- {
		for _, s := range steps {
			if l.seen[i].Step == s {
				return i
			}
		}
	}
	return -1
}

func (l clues) quiet(s Sighting) time.Duration { return l.now.Sub(s.At) }

// leavesToDisk says whether firmware was given none.efi, by which it goes on to its disk:
// where GRUB or shim would be its loader, it is told so by DHCP and by no script. The
// file itself is asked for and not found, which is as it should be and not told. Over HTTP
// a machine that is to start the agent is given it, too, where PXE alone can do that.
func (s Sighting) leavesToDisk() bool {
	if s.Stage == StageHTTP {
		return false
	}
	switch s.Step {
	case StepOffer, StepAck, StepProxy, StepProxyAck:
		return isNone(s.File)
	}
	return false
}

// isNone says whether a boot file that was told of, see told, is the one that is never there.
func isNone(file string) bool {
	name, _, _ := strings.Cut(file, toldNone)
	return name == LoaderNone || strings.HasSuffix(name, BootPath+LoaderNone)
}

// outcome is how the newest attempt to get a file or a script ended.
func (l clues) outcome() (Sighting, bool) {
	return l.lastOf(func(s Sighting) bool {
		switch s.Step {
		case StepServed, StepStopped, StepMissing, StepScript:
			return true
		}
		return s.leavesToDisk()
	})
}

// told is the newest word to the machine about what to do.
func (l clues) told() (s Sighting, toDisk, ok bool) {
	s, ok = l.lastOf(func(s Sighting) bool { return s.Step == StepScript || s.leavesToDisk() })
	return s, s.Action == BootLocal || s.leavesToDisk(), ok
}

// lastOf is the newest step that is so, or nothing.
func (l clues) lastOf(so func(Sighting) bool) (Sighting, bool) {
	for i := len(l.seen) - 1; i >= 0; i-- {
		if so(l.seen[i]) {
			return l.seen[i], true
		}
	}
	return Sighting{}, false
}

// dhcp is the newest exchange about an address.
func (l clues) dhcp() (Sighting, bool) {
	return l.last(StepDiscover, StepOffer, StepAck, StepRefused, StepElsewhere, StepProxy, StepProxyAck)
}

// loads are the loaders that were taken since anything came of one.
type loads struct {
	n           int
	first, last Sighting
	ipxe        bool // it was seen between them
}

func (l clues) loads() (got loads) {
	for _, s := range l.seen {
		switch {
		case l.quiet(s) > togetherTime:
		case s.Step == StepScript, s.Step == StepServed && !isLoader(s.File), s.leavesToDisk():
			got = loads{}
		case s.Step == StepServed:
			if got.n++; got.n == 1 {
				got.first = s
			}
			got.last = s
		case s.Stage == StageIPXE && got.n > 0:
			got.ipxe = true
		}
	}
	return got
}
