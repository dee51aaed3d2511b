package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Reservation keeps an address for a machine, known or not, because the operator
// says so. Nobody else gets it.
type Reservation struct {
	Machine string // a MAC, a UUID, or of a machine that is known the serial number
	Addr    netip.Addr
}

// reservedTo is how long a card holds an address that is reserved for its machine
// without asking again: a machine with several cards asks with each, and one gets it.
const reservedTo = time.Hour

// reserving is a Fleet whose machines have what is reserved for them, too.
type reserving struct {
	Fleet
	ids    func(mac string) []string // what else the machine with that card is known by
	leases *Leases
	now    func() time.Time
	byMAC  map[string]netip.Addr
	byID   map[string]netip.Addr // lower case
	addrs  []netip.Addr          // of all
	words  map[netip.Addr]string // what was configured

	mu    sync.Mutex
	cards map[netip.Addr]cardAsked // who has what is reserved by another id than a MAC
}

type cardAsked struct {
	mac   string
	asked time.Time
}

// reserve adds the reservations to what the fleet says.
func reserve(f Fleet, all []Reservation, ids func(string) []string, leases *Leases, now func() time.Time) (*reserving, error) {
	r := &reserving{Fleet: f, ids: ids, leases: leases, now: now, byMAC: map[string]netip.Addr{}, byID: map[string]netip.Addr{}, words: map[netip.Addr]string{}, cards: map[netip.Addr]cardAsked{}}
	for _, one := range all {
		if !one.Addr.Is4() || slices.Contains(r.addrs, one.Addr) {
			return nil, fmt.Errorf("reservation of %s for %.60q: it is reserved twice or no IPv4 address", one.Addr, one.Machine)
		}
		if mac, ok := ParseMAC(one.Machine); ok {
			r.byMAC[mac] = one.Addr
		} else {
			r.byID[strings.ToLower(one.Machine)] = one.Addr
		}
		r.addrs = append(r.addrs, one.Addr)
		r.words[one.Addr] = one.Machine
	}
	return r, nil
}

// saw notes which card a machine asks with whose UUID was reserved an address. On
// nil, nothing is reserved.
func (r *reserving) saw(m Machine) {
	if r == nil || len(r.byID) == 0 {
		return
	}
	for _, uuid := range m.UUIDs() {
		if addr, ok := r.byID[uuid]; ok {
			r.card(addr, m.MAC, true)
		}
	}
}

// card reports whether the card is the one of its machine that has the address. If
// claims, it becomes so when no other has asked for long.
func (r *reserving) card(addr netip.Addr, mac string, claims bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, now := r.cards[addr], r.now()
	if claims && (c.mac == mac || c.mac == "" || now.Sub(c.asked) >= reservedTo) {
		c = cardAsked{mac: mac, asked: now}
		r.cards[addr] = c
	}
	return c.mac == mac
}

// Address is what is reserved for the machine with that card, else what it keeps.
func (r *reserving) Address(mac string) (netip.Addr, bool) {
	kept, known := r.Fleet.Address(mac)
	addr, ok := r.byMAC[mac]
	if !ok && r.ids != nil && len(r.byID) > 0 {
		for _, id := range r.ids(mac) {
			if a, has := r.byID[strings.ToLower(id)]; has && r.card(a, mac, true) {
				addr, ok = a, true
				break
			}
		}
	}
	if !ok {
		for _, a := range r.byID {
			if r.card(a, mac, false) {
				addr, ok = a, true
				break
			}
		}
	}
	if !ok || known && kept == addr {
		return kept, known
	}
	// What somebody has already is not taken from them: it is the machine's as soon
	// as it is free.
	if lease, lent := r.leases.At(addr); r.Fleet.Taken(addr) || lent && lease.MAC != mac && r.now().Before(lease.Until) {
		return kept, known
	}
	return addr, true
}

// Taken says whether a stranger may not have the address.
func (r *reserving) Taken(addr netip.Addr) bool {
	return slices.Contains(r.addrs, addr) || r.Fleet.Taken(addr)
}

// table is what is reserved, for people.
func (r *reserving) table() []Holding {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Holding
	for _, a := range r.addrs {
		h := Holding{Addr: a, State: LeaseReserved, MAC: r.cards[a].mac, Why: "for " + clip(r.words[a])}
		for mac, b := range r.byMAC {
			if b == a {
				h.MAC = mac
			}
		}
		out = append(out, h)
	}
	return out
}
