package fleet

import (
	"maps"
	"slices"
)

// Clone gives a state that goes its own way from here. The values in it are the
// same, since they are never changed, so that a clone costs a small part of what a
// state does.
func (s *State) Clone() *State {
	c := *s
	c.machines, c.tasks, c.images, c.nodes = maps.Clone(s.machines), maps.Clone(s.tasks), maps.Clone(s.images), maps.Clone(s.nodes)
	c.tokens, c.pools, c.audit = maps.Clone(s.tokens), maps.Clone(s.pools), slices.Clone(s.audit)
	c.words, c.claims = slices.Clone(s.words), maps.Clone(s.claims)
	c.evidence = slices.Clone(s.evidence)
	c.done = window{byID: maps.Clone(s.done.byID), order: slices.Clone(s.done.order), floor: s.done.floor}
	c.past = pastTasks{list: slices.Clone(s.past.list), unpacked: s.past.unpacked}
	c.past.of = make(map[string][]*pack, len(s.past.of))
	for machine, of := range s.past.of {
		c.past.of[machine] = slices.Clone(of)
	}
	c.byMAC, c.byUUID, c.byAddress = maps.Clone(s.byMAC), maps.Clone(s.byUUID), maps.Clone(s.byAddress)
	c.byTarget, c.byToken, c.bySession = maps.Clone(s.byTarget), maps.Clone(s.byToken), maps.Clone(s.bySession)
	c.byFormer, c.byBoot, c.profiles = maps.Clone(s.byFormer), maps.Clone(s.byBoot), maps.Clone(s.profiles)
	c.users, c.sessions, c.apiTokens, c.codes = maps.Clone(s.users), maps.Clone(s.sessions), maps.Clone(s.apiTokens), maps.Clone(s.codes)
	c.shared, c.events = shared{}, nil // of use to one alone
	return &c
}
