package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Objection says why an address cannot be given to a machine with these cards and other
// ids, as far as this node knows and the fleet does not: a sentence that goes on after
// the address. Empty if there is nothing against it.
func (s *Server) Objection(addr netip.Addr, macs, ids []string) string {
	mine := func(word string) bool {
		mac, isMAC := ParseMAC(word)
		return isMAC && slices.Contains(macs, mac) || slices.ContainsFunc(ids, func(id string) bool { return id != "" && strings.EqualFold(id, word) })
	}
	if word, ok := s.reserved.words[addr]; ok && !mine(word) {
		return "is reserved for " + clip(word) + " in the configuration"
	}
	for _, other := range s.reserved.addrs {
		if word := s.reserved.words[other]; other != addr && mine(word) {
			return fmt.Sprintf("is not what the configuration reserves for the machine: that is %s, for %s", other, clip(word))
		}
	}
	for _, n := range s.served() {
		if n.subnet.Contains(addr) && !n.usable(addr) {
			return fmt.Sprintf("is a router's, a name server's, a relay's or this node's own on %s", n.subnet)
		}
	}
	for _, h := range s.leases.Table() {
		switch {
		case h.Addr != addr:
		case h.State == LeaseResting:
			return "rests: " + h.Why
		case h.State == LeaseLent && !slices.Contains(macs, h.MAC):
			return fmt.Sprintf("is lent to %s until %s", h.MAC, h.Until.UTC().Format("15:04:05 MST"))
		}
	}
	return ""
}

// served are the networks of all links that are open.
func (s *Server) served() (out []link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.others {
		out = append(out, o.link.all()...)
	}
	return out
}
