package apitest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// Anna is who asks in tests that are about something else.
var Anna = door.Caller{Name: "anna", Role: fleet.Admin, From: "192.0.2.1"}

// SignedIn lets a handler take every request for one of Anna's.
func SignedIn(h http.Handler) http.Handler { return door.As(Anna, h) }

// Node is everything an API stands on, in memory.
type Node struct {
	Cluster    *Cluster
	Images     *Images
	Sightings  *Sightings
	Contact    *Contact
	Membership *Membership
	Leases     *Leases
	Clock      *Clock
	ids        atomic.Int64
}

// NewNode starts with an empty fleet at noon of a day in 2026.
func NewNode() *Node {
	clock := &Clock{at: time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)}
	cluster := NewCluster(clock.Tick, 1000)
	return &Node{Cluster: cluster, Images: &Images{stored: map[string]bool{}}, Sightings: NewSightings(), Contact: &Contact{at: map[string]time.Time{}},
		Membership: NewMembership(clock.Now, cluster), Leases: &Leases{}, Clock: clock}
}

// Config of an API that stands on the node.
func (n *Node) Config() api.Config {
	return api.Config{
		Cluster: n.Cluster, Images: n.Images, Sightings: n.Sightings, Contact: n.Contact, Membership: n.Membership, Leases: n.Leases,
		Name: "n1", Region: "dc1", Version: "test",
		Now:      n.Clock.Now,
		NewID:    func() string { return fmt.Sprintf("t-new%02d", n.ids.Add(1)) },
		NewToken: func() string { return fmt.Sprintf("%032x", n.ids.Add(1)) },
		Examine: func(context.Context) api.Examination {
			return api.Examination{Verdict: "fail", Checks: []api.Check{
				{ID: "configuration", Verdict: "ok", Reason: "it is what this node was started with"},
				{ID: "link", Of: "eth0", Depth: 1, Verdict: "fail", Reason: "it is switched off", Fix: "sudo ip link set eth0 up"},
			}}
		},
	}
}

// Clock stands still until it is moved.
type Clock struct {
	mu sync.Mutex
	at time.Time
}

// Now is the time it shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// Tick moves it by a second.
func (c *Clock) Tick() time.Time { return c.Move(time.Second) }

// Move moves it.
func (c *Clock) Move(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
	return c.at
}

// Images takes anything that begins with "disk" for an image.
type Images struct {
	mu     sync.Mutex
	stored map[string]bool
}

// Import reads to the end.
func (i *Images) Import(_ context.Context, r io.Reader, opts api.ImportOptions) (api.ImportedImage, error) {
	sum, n := sha256.New(), 0
	var head []byte
	buf := make([]byte, 32<<10)
	for {
		k, err := r.Read(buf)
		if n == 0 {
			head = append(head, buf[:min(k, 4)]...)
		}
		n += k
		sum.Write(buf[:k])
		if opts.Progress != nil {
			opts.Progress(uint64(n))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return api.ImportedImage{}, err
		}
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	switch {
	case string(head) != "disk":
		return api.ImportedImage{}, errors.New("image refused: it is no disk image")
	case opts.SHA256 != "" && opts.SHA256 != digest:
		return api.ImportedImage{}, errors.New("image refused: its SHA-256 is " + digest)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stored[digest] = true
	return api.ImportedImage{Digest: digest, SizeBytes: uint64(n), StoredBytes: uint64(n), SectorBytes: 512}, nil
}

// ImportFile keeps nothing but the digest.
func (i *Images) ImportFile(_ context.Context, r io.Reader, _ api.ImportOptions) (string, uint64, error) {
	b, err := io.ReadAll(r)
	if err != nil || len(b) == 0 {
		return "", 0, fmt.Errorf("file refused: %d bytes (%v)", len(b), err)
	}
	sum := sha256.Sum256(b)
	digest := hex.EncodeToString(sum[:])
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stored[digest] = true
	return digest, uint64(len(b)), nil
}

// Fetch is not connected to anything.
func (i *Images) Fetch(context.Context, string, api.ImportOptions) (api.ImportedImage, error) {
	return api.ImportedImage{}, errors.New("image refused: the server cannot be reached")
}

// Delete forgets.
func (i *Images) Delete(digest string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.stored, digest)
	return nil
}

// Stored is how many images are kept.
func (i *Images) Stored() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.stored)
}

// Sightings in memory.
type Sightings struct {
	mu     sync.Mutex
	all    []api.Sighting
	alarms []string
	stalls map[string]*api.Stall
	subs   map[int]func(api.Sighting)
	next   int
}

// NewSightings has seen nothing.
func NewSightings() *Sightings {
	return &Sightings{stalls: map[string]*api.Stall{}, subs: map[int]func(api.Sighting){}}
}

// Add tells a sighting.
func (s *Sightings) Add(sg api.Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, sg)
	for _, f := range s.subs {
		f(sg)
	}
}

// Of one hardware address.
func (s *Sightings) Of(mac string) (out []api.Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sg := range s.all {
		if sg.MAC == mac {
			out = append(out, sg)
		}
	}
	return out
}

// Recent ones, newest first.
func (s *Sightings) Recent(n int) (out []api.Sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.all) - 1; i >= 0 && len(out) < n; i-- {
		out = append(out, s.all[i])
	}
	return out
}

// Stalls has a machine stand still, or go on again if there is no stall.
func (s *Sightings) Stalls(mac string, stall *api.Stall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalls[mac] = stall
}

// Stall of one hardware address.
func (s *Sightings) Stall(mac string) *api.Stall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stalls[mac]
}

// OnWire is every machine that was seen.
func (s *Sightings) OnWire(n int) (out []api.OnWire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for i := len(s.all) - 1; i >= 0 && len(out) < n; i-- {
		sg := s.all[i]
		if !seen[sg.MAC] && sg.Kind != "stall" {
			out = append(out, api.OnWire{MAC: sg.MAC, At: sg.At, Text: sg.Text, Stall: s.stalls[sg.MAC], Node: sg.Node})
		}
		seen[sg.MAC] = true
	}
	return out
}

// Subscribe hears every new one.
func (s *Sightings) Subscribe(f func(api.Sighting)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := s.next
	s.subs[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, id)
	}
}

// Transfers are made up.
func (s *Sightings) Transfers() api.Transfers { return api.Transfers{Places: 48, Running: 3} }

// Counters are made up.
func (s *Sightings) Counters() map[string]uint64 {
	return map[string]uint64{"dhcp.discover": 12, "dhcp.offer": 9, "dhcp.drop.malformed": 1}
}

// Alarms are those that Alarm was told.
func (s *Sightings) Alarms() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.alarms)
}

// Alarm is something that is wrong from now on.
func (s *Sightings) Alarm(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alarms = append(s.alarms, text)
}

// Interfaces are made up.
func (s *Sightings) Interfaces() []api.Interface {
	return []api.Interface{{Name: "br0", Mode: "dhcp", Address: "10.77.0.1/24", Range: "10.77.0.100-10.77.0.199"}}
}

// Leases is a book of leases in memory.
type Leases struct {
	mu  sync.Mutex
	all []api.Lease
}

// Lend puts a lease into the book.
func (l *Leases) Lend(lease api.Lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, lease)
}

// Leases are all of them.
func (l *Leases) Leases() []api.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}

// Objection is that another machine has the address.
func (l *Leases) Objection(addr netip.Addr, macs, _ []string) string {
	for _, x := range l.Leases() {
		if x.Address == addr.String() && !slices.Contains(macs, x.MAC) {
			return "is lent to " + x.MAC
		}
	}
	return ""
}

// Release takes a lease out of the book.
func (l *Leases) Release(addr netip.Addr) (api.Lease, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.all, func(x api.Lease) bool { return x.Address == addr.String() })
	if i < 0 {
		return api.Lease{}, false, nil
	}
	was := l.all[i]
	l.all = slices.Delete(l.all, i, i+1)
	return was, true, nil
}

// Contact is when agents last spoke.
type Contact struct {
	mu sync.Mutex
	at map[string]time.Time
}

// Heard notes that a machine's agent spoke.
func (c *Contact) Heard(machineID string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[machineID] = at
}

// LastContact of a machine's agent.
func (c *Contact) LastContact(machineID string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at[machineID]
}
