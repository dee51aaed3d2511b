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
	KindStall  Kind = "stall"  // it does not go on, or goes on again: see stall.go
)

// Step says how far a sighting shows the machine to be on its way from its first
// DISCOVER to the agent.
type Step string

// The steps.
const (
	StepDiscover  Step = "discover"  // asked for an address, and there was none for it
	StepOffer     Step = "offer"     // was offered one
	StepAck       Step = "ack"       // was lent one
	StepRefused   Step = "refused"   // was told that its address is not its own
	StepElsewhere Step = "elsewhere" // took the offer of another DHCP server
	StepProxy     Step = "proxy"     // was told what to boot, and gets its address from another server
	StepProxyAck  Step = "proxy-ack" // came to port 4011 for it
	StepAsked     Step = "asked"     // asked for a file
	StepServed    Step = "served"    // has all of it
	StepStopped   Step = "stopped"   // got a part of it
	StepMissing   Step = "missing"   // asked for one that is not here
	StepScript    Step = "script"    // was told what to do
	StepStalled   Step = "stalled"   // does not go on
	StepGoesOn    Step = "goes-on"   // does again
)

// Sighting is one thing a machine did on the wire, told in a sentence. The rest of
// it is what programs need to know of the same.
type Sighting struct {
	At   time.Time  `json:"at"`
	MAC  string     `json:"mac"`
	Kind Kind       `json:"kind"`
	Text string     `json:"text"` // "was offered 10.77.0.101 and the boot file snponly.efi"
	Addr netip.Addr `json:"addr,omitzero"`

	Step     Step       `json:"step,omitempty"`
	Stage    Stage      `json:"stage,omitempty"`    // of its boot, as DHCP or the script shows it
	Platform string     `json:"platform,omitempty"` // "bios" or "uefi", as it says itself
	UUID     string     `json:"uuid,omitempty"`
	Firmware string     `json:"firmware,omitempty"` // in words, when there is nothing for it here
	File     string     `json:"file,omitempty"`     // that it was told to load, or asked for
	Bytes    int64      `json:"bytes,omitempty"`    // of it that it has
	Size     int64      `json:"size,omitempty"`     // of it in all
	Block    int        `json:"block,omitempty"`    // bytes in a block of TFTP
	End      End        `json:"end,omitempty"`      // why it has not got what it asked for
	Server   netip.Addr `json:"server,omitzero"`    // the other DHCP server
	Action   Action     `json:"action,omitempty"`   // of a script
	Stall    string     `json:"stall,omitempty"`    // its id
	Hint     string     `json:"hint,omitempty"`     // what to do about a stall

	TFTP *TFTPTransfer `json:"-"` // what a transfer's sighting was made from
}

// End says why a machine has not got what it asked for.
type End string

// The ends.
const (
	EndNoAddress End = "no address" // none is left
	EndNoLoader  End = "no loader"  // none runs on its architecture
	EndHungUp    End = "hung up"    // it ended the transfer itself
	EndSilent    End = "silent"     // it did not acknowledge any more
	EndUnheard   End = "unheard"    // it never answered to what it was sent
)

const (
	// sightingsInAll is how many are kept of all machines together: some 25 MB at worst.
	sightingsInAll = 32768
	// sightingsShown is how many of the newest are kept a second time, in their order.
	sightingsShown = 256
	// sightingsEach is how many a machine may cause in a second. A whole boot has fewer.
	sightingsEach = 40
	// A file that is not here is told so often in so long.
	missingEach = 3
	missingSpan = 10 * time.Second
)

// Sightings remembers the last things each machine did. It is bounded three ways.
// When a new machine does not fit, the one unseen for longest goes; when a sighting
// does not, that machine loses its oldest, but for a few that every machine keeps. So a
// flood of made-up addresses costs memory that is spent already, which is never more
// than 30 MB.
type Sightings struct {
	mu       sync.Mutex
	machines int
	each     int
	all      int // sightings of all machines; see Bound
	few      int // of them that each machine keeps
	notify   func(Sighting)
	byMAC    map[string]*list.Element
	byAddr   map[netip.Addr]string
	recent   *list.List // of *trail, last seen first
	long     *list.List // those of them with more than a few sightings, in the same order
	stalled  map[*trail]bool
	kept     int        // sightings in trails
	newest   []Sighting // a ring of the last that came, whoever's
	next     int        // where in it the next one goes
	dropped  uint64     // that came too fast
}

// trail is what is remembered of one machine.
type trail struct {
	mac     string
	addr    netip.Addr
	netboot time.Time // when it last asked what to boot
	uuid    string    // that it told last; sightings share the text
	stall   *Stall    // why it does not go on now
	seen    []Sighting
	long    *list.Element // in Sightings.long, if it is there
	second  int64         // which one came counts
	came    int
}

// NewSightings remembers each sightings of up to machines machines. notify,
// which may be nil, is called with every new one, outside of any lock.
func NewSightings(machines, each int, notify func(Sighting)) *Sightings {
	s := &Sightings{
		machines: machines,
		each:     each,
		notify:   notify,
		byMAC:    make(map[string]*list.Element),
		byAddr:   make(map[netip.Addr]string),
		recent:   list.New(),
		long:     list.New(),
		stalled:  make(map[*trail]bool),
	}
	s.Bound(sightingsInAll)
	return s
}

// Bound is how many sightings of all machines together may be kept, if each machine
// has one at least.
func (s *Sightings) Bound(all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all == s.all {
		return
	}
	s.all, s.few = all, max(1, all/max(1, s.machines))
	s.long.Init()
	for e := s.recent.Front(); e != nil; e = e.Next() {
		t := e.Value.(*trail)
		if t.long = nil; len(t.seen) > s.few {
			t.long = s.long.PushBack(t)
		}
	}
	s.shed()
}

// shed has the machines unseen for longest lose what is too much. s.mu is held.
func (s *Sightings) shed() {
	for s.kept > s.all && s.long.Len() > 0 {
		t := s.long.Remove(s.long.Back()).(*trail)
		t.long = nil
		s.kept -= len(t.seen) - s.few
		t.seen = slices.Clone(t.seen[len(t.seen)-s.few:])
	}
}

// Add remembers a sighting. One without a MAC is not kept, nor one of a file that is
// asked for again at once: firmware asks twice. Whoever asks a thousand times, or for a
// thousand files, would push out what others did here and at the other nodes: what is
// too much is counted.
func (s *Sightings) Add(sg Sighting) {
	if sg.MAC == "" {
		return
	}
	s.mu.Lock()
	t := s.trail(sg.MAC)
	if sg.UUID == t.uuid {
		sg.UUID = t.uuid
	} else if sg.UUID != "" {
		t.uuid = sg.UUID
	}
	if t.again(sg) {
		s.mu.Unlock()
		return
	}
	if t.tooFast(sg) {
		s.dropped++
		s.mu.Unlock()
		return
	}
	sg.MAC = t.mac // which sightings share, too
	s.keep(t, sg)
	s.mu.Unlock()
	if s.notify != nil {
		s.notify(sg)
	}
}

// again says whether a sighting says what others have just said. The lock is held.
func (t *trail) again(sg Sighting) bool {
	n := len(t.seen)
	if n == 0 || sg.Step != StepAsked && sg.Step != StepMissing {
		return false
	}
	if last := &t.seen[n-1]; last.Step == sg.Step && last.Text == sg.Text && sg.At.Sub(last.At) < time.Second {
		return true
	}
	if sg.Step != StepMissing {
		return false
	}
	times := 0
	for i := range t.seen {
		if one := &t.seen[i]; one.Step == StepMissing && one.Text == sg.Text && sg.At.Sub(one.At) < missingSpan {
			times++
		}
	}
	return times >= missingEach
}

// tooFast counts a sighting, and says whether there were enough of the machine in its
// second. What this node says of it is always told. The lock is held.
func (t *trail) tooFast(sg Sighting) bool {
	if sg.Kind == KindStall || sg.Kind == KindAlarm {
		return false
	}
	if second := sg.At.Unix(); second != t.second {
		t.second, t.came = second, 0
	}
	t.came++
	return t.came > sightingsEach
}

// tooMany is how many sightings were not kept because they came too fast.
func (s *Sightings) tooMany() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// keep puts a sighting behind the others of a machine. s.mu is held.
func (s *Sightings) keep(t *trail, sg Sighting) {
	if len(s.newest) < sightingsShown {
		s.newest = append(s.newest, sg)
	} else {
		s.newest[s.next] = sg
	}
	s.next = (s.next + 1) % sightingsShown
	switch n := len(t.seen); {
	case n == s.each:
		copy(t.seen, t.seen[1:])
		t.seen = t.seen[:n-1]
		s.kept--
	case n == cap(t.seen): // by a half: most machines never fill theirs
		t.seen = append(make([]Sighting, 0, min(s.each, n+n/2+2)), t.seen...)
	}
	t.seen = append(t.seen, sg)
	if s.kept++; t.long == nil && len(t.seen) > s.few {
		t.long = s.long.PushFront(t)
	}
	s.shed()
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

// Recent returns the newest n sightings of all machines, newest first. There are no
// more than sightingsShown.
func (s *Sightings) Recent(n int) []Sighting {
	s.mu.Lock()
	out := make([]Sighting, 0, max(0, min(n, len(s.newest))))
	for i := 1; len(out) < cap(out); i++ {
		out = append(out, s.newest[(s.next-i+sightingsShown)%sightingsShown])
	}
	s.mu.Unlock()
	slices.SortStableFunc(out, func(a, b Sighting) int { return b.At.Compare(a.At) })
	return out
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
		t := e.Value.(*trail)
		if t.long != nil {
			s.long.MoveToFront(t.long)
		}
		return t
	}
	if s.recent.Len() >= s.machines {
		last := s.recent.Back()
		gone := s.recent.Remove(last).(*trail)
		delete(s.byMAC, gone.mac)
		delete(s.stalled, gone)
		s.kept -= len(gone.seen)
		if gone.long != nil {
			s.long.Remove(gone.long)
		}
		if s.byAddr[gone.addr] == gone.mac {
			delete(s.byAddr, gone.addr)
		}
	}
	t := &trail{mac: mac}
	s.byMAC[mac] = s.recent.PushFront(t)
	return t
}
