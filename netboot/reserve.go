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

// Owner is a known machine that a reservation by UUID or serial number is for.
type Owner struct {
	Name string
	Card string // the MAC of the card that its agent spoke from last: the one that boots
}

const (
	// reservedTo is how long a card of a machine that nobody knows holds an address that is
	// reserved for it without asking again: a machine with several cards asks with each,
	// and one gets it.
	reservedTo = time.Hour
	// ownersFor is how long it holds who owns what: every packet asks.
	ownersFor = time.Second
)

// reserving is a Fleet whose machines have what is reserved for them, too. Whose a
// reservation by UUID or serial number is, and which of its cards, follows from what all
// nodes know of a machine, so they all say the same. Of one that is not known yet each
// node takes the card that asks it first.
type reserving struct {
	Fleet
	owners func(ids []string) map[string][]Owner // by the ids given, in small letters, who was seen first before others; nil: nobody is known
	leases *Leases
	now    func() time.Time
	byMAC  map[string]netip.Addr
	byID   map[string]netip.Addr // lower case
	ids    []string              // of byID, as they were configured
	addrs  []netip.Addr          // of all
	words  map[netip.Addr]string // what was configured

	mu    sync.Mutex
	cards map[netip.Addr]cardAsked // who has what is reserved by another id than a MAC
	known map[string][]Owner
	asked time.Time // for known
}

type cardAsked struct {
	mac   string
	asked time.Time
}

// reserve adds the reservations to what the fleet says.
func reserve(f Fleet, all []Reservation, owners func([]string) map[string][]Owner, leases *Leases, now func() time.Time) (*reserving, error) {
	r := &reserving{Fleet: f, owners: owners, leases: leases, now: now, byMAC: map[string]netip.Addr{}, byID: map[string]netip.Addr{}, words: map[netip.Addr]string{}, cards: map[netip.Addr]cardAsked{}}
	for _, one := range all {
		if !one.Addr.Is4() || slices.Contains(r.addrs, one.Addr) {
			return nil, fmt.Errorf("reservation of %s for %.60q: it is reserved twice or no IPv4 address", one.Addr, one.Machine)
		}
		if mac, ok := ParseMAC(one.Machine); ok {
			r.byMAC[mac] = one.Addr
		} else {
			id := strings.ToLower(one.Machine)
			r.byID[id] = one.Addr
			r.ids = append(r.ids, id)
		}
		r.addrs = append(r.addrs, one.Addr)
		r.words[one.Addr] = one.Machine
	}
	return r, nil
}

// saw notes which card a machine asks with whose UUID was reserved an address, if nobody
// knows the machine. On nil, nothing is reserved.
func (r *reserving) saw(m Machine) {
	if r == nil || len(r.byID) == 0 {
		return
	}
	for _, uuid := range m.UUIDs() {
		if addr, ok := r.byID[uuid]; ok && len(r.of(uuid)) == 0 {
			r.claim(addr, m.MAC)
		}
	}
}

// of are the known machines that a reservation by this id is for. The first has it.
func (r *reserving) of(id string) []Owner {
	if r.owners == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); r.known == nil || now.Sub(r.asked) >= ownersFor {
		r.known, r.asked = r.owners(r.ids), now
	}
	return r.known[id]
}

// claim makes a card the one that has an address, if no other has asked for long.
func (r *reserving) claim(addr netip.Addr, mac string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, now := r.cards[addr], r.now(); c.mac == mac || c.mac == "" || now.Sub(c.asked) >= reservedTo {
		r.cards[addr] = cardAsked{mac: mac, asked: now}
	}
}

// card is the one that has what is reserved by an id; empty if there is none yet.
func (r *reserving) card(id string) string {
	if owners := r.of(id); len(owners) > 0 {
		return owners[0].Card
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cards[r.byID[id]].mac
}

// Address is what is reserved for the machine with that card, else what it keeps.
func (r *reserving) Address(mac string) (netip.Addr, bool) {
	kept, known := r.Fleet.Address(mac)
	addr, ok := r.byMAC[mac]
	for _, id := range r.ids {
		if ok {
			break
		}
		if r.card(id) == mac {
			addr, ok = r.byID[id], true
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

// alarms are the reservations that more than one machine claims.
func (r *reserving) alarms() (out []string) {
	for _, id := range r.ids {
		owners := r.of(id)
		if len(owners) < 2 {
			continue
		}
		var names []string
		for _, o := range owners {
			names = append(names, o.Name)
		}
		addr := r.byID[id]
		out = append(out, fmt.Sprintf("%d machines claim the address %s, which is reserved for %s: %s; %s, which was seen first, has it. Reserve it by a MAC, or give the others one with lpmos machine address",
			len(owners), addr, clip(r.words[addr]), strings.Join(names, ", "), owners[0].Name))
	}
	return out
}

// Taken says whether a stranger may not have the address.
func (r *reserving) Taken(addr netip.Addr) bool {
	return slices.Contains(r.addrs, addr) || r.Fleet.Taken(addr)
}

// table is what is reserved, for people.
func (r *reserving) table() []Holding {
	macs := map[netip.Addr]string{}
	for mac, a := range r.byMAC {
		macs[a] = mac
	}
	for id, a := range r.byID {
		macs[a] = r.card(id)
	}
	var out []Holding
	for _, a := range r.addrs {
		out = append(out, Holding{Addr: a, State: LeaseReserved, MAC: macs[a], Why: "for " + clip(r.words[a])})
	}
	return out
}
