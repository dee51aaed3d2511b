package netboot

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Kind says on which protocol a sighting was made.
type Kind string

// The kinds.
const (
	KindDHCP   Kind = "dhcp"
	KindTFTP   Kind = "tftp"
	KindHTTP   Kind = "http"
	KindScript Kind = "script"
	KindRouter Kind = "router" // a router solicitation was answered
	KindAlarm  Kind = "alarm"  // it does what only a node of the cluster should
)

// Sighting is one thing a machine did on the wire, told in a sentence.
type Sighting struct {
	At   time.Time  `json:"at"`
	MAC  string     `json:"mac"`
	Kind Kind       `json:"kind"`
	Text string     `json:"text"` // "was offered 10.77.0.101 and the boot file snponly.efi"
	Addr netip.Addr `json:"addr,omitzero"`

	TFTP *TFTPTransfer `json:"tftp,omitempty"` // what Text was made from, when a file was fetched or not
}

// Sightings remembers the last things each machine did. It is bounded both
// ways: when a new machine does not fit, the one unseen for longest goes, so a
// flood of made-up addresses costs memory that is spent already.
type Sightings struct {
	mu       sync.Mutex
	machines int
	each     int
	notify   func(Sighting)
	byMAC    map[string]*list.Element
	byAddr   map[netip.Addr]string
	recent   *list.List // of *trail, last seen first
}

// trail is what is remembered of one machine.
type trail struct {
	mac     string
	addr    netip.Addr
	netboot time.Time // when it last asked what to boot
	seen    []Sighting
}

// NewSightings remembers each sightings of up to machines machines. notify,
// which may be nil, is called with every new one, outside of any lock.
func NewSightings(machines, each int, notify func(Sighting)) *Sightings {
	return &Sightings{
		machines: machines,
		each:     each,
		notify:   notify,
		byMAC:    make(map[string]*list.Element),
		byAddr:   make(map[netip.Addr]string),
		recent:   list.New(),
	}
}

// Add remembers a sighting. One without a MAC is not kept.
func (s *Sightings) Add(sg Sighting) {
	if sg.MAC == "" {
		return
	}
	s.mu.Lock()
	t := s.trail(sg.MAC)
	if len(t.seen) == s.each {
		copy(t.seen, t.seen[1:])
		t.seen = t.seen[:s.each-1]
	}
	t.seen = append(t.seen, sg)
	s.mu.Unlock()
	if s.notify != nil {
		s.notify(sg)
	}
}

// Of returns what is remembered of a machine, oldest first.
func (s *Sightings) Of(mac string) []Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byMAC[mac]
	if !ok {
		return nil
	}
	return append([]Sighting(nil), e.Value.(*trail).seen...)
}

// Recent returns the newest n sightings of all machines, newest first.
func (s *Sightings) Recent(n int) []Sighting {
	s.mu.Lock()
	var all []Sighting
	for e := s.recent.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*trail).seen...)
	}
	s.mu.Unlock()
	slices.SortStableFunc(all, func(a, b Sighting) int { return b.At.Compare(a.At) })
	return all[:max(0, min(n, len(all)))]
}

// holds notes that the machine uses addr, so that later requests from addr can
// be told as the machine's.
func (s *Sightings) holds(mac string, addr netip.Addr) {
	if mac == "" || !addr.IsValid() || addr.IsUnspecified() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trail(mac)
	if t.addr == addr && s.byAddr[addr] == mac {
		return
	}
	if s.byAddr[t.addr] == mac {
		delete(s.byAddr, t.addr)
	}
	t.addr = addr
	s.byAddr[addr] = mac
}

// holder is the machine last known to use addr, or empty.
func (s *Sightings) holder(addr netip.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byAddr[addr]
}

// netboots notes that the machine asked what to boot.
func (s *Sightings) netboots(mac string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trail(mac).netboot = at
}

// lastNetboot is when the machine last asked what to boot; zero when unknown.
func (s *Sightings) lastNetboot(mac string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byMAC[mac]; ok {
		return e.Value.(*trail).netboot
	}
	return time.Time{}
}

// trail finds or makes a machine's trail. s.mu is held.
func (s *Sightings) trail(mac string) *trail {
	if e, ok := s.byMAC[mac]; ok {
		s.recent.MoveToFront(e)
		return e.Value.(*trail)
	}
	if s.recent.Len() >= s.machines {
		last := s.recent.Back()
		gone := s.recent.Remove(last).(*trail)
		delete(s.byMAC, gone.mac)
		if s.byAddr[gone.addr] == gone.mac {
			delete(s.byAddr, gone.addr)
		}
	}
	t := &trail{mac: mac}
	s.byMAC[mac] = s.recent.PushFront(t)
	return t
}
