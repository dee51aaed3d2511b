package netboot

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Finding an address to offer. A thousand machines that ask at once do not each walk
// past all the addresses of those before them, and a full range is not walked through
// for every packet of a flood: where a search has ended the next one goes on.

// searchHolds is how long what was found out of a range holds.
const searchHolds = time.Second

// spot is where the addresses of a range begin that nobody ever had.
type spot struct {
	from  netip.Addr // invalid: there is none
	until time.Time
}

// spares are addresses whose leases are over, those unused for longest first.
type spares struct {
	of    []Lease
	until time.Time
}

// untouched finds an address that nobody ever had. l.mu is held.
func (l *Leases) untouched(mac string, now time.Time, terms Terms) (netip.Addr, bool) {
	for _, r := range terms.From {
		begin := r.First
		if s := l.spots[r]; now.Before(s.until) {
			if !s.from.IsValid() {
				continue
			}
			begin = s.from
		}
		for _, part := range []Range{{begin, r.Last}, {r.First, begin.Prev()}} {
			for a := part.First; part.Contains(a); a = a.Next() {
				if _, had := l.byAddr[a]; had || l.lends(a, mac, now, terms) != nil {
					continue
				}
				l.spots[r] = spot{a, now.Add(searchHolds)}
				return a, true
			}
		}
		l.spots[r] = spot{until: now.Add(searchHolds)}
	}
	return netip.Addr{}, false
}

// unusedLongest finds, of the addresses whose leases are over, the one that was so
// first. l.mu is held.
func (l *Leases) unusedLongest(mac string, now time.Time, terms Terms) (netip.Addr, bool) {
	if len(terms.From) == 0 {
		return netip.Addr{}, false
	}
	s := l.spares[terms.From[0]]
	if !now.Before(s.until) {
		s = spares{until: now.Add(searchHolds)}
		for _, lease := range l.byMAC {
			if !now.Before(lease.Until) && slices.ContainsFunc(terms.From, func(r Range) bool { return r.Contains(lease.Addr) }) {
				s.of = append(s.of, lease)
			}
		}
		slices.SortFunc(s.of, func(a, b Lease) int { return cmp.Or(a.Until.Compare(b.Until), a.Addr.Compare(b.Addr)) })
	}
	defer func() { l.spares[terms.From[0]] = s }()
	// Of those that are not known to be over everywhere none will do (Terms.Heard).
	for len(s.of) > 0 && !s.of[0].Until.After(terms.Heard) {
		a := s.of[0].Addr
		s.of = s.of[1:]
		if l.lends(a, mac, now, terms) == nil {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// searchAnew forgets where searches have ended, because addresses have become free
// otherwise than by the passing of time. l.mu is held.
func (l *Leases) searchAnew() {
	clear(l.spots)
	clear(l.spares)
}

// spare notes that a lease has been ended, which is the last that was. l.mu is held.
func (l *Leases) spare(lease Lease) {
	for first, s := range l.spares {
		if !lease.Until.Before(s.until) { // the search that is next begins anew
			delete(l.spares, first)
			continue
		}
		s.of = append(s.of, lease)
		l.spares[first] = s
	}
}

// offeredTo finds an address that is held for the machine because it was offered it.
// l.mu is held.
func (l *Leases) offeredTo(mac string, now time.Time, terms Terms) (netip.Addr, bool) {
	for _, a := range l.offersOf[mac] {
		if now.Before(l.offers[a].Until) && l.lends(a, mac, now, terms) == nil {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// hold records an offer. l.mu is held.
func (l *Leases) hold(mac string, addr netip.Addr, now time.Time) netip.Addr {
	if l.offers[addr].MAC != mac {
		l.endOffer(addr)
		l.offersOf[mac] = append(l.offersOf[mac], addr)
	}
	l.offers[addr] = Lease{MAC: mac, Addr: addr, Until: now.Add(offerHold)}
	return addr
}

// endOffer forgets the offer of an address. l.mu is held.
func (l *Leases) endOffer(addr netip.Addr) {
	o, ok := l.offers[addr]
	if !ok {
		return
	}
	delete(l.offers, addr)
	left := slices.DeleteFunc(l.offersOf[o.MAC], func(a netip.Addr) bool { return a == addr })
	if len(left) == 0 {
		delete(l.offersOf, o.MAC)
		return
	}
	l.offersOf[o.MAC] = left
}
