package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/lpmos/lpmos/consensus"
)

const (
	offerHold     = time.Minute      // how long an unanswered offer keeps its address
	declineRest   = 10 * time.Minute // how long a declined address rests
	declinesPerHr = 3                // by one machine; more are ignored, or one card drains the pool
	declinesKept  = 4096             // machines remembered for that
	leaseFileWait = time.Second      // for another process to let go of the file
	leaseFileMode = 0o600
)

// Why an address is not lent.
var (
	errAddressHeld = errors.New("the address is another machine's")
	errNotLent     = errors.New("the address is not this node's to lend now")
)

var leaseBucket = []byte("leases")

// Lease is an address a stranger holds. It stays in the book after its end, so
// that the machine gets it back, until the pool has nothing older to give.
type Lease struct {
	MAC   string     `json:"mac"`
	Addr  netip.Addr `json:"addr"`
	Until time.Time  `json:"until"`
}

// Terms are what the book itself does not know of addresses: which of them are
// this node's to lend.
type Terms struct {
	From   []Range               // newcomers draw from these
	Keeps  func(netip.Addr) bool // who holds the address may go on with it
	Usable func(netip.Addr) bool // it is nobody's for another reason
	// Heard is up to when it is known what was agreed on elsewhere. A machine that
	// was lent an address may have become a known one while it held it, and keeps it
	// for ever then: only if its lease ended before this time is that not so.
	Heard time.Time
}

// Leases is the book of addresses lent to machines the fleet does not know. It
// answers from memory and is durable: Commit returns when the disk has it.
type Leases struct {
	db     *bolt.DB
	writer *leaseWriter
	put    func(lease Lease, loser string, done func(error)) // puts a lease in the place of another's; the writer's, outside of tests
	now    func() time.Time

	// changing is held by who changes a lease in memory until it is on its way to the
	// disk, which so comes to hold what memory did last.
	changing sync.Mutex

	mu        sync.Mutex
	byMAC     map[string]Lease
	byAddr    map[netip.Addr]string   // owner of a lease, running or over
	offers    map[netip.Addr]Lease    // not on disk: a lost offer is asked for again
	offersOf  map[string][]netip.Addr // the same, by machine
	spots     map[Range]spot
	spares    map[Range]spares // by the first of a node's ranges
	resting   map[netip.Addr]rest
	restsSeen time.Time // when those that are over were last looked for
	declines  map[string][]time.Time
	closed    []Range // nothing in these is lent anew
}

// OpenLeases opens or creates the book at path.
func OpenLeases(path string, now func() time.Time) (*Leases, error) {
	if err := consensus.CheckBoltFile(path, string(leaseBucket)); err != nil {
		return nil, damaged(path, err)
	}
	db, err := bolt.Open(path, leaseFileMode, &bolt.Options{Timeout: leaseFileWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("leases %s: another process has the file open; is a node running already?", path)
	}
	if err != nil {
		return nil, fmt.Errorf("leases %s: %w", path, err)
	}
	l := newLeases(now)
	l.db = db
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(leaseBucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			lease, err := readLease(k, v)
			if err != nil {
				return damaged(path, fmt.Errorf("lease of %.20q: %w", k, err))
			}
			l.enter(lease)
			return nil
		})
	})
	if errors.Is(err, ErrDamaged) {
		return nil, errors.Join(err, db.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("leases %s: %w", path, err), db.Close())
	}
	l.writer = newLeaseWriter(db)
	l.put = l.writer.put
	return l, nil
}

// ErrDamaged means that the book of leases cannot be trusted: machines may hold
// addresses that it does not name any more, or names for others.
var ErrDamaged = errors.New("the book of leases is damaged")

func damaged(path string, err error) error {
	return fmt.Errorf("%w: %s: %w; move the file away, and start the node when the leases in it have run out, an hour from now", ErrDamaged, path, err)
}

// sumLen is the length of a record's checksum: "#" and eight digits behind the JSON.
const sumLen = 9

func leaseSum(mac string, b []byte) string {
	return fmt.Sprintf("#%08x", crc32.Update(crc32.ChecksumIEEE([]byte(mac)), crc32.IEEETable, b))
}

func writeLease(lease Lease) ([]byte, error) {
	b, err := json.Marshal(lease)
	return append(b, leaseSum(lease.MAC, b)...), err
}

// readLease reads a record. Those of older versions end with the JSON.
func readLease(key, value []byte) (lease Lease, err error) {
	if at := len(value) - sumLen; at > 0 && value[len(value)-1] != '}' {
		if string(value[at:]) != leaseSum(string(key), value[:at]) {
			return lease, errors.New("its checksum is wrong")
		}
		value = value[:at]
	}
	if err := json.Unmarshal(value, &lease); err != nil {
		return lease, err
	}
	if mac, ok := ParseMAC(lease.MAC); !ok || mac != lease.MAC || mac != string(key) || !lease.Addr.Is4() {
		return lease, errors.New("it is no lease of an address")
	}
	return lease, nil
}

func newLeases(now func() time.Time) *Leases {
	return &Leases{
		now:      now,
		byMAC:    make(map[string]Lease),
		byAddr:   make(map[netip.Addr]string),
		offers:   make(map[netip.Addr]Lease),
		offersOf: make(map[string][]netip.Addr),
		spots:    make(map[Range]spot),
		spares:   make(map[Range]spares),
		resting:  make(map[netip.Addr]rest),
		declines: make(map[string][]time.Time),
	}
}

// enter takes a lease over from the disk. Of two of one address, which a book of an
// older version can have after a write that failed, the one that ended before is not.
func (l *Leases) enter(lease Lease) {
	if owner, had := l.byAddr[lease.Addr]; had {
		if l.byMAC[owner].Until.After(lease.Until) {
			return
		}
		delete(l.byMAC, owner)
	}
	l.byMAC[lease.MAC] = lease
	l.byAddr[lease.Addr] = lease.MAC
}

// Close closes the file, when all that was to be written is in it.
func (l *Leases) Close() error {
	l.writer.close()
	return l.db.Close()
}

// All returns every lease in the book, running or over, in no order.
func (l *Leases) All() []Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Lease, 0, len(l.byMAC))
	for _, lease := range l.byMAC {
		out = append(out, lease)
	}
	return out
}

// Of is the lease of a machine, running or over.
func (l *Leases) Of(mac string) (Lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lease, ok := l.byMAC[mac]
	return lease, ok
}

// Holds reports whether the machine's lease runs and may be lent on.
func (l *Leases) Holds(mac string, terms Terms) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	lease, ok := l.byMAC[mac]
	return ok && now.Before(lease.Until) && l.lends(lease.Addr, mac, now, terms) == nil
}

// Offer chooses an address for a machine and holds it for a minute: the one it
// has or had, else the one it was offered, else the one it asks for, else one
// nobody had, else the one unused for longest. ok is false when there is none.
func (l *Leases) Offer(mac string, terms Terms, hint netip.Addr) (addr netip.Addr, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if lease, had := l.byMAC[mac]; had && l.lends(lease.Addr, mac, now, terms) == nil {
		return l.hold(mac, lease.Addr, now), true
	}
	if a, ok := l.offeredTo(mac, now, terms); ok {
		return l.hold(mac, a, now), true
	}
	if hint.IsValid() && l.lends(hint, mac, now, terms) == nil {
		return l.hold(mac, hint, now), true
	}
	if a, ok := l.untouched(mac, now, terms); ok {
		return l.hold(mac, a, now), true
	}
	if a, ok := l.unusedLongest(mac, now, terms); ok {
		return l.hold(mac, a, now), true
	}
	return netip.Addr{}, false
}

// lent is a lease that is in the book in memory, and on its way to the disk.
type lent struct {
	lease   Lease
	loser   string // the machine that had the address
	offered bool   // it was held for the machine, which had been offered it and had none
}

// lend lends addr to the machine until the given time. done is called once: when that is
// on disk, or at once when it cannot be.
func (l *Leases) lend(mac string, addr netip.Addr, until time.Time, terms Terms, done func(lent, error)) {
	l.changing.Lock()
	new, err := l.note(mac, addr, until, terms)
	if err == nil {
		l.put(new.lease, new.loser, func(err error) { done(new, err) })
	}
	l.changing.Unlock()
	if err != nil {
		done(new, err)
	}
}

// note enters a lease in memory. l.changing is held.
func (l *Leases) note(mac string, addr netip.Addr, until time.Time, terms Terms) (lent, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if err := l.lends(addr, mac, now, terms); err != nil {
		return lent{}, err
	}
	new := lent{lease: Lease{MAC: mac, Addr: addr, Until: until}, loser: l.byAddr[addr]}
	if new.loser == mac {
		new.loser = ""
	}
	if new.loser != "" {
		delete(l.byMAC, new.loser)
	}
	was, had := l.byMAC[mac]
	if had && was.Addr != addr {
		delete(l.byAddr, was.Addr)
	}
	o := l.offers[addr]
	new.offered = o.MAC == mac && now.Before(o.Until) && !now.Before(was.Until)
	l.byMAC[mac] = new.lease
	l.byAddr[addr] = mac
	l.endOffer(addr)
	return new, nil
}

// Commit lends addr to the machine until the given time and returns when that
// is on disk. Commits that come together share one write.
func (l *Leases) Commit(mac string, addr netip.Addr, until time.Time, terms Terms) error {
	written := make(chan error, 1)
	l.lend(mac, addr, until, terms, func(_ lent, err error) { written <- err })
	return stored(mac, addr, <-written)
}

// stored says which lease err is about.
func stored(mac string, addr netip.Addr, err error) error {
	if err != nil {
		return fmt.Errorf("lease %s to %s: %w", addr, mac, err)
	}
	return nil
}

// Release ends the lease of addr when it is the machine's, and returns when that is on
// disk. The book keeps the pair, so the machine gets the address back if it is still free.
func (l *Leases) Release(mac string, addr netip.Addr) (bool, error) {
	was, err := l.end(addr, func(lease Lease) bool { return lease.MAC == mac })
	return was.MAC != "", err
}

// end ends the lease of addr if it runs and may be ended, and returns what it was when
// that is on disk.
func (l *Leases) end(addr netip.Addr, may func(Lease) bool) (was Lease, err error) {
	written := make(chan error, 1)
	l.changing.Lock()
	l.mu.Lock()
	now := l.now()
	was, ok := l.byMAC[l.byAddr[addr]]
	if !ok || !now.Before(was.Until) || !may(was) {
		l.mu.Unlock()
		l.changing.Unlock()
		return Lease{}, nil
	}
	lease := was
	lease.Until = now
	l.byMAC[lease.MAC] = lease
	l.spare(lease)
	l.mu.Unlock()
	l.put(lease, "", func(err error) { written <- err })
	l.changing.Unlock()
	return was, stored(was.MAC, addr, <-written)
}

// Decline lets addr rest because the machine it was offered or lent to found
// it in use. It returns false when the machine has no say over addr or has
// declined too often.
func (l *Leases) Decline(mac string, addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.byAddr[addr] != mac && l.offers[addr].MAC != mac {
		return false
	}
	var recent []time.Time
	for _, t := range l.declines[mac] {
		if now.Sub(t) < time.Hour {
			recent = append(recent, t)
		}
	}
	if len(recent) >= declinesPerHr {
		return false
	}
	if _, known := l.declines[mac]; !known && len(l.declines) >= declinesKept {
		for one := range l.declines { // any: made-up machines decline once and never come back
			delete(l.declines, one)
			break
		}
	}
	l.declines[mac] = append(recent, now)
	l.letRest(addr, now, mac, "declined by "+mac)
	return true
}

// Vacate closes a range: from now on nothing of it is lent anew. It reports
// whether nobody holds an address of it any more, by a lease or an offer.
func (l *Leases) Vacate(r Range) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.closed, r) {
		l.closed = append(l.closed, r)
	}
	now := l.now()
	for a, o := range l.offers {
		if r.Contains(a) && now.Before(o.Until) {
			return false
		}
	}
	for _, lease := range l.byMAC {
		if r.Contains(lease.Addr) && now.Before(lease.Until) {
			return false
		}
	}
	return true
}

// Reopen lets addresses of a range that was closed be lent again.
func (l *Leases) Reopen(r Range) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.searchAnew()
	l.closed = slices.DeleteFunc(l.closed, func(c Range) bool { return c == r })
}

// lends says why addr cannot be given to the machine; nil if it can. l.mu is held.
func (l *Leases) lends(addr netip.Addr, mac string, now time.Time, terms Terms) error {
	if now.Before(l.resting[addr].until) || !terms.Usable(addr) {
		return errNotLent
	}
	if o, ok := l.offers[addr]; ok && o.MAC != mac && now.Before(o.Until) {
		return errAddressHeld
	}
	owner, had := l.byAddr[addr]
	if had && now.Before(l.byMAC[owner].Until) {
		switch {
		case owner != mac:
			return errAddressHeld
		case terms.Keeps(addr):
			return nil
		}
	}
	in := func(r Range) bool { return r.Contains(addr) }
	if !slices.ContainsFunc(terms.From, in) || slices.ContainsFunc(l.closed, in) {
		return errNotLent
	}
	if had && owner != mac && l.byMAC[owner].Until.After(terms.Heard) {
		return errAddressHeld
	}
	return nil
}
