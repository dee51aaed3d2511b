package netboot

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// What an address in the book is now.
const (
	LeaseLent    = "lent"    // a machine holds it
	LeaseEnded   = "ended"   // the machine gets it back if it asks before another needs it
	LeaseResting = "resting" // somebody else uses it; it is lent to nobody for a while
	// LeaseReserved is kept for a machine because the operator says so.
	LeaseReserved = "reserved"
)

// Holding is an address in the book as people ask about it.
type Holding struct {
	Addr  netip.Addr
	MAC   string // who has it, or had it; of one that rests, who found it in use
	State string
	Until time.Time // when it ended or ends
	Why   string    // of one that rests
}

// rest is why an address is lent to nobody for a while.
type rest struct {
	until time.Time
	mac   string // who found it in use; empty if this node did
	why   string
}

// ErrNoLease means that the book has nothing to release at an address.
var ErrNoLease = errors.New("nobody holds the address")

// At is the lease of an address, running or over.
func (l *Leases) At(addr netip.Addr) (Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, ok := l.byMAC[l.byAddr[addr]]
	return lease, ok
}

// Table is the whole book in the order of the addresses.
func (l *Leases) Table() []Holding {
	l.mu.Lock()
	now := l.now()
	out := make([]Holding, 0, len(l.byMAC)+len(l.resting))
	for a, r := range l.resting {
		if now.Before(r.until) {
			out = append(out, Holding{Addr: a, MAC: r.mac, State: LeaseResting, Until: r.until, Why: r.why})
		}
	}
	for _, lease := range l.byMAC {
		if now.Before(l.resting[lease.Addr].until) {
			continue // told already
		}
		h := Holding{Addr: lease.Addr, MAC: lease.MAC, State: LeaseLent, Until: lease.Until}
		if !now.Before(lease.Until) {
			h.State = LeaseEnded
		}
		out = append(out, h)
	}
	l.mu.Unlock()
	slices.SortFunc(out, func(a, b Holding) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.MAC, b.MAC)) })
	return out
}

// Free ends what holds an address, a lease or a rest, because a person says so. The
// machine that has it is not asked and may go on using it until it renews.
func (l *Leases) Free(addr netip.Addr) (Holding, error) {
	l.mu.Lock()
	now := l.now()
	if r, ok := l.resting[addr]; ok && now.Before(r.until) {
		delete(l.resting, addr)
		l.searchAnew()
		l.mu.Unlock()
		return Holding{Addr: addr, MAC: r.mac, State: LeaseResting, Until: r.until, Why: r.why}, nil
	}
	l.mu.Unlock()
	was, err := l.end(addr, func(Lease) bool { return true })
	if err != nil {
		return Holding{}, err
	}
	if was.MAC == "" {
		return Holding{}, ErrNoLease
	}
	return Holding{Addr: addr, MAC: was.MAC, State: LeaseLent, Until: was.Until}, nil
}

// letRest keeps an address from everybody for a while, and forgets the rests that
// are over, a minute after at the latest. l.mu is held.
func (l *Leases) letRest(addr netip.Addr, now time.Time, mac, why string) {
	if now.Sub(l.restsSeen) >= time.Minute || now.Before(l.restsSeen) {
		l.restsSeen = now
		for a, r := range l.resting {
			if !now.Before(r.until) {
				delete(l.resting, a)
			}
		}
	}
	l.resting[addr] = rest{until: now.Add(declineRest), mac: mac, why: why}
	l.endOffer(addr)
}

// InUse lets addr rest because a card was found to use it that was not lent it. It
// returns false when that card does so for too many already: it answers for others,
// as routers do, and would keep the whole range from being lent.
func (l *Leases) InUse(addr netip.Addr, card string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	most, why := arpClaimMost, "in use by card "+card+", which was not lent it"
	if card == echoed {
		most, why, card = echoMost, "in use by "+card+" and was not lent it", ""
	}
	now, n := l.now(), 0
	for _, r := range l.resting {
		if r.mac == card && now.Before(r.until) {
			n++
		}
	}
	if n >= most {
		return false
	}
	l.letRest(addr, now, card, why)
	return true
}

// held says who has the addresses of ranges, in the words of an alarm.
func (l *Leases) held(in []Range, kept func(netip.Addr) bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	var lent, offered, resting, known int
	var next Lease
	for _, r := range in {
		for n, a := 0, r.First; r.Contains(a) && n < countedMost; n, a = n+1, a.Next() {
			owner := l.byMAC[l.byAddr[a]]
			switch {
			case kept(a):
				known++
			case now.Before(l.resting[a].until):
				resting++
			case now.Before(owner.Until):
				lent++
				if next.MAC == "" || owner.Until.Before(next.Until) {
					next = owner
				}
			case now.Before(l.offers[a].Until):
				offered++
			}
		}
	}
	text := fmt.Sprintf("%d lent, %d kept for known machines, %d offered, %d resting because somebody else uses them", lent, known, offered, resting)
	if next.MAC != "" {
		text += fmt.Sprintf("; the next to end is %s, which %s has until %s", next.Addr, next.MAC, next.Until.UTC().Format("15:04 MST"))
	}
	return text
}

// countedMost is how many addresses of a range are looked at for a sentence.
const countedMost = 1 << 16
