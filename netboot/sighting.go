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
	uuid    string    // that it told last; sightings share the text
	stall   *Stall    // why it does not go on now
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

// Add remembers a sighting. One without a MAC is not kept, nor one of a file that is
// asked for again at once: firmware asks twice, and whoever asks a thousand times
// would push out what others did.
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
	if n := len(t.seen); n > 0 && (sg.Step == StepAsked || sg.Step == StepMissing) {
		if last := t.seen[n-1]; last.Step == sg.Step && last.Text == sg.Text && sg.At.Sub(last.At) < time.Second {
			s.mu.Unlock()
			return
		}
	}
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
