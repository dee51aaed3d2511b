package netboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	offerHold     = time.Minute      // how long an unanswered offer keeps its address
	declineRest   = 10 * time.Minute // how long a declined address rests
	declinesPerHr = 3                // by one machine; more are ignored, or one card drains the pool
	commitDelay   = time.Millisecond // how long a commit waits for company
	leaseFileWait = time.Second      // for another process to let go of the file
	leaseFileMode = 0o600
)

// errAddressHeld says that an address belongs to another machine.
var errAddressHeld = errors.New("the address is another machine's")

var leaseBucket = []byte("leases")

// Lease is an address a stranger holds. It stays in the book after its end, so
// that the machine gets it back, until the pool has nothing older to give.
type Lease struct {
	MAC   string     `json:"mac"`
	Addr  netip.Addr `json:"addr"`
	Until time.Time  `json:"until"`
}

// Leases is the book of addresses lent to machines the fleet does not know. It
// answers from memory and is durable: Commit returns when the disk has it.
type Leases struct {
	db  *bolt.DB
	now func() time.Time

	mu       sync.Mutex
	byMAC    map[string]Lease
	byAddr   map[netip.Addr]string // owner of a lease, running or over
	offers   map[netip.Addr]Lease  // not on disk: a lost offer is asked for again
	resting  map[netip.Addr]time.Time
	declines map[string][]time.Time
}

// OpenLeases opens or creates the book at path.
func OpenLeases(path string, now func() time.Time) (*Leases, error) {
	db, err := bolt.Open(path, leaseFileMode, &bolt.Options{Timeout: leaseFileWait, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("leases %s: another process has the file open; is a node running already?", path)
	}
	if err != nil {
		return nil, fmt.Errorf("leases %s: %w", path, err)
	}
	db.MaxBatchDelay = commitDelay
	l := &Leases{
		db: db, now: now,
		byMAC:    make(map[string]Lease),
		byAddr:   make(map[netip.Addr]string),
		offers:   make(map[netip.Addr]Lease),
		resting:  make(map[netip.Addr]time.Time),
		declines: make(map[string][]time.Time),
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(leaseBucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			var lease Lease
			if err := json.Unmarshal(v, &lease); err != nil {
				return fmt.Errorf("lease of %s: %w", k, err)
			}
			l.byMAC[lease.MAC] = lease
			l.byAddr[lease.Addr] = lease.MAC
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("leases %s: %w", path, err), db.Close())
	}
	return l, nil
}

// Close closes the file.
func (l *Leases) Close() error { return l.db.Close() }

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

// Offer chooses an address out of r for a machine and holds it for a minute:
// the one it has or had, else the one it asks for, else one nobody had, else
// the one unused for longest. usable refuses addresses for reasons outside of
// the book. ok is false when the range is exhausted.
func (l *Leases) Offer(mac string, r Range, hint netip.Addr, usable func(netip.Addr) bool) (addr netip.Addr, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if lease, had := l.byMAC[mac]; had && l.free(lease.Addr, mac, now) && r.Contains(lease.Addr) && usable(lease.Addr) {
		return l.hold(mac, lease.Addr, now), true
	}
	for a, o := range l.offers {
		if o.MAC == mac && now.Before(o.Until) && r.Contains(a) && usable(a) {
			return l.hold(mac, a, now), true
		}
	}
	if r.Contains(hint) && l.free(hint, mac, now) && usable(hint) {
		return l.hold(mac, hint, now), true
	}
	var oldest Lease
	for a := r.First; r.Contains(a); a = a.Next() {
		if !l.free(a, mac, now) || !usable(a) {
			continue
		}
		owner, had := l.byAddr[a]
		if !had {
			return l.hold(mac, a, now), true
		}
		if was := l.byMAC[owner]; !oldest.Addr.IsValid() || was.Until.Before(oldest.Until) {
			oldest = was
		}
	}
	if oldest.Addr.IsValid() {
		return l.hold(mac, oldest.Addr, now), true
	}
	return netip.Addr{}, false
}

// Commit lends addr to the machine until the given time and returns when that
// is on disk. Commits that come together share one write.
func (l *Leases) Commit(mac string, addr netip.Addr, until time.Time) error {
	lease := Lease{MAC: mac, Addr: addr, Until: until}
	value, err := json.Marshal(lease)
	if err != nil {
		return fmt.Errorf("lease %s to %s: %w", addr, mac, err)
	}
	l.mu.Lock()
	if !l.free(addr, mac, l.now()) {
		l.mu.Unlock()
		return fmt.Errorf("lease %s to %s: %w", addr, mac, errAddressHeld)
	}
	loser := l.byAddr[addr]
	if loser == mac {
		loser = ""
	}
	if loser != "" {
		delete(l.byMAC, loser)
	}
	if was, ok := l.byMAC[mac]; ok && was.Addr != addr {
		delete(l.byAddr, was.Addr)
	}
	l.byMAC[mac] = lease
	l.byAddr[addr] = mac
	delete(l.offers, addr)
	l.mu.Unlock()

	err = l.db.Batch(func(tx *bolt.Tx) error {
		b := tx.Bucket(leaseBucket)
		if loser != "" {
			if err := b.Delete([]byte(loser)); err != nil {
				return err
			}
		}
		return b.Put([]byte(mac), value)
	})
	if err != nil {
		return fmt.Errorf("lease %s to %s: %w", addr, mac, err)
	}
	return nil
}

// Release ends the lease of addr when it is the machine's. The book keeps the
// pair, so the machine gets the address back if it is still free.
func (l *Leases) Release(mac string, addr netip.Addr) (bool, error) {
	if lease, ok := l.Of(mac); !ok || lease.Addr != addr {
		return false, nil
	}
	return true, l.Commit(mac, addr, l.now())
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
	l.declines[mac] = append(recent, now)
	l.resting[addr] = now.Add(declineRest)
	delete(l.offers, addr)
	return true
}

// hold records an offer. l.mu is held.
func (l *Leases) hold(mac string, addr netip.Addr, now time.Time) netip.Addr {
	l.offers[addr] = Lease{MAC: mac, Addr: addr, Until: now.Add(offerHold)}
	return addr
}

// free says whether addr can be given to the machine. l.mu is held.
func (l *Leases) free(addr netip.Addr, mac string, now time.Time) bool {
	if now.Before(l.resting[addr]) {
		return false
	}
	if o, ok := l.offers[addr]; ok && o.MAC != mac && now.Before(o.Until) {
		return false
	}
	owner, ok := l.byAddr[addr]
	return !ok || owner == mac || !now.Before(l.byMAC[owner].Until)
}
