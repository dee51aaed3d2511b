package fleet

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A machine that is known keeps the address it has. A person may give one of its cards
// another: that goes before what it keeps, on every node, for as long as it stands.
//
// It has to be one that no node lends to strangers: what was lent an hour ago may be
// in use still, and only the node that lent it knows. So it lies outside of the ranges,
// or is what the card keeps anyway.

// AssignAddress gives a card of a machine an address for good. An empty MAC is the card
// that its agent spoke from last; an empty address takes back what was given, of that
// card or, without a MAC, of all. The result is a *Machine.
type AssignAddress struct {
	MachineID string
	MAC       string `json:",omitempty"`
	Address   string `json:",omitempty"`
	By        string
}

func (AssignAddress) commandType() string { return "assign_address" }

func (b AssignAddress) apply(s *State, c Command) (any, error) {
	b.By, b.MAC = c.by(b.By), strings.ToLower(b.MAC)
	old := s.machines[b.MachineID]
	switch {
	case old == nil:
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	case b.MAC != "" && !slices.Contains(old.IDs.MACs, b.MAC):
		return nil, invalid("mac", "machine %s has no card %s; it has %s", old.Name, b.MAC, strings.Join(old.IDs.MACs, ", "))
	case b.Address == "":
		return s.unassign(old, b, c)
	case b.MAC == "" && slices.Contains(old.IDs.MACs, old.AgentMAC):
		b.MAC = old.AgentMAC
	case b.MAC == "" && len(old.IDs.MACs) == 1:
		b.MAC = old.IDs.MACs[0]
	case b.MAC == "":
		return nil, invalid("mac", "machine %s has several cards: say which by its MAC (%s)", old.Name, strings.Join(old.IDs.MACs, ", "))
	}
	if old.Assigned[b.MAC] == b.Address {
		return old, nil
	}
	if err := s.mayAssign(old, b.MAC, b.Address, c.At); err != nil {
		return nil, err
	}
	m := *old
	m.Assigned = maps.Clone(old.Assigned)
	if m.Assigned == nil {
		m.Assigned = map[string]string{}
	}
	m.Assigned[b.MAC] = b.Address
	m.leave(old, c.At)
	s.putMachine(&m, EventMachine)
	s.note(c, AuditRecord{By: b.By, Machine: m.ID, What: who(b.By) + " gave machine " + m.Name + " the address " + b.Address + " on card " + b.MAC})
	return &m, nil
}

// unassign takes back what was given: the card has what it kept before again, and if
// that is nothing draws from the pool.
func (s *State) unassign(old *Machine, b AssignAddress, c Command) (any, error) {
	m := *old
	m.Assigned = maps.Clone(old.Assigned)
	maps.DeleteFunc(m.Assigned, func(mac, _ string) bool { return b.MAC == "" || mac == b.MAC })
	if len(m.Assigned) == len(old.Assigned) {
		return old, nil
	}
	if len(m.Assigned) == 0 {
		m.Assigned = nil
	}
	m.leave(old, c.At)
	s.putMachine(&m, EventMachine)
	s.note(c, AuditRecord{By: b.By, Machine: m.ID, What: who(b.By) + " took back the address that machine " + m.Name + " was given"})
	return &m, nil
}

// leave notes what the machine has been given before and now is not any more.
func (m *Machine) leave(old *Machine, at time.Time) {
	m.Left = maps.Clone(old.Left)
	maps.DeleteFunc(m.Left, func(_ string, since time.Time) bool { return !at.Before(since.Add(leaseRest)) })
	if m.Left == nil {
		m.Left = map[string]time.Time{}
	}
	for mac, ip := range old.Assigned {
		if m.Assigned[mac] != ip {
			m.Left[ip] = at
		}
	}
	if len(m.Left) == 0 {
		m.Left = nil
	}
}

// mayAssign says why a card cannot be given an address.
func (s *State) mayAssign(m *Machine, mac, text string, now time.Time) error {
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() || addr.String() != text {
		return invalid("address", "%.60q is no IPv4 address", text)
	}
	if other := s.machines[s.byAddress[text]]; other != nil && other.ID != m.ID {
		return refuse(Conflict, "%s is machine %s's", text, other.Name)
	}
	for _, card := range slices.Sorted(maps.Keys(m.Assigned)) { // no map's order decides a refusal's words
		if m.Assigned[card] == text && card != mac {
			return refuse(Conflict, "%s is given to another card of the machine, %s; take it back there first", text, card)
		}
	}
	for _, other := range s.Machines() {
		if until := other.Left[text].Add(leaseRest); other.ID != m.ID && now.Before(until) && !other.Left[text].IsZero() {
			return refuse(Conflict, "%s was taken back from machine %s, which may use it until %s; wait, or forget that machine if it is gone", text, other.Name, until.UTC().Format("15:04 MST"))
		}
	}
	for _, n := range s.Nodes() {
		for _, u := range n.BootURLs {
			if at, err := netip.ParseAddrPort(strings.TrimPrefix(u, "http://")); err == nil && at.Addr() == addr {
				return refuse(Conflict, "%s is node %s's", text, n.Name)
			}
		}
	}
	var pool *Pool
	var networks []string
	for _, p := range s.Pools() {
		networks = append(networks, p.Network)
		if n, err := netip.ParsePrefix(p.Network); err == nil && n.Contains(addr) {
			pool = p
		}
	}
	switch {
	case pool == nil && networks == nil:
		return refuse(Conflict, "no node lends addresses: one in mode dhcp gives machines what is kept for them")
	case pool == nil:
		return invalid("address", "%s is of no network on which nodes lend addresses (%s)", text, strings.Join(networks, ", "))
	case isEnd(pool.Network, addr):
		return invalid("address", "%s is network %s itself, or everybody in it", text, pool.Network)
	case m.Addresses[mac] != text && s.drawnFrom(text) != nil:
		return refuse(Conflict, "%s may be lent to another machine: new ones draw from %s-%s; give one outside of that, or the one that the card has", text, pool.First, pool.Last)
	}
	return nil
}

// drawnFrom is the pool of which an address is lent to strangers, or was before its
// range changed; nil if it is in no pool's blocks.
func (s *State) drawnFrom(ip string) *Pool {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !addr.Is4() {
		return nil
	}
	for _, p := range s.Pools() {
		if slices.ContainsFunc(p.Blocks, func(b PoolBlock) bool {
			sp := b.span()
			return sp.first <= number(addr) && number(addr) <= sp.last
		}) {
			return p
		}
	}
	return nil
}

// isEnd reports whether an address is the first or the last of a network, which are
// nobody's (RFC 1122, section 3.2.1.3).
func isEnd(network string, addr netip.Addr) bool {
	p, err := netip.ParsePrefix(network)
	if err != nil || p.Bits() > 30 {
		return false
	}
	hosts := ^uint32(0) >> p.Bits()
	part := number(addr) & hosts
	return part == 0 || part == hosts
}

// AddressOf is the IPv4 address that a card of the machine has for ever: the one that a
// person gave it, else the one it keeps; "" if there is none.
func (m *Machine) AddressOf(mac string) string {
	if given := m.Assigned[mac]; given != "" {
		return given
	}
	return m.Addresses[mac]
}
