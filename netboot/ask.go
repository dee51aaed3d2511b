package netboot

import (
	"net/netip"
	"slices"
	"strconv"
)

// InterfaceAddress is the IPv4 address of an interface: the one machines on it
// reach this node by. The error says what is missing.
func InterfaceAddress(name string) (netip.Addr, error) {
	l, err := findLink(Interface{Name: name, Mode: ModeProxy})
	return l.addr, err
}

// PortHolder names the process that has a local port open, as " by dnsmasq
// (process 812)", or "" when /proc does not tell. network is "tcp" or "udp".
func PortHolder(network, port string) string {
	n, err := strconv.Atoi(port)
	if err != nil {
		return ""
	}
	return heldBy(network, n)
}

// Recent returns the newest n sightings of all machines, newest first.
func (s *Sightings) Recent(n int) []Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Sighting
	for e := s.recent.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*trail).seen...)
	}
	slices.SortStableFunc(all, func(a, b Sighting) int { return b.At.Compare(a.At) })
	return all[:min(n, len(all))]
}
