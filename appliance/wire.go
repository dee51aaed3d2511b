package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
	"github.com/lpmos/lpmos/ui/api"
)

// What machines do on the wire is seen by the node that hears them, and costs the
// log nothing. Nodes ask each other every second what is new, so that people see all
// of it at any of them.

const (
	wirePath = "/x/wire"
	// wireEvery is how often the others are asked.
	wireEvery = time.Second
	// wireTime is how long one of them may take to answer.
	wireTime = 2 * time.Second
	// wireStale is after how long the stalls of a node that does not answer are
	// nobody's word any more.
	wireStale = 15 * time.Second
	// wireTogether is how far apart nodes may be with their word on one stall.
	wireTogether = 20 * time.Second
	// wireKept is how many sightings wait for nodes that were away.
	wireKept = 2048
	// wireLongest is the longest answer of another node, and wireMachines and
	// wireEach bound what is kept of it. wireAll is how many sightings are kept of all
	// of them together, as many as netboot keeps of its own.
	wireLongest  = 8 << 20
	wireMachines = 4096
	wireEach     = 48
	wireAll      = 32768
)

// sightingSeam is what was seen on the wire, here and by the other nodes, as the API
// sees it. It is there before netboot, for other nodes may ask at once.
type sightingSeam struct {
	more func() map[string]uint64 // what is counted at the door, before netboot hears of it
	life int64                    // of this process: its sightings are counted from 1
	now  func() time.Time

	mu         sync.Mutex
	server     *netboot.Server // nil until it is open
	interfaces []netboot.Interface
	next       int
	heard      map[int]func(api.Sighting)
	told       uint64             // how many were seen here
	kept       []netboot.Sighting // the last of them
	others     map[string]*farNode
}

// farNode is what another node has told.
type farNode struct {
	name   string
	life   int64
	told   uint64
	seen   *netboot.Sightings
	stalls map[string]netboot.Stalled // by MAC
	heard  time.Time
	asking bool
}

// wireNews is what one node tells another.
type wireNews struct {
	Life   int64              `json:"life"`
	Told   uint64             `json:"told"` // the number of the last sighting
	Seen   []netboot.Sighting `json:"seen,omitempty"`
	Stalls []netboot.Stalled  `json:"stalls,omitempty"` // all of now
}

func newSightingSeam() *sightingSeam {
	return &sightingSeam{life: time.Now().UnixNano(), now: time.Now, heard: map[int]func(api.Sighting){}, others: map[string]*farNode{}}
}

func (s *sightingSeam) open(server *netboot.Server, interfaces []netboot.Interface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.interfaces = server, interfaces
}

func (s *sightingSeam) netboot() *netboot.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

func sighting(s netboot.Sighting, node string) api.Sighting {
	return api.Sighting{At: s.At, MAC: s.MAC, Kind: string(s.Kind), Text: s.Text, Step: string(s.Step), Stage: string(s.Stage),
		File: s.File, Stall: s.Stall, Hint: s.Hint, Node: node}
}

func stallView(s netboot.Stall, node string) *api.Stall {
	return &api.Stall{ID: s.ID, Text: s.Text, Hint: s.Hint, Since: s.Since, At: s.At, Node: node}
}

// publish tells subscribers what was seen here, and keeps it for other nodes.
func (s *sightingSeam) publish(seen netboot.Sighting) {
	s.mu.Lock()
	s.told++
	if len(s.kept) == wireKept {
		s.kept = append(s.kept[:0], s.kept[wireKept/2:]...)
	}
	s.kept = append(s.kept, seen)
	s.mu.Unlock()
	s.tell(sighting(seen, ""))
}

// tell tells subscribers; they do not block.
func (s *sightingSeam) tell(seen api.Sighting) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.heard))
	s.mu.Unlock()
	for _, f := range all {
		f(seen)
	}
}

func (s *sightingSeam) Subscribe(f func(api.Sighting)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := s.next
	s.heard[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.heard, id)
	}
}

// ServeHTTP tells another node what was seen here since it asked last.
func (s *sightingSeam) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	news := s.news(q.Get("life"), q.Get("told"))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(news) // who asked has gone
}

func (s *sightingSeam) news(life, told string) wireNews {
	server := s.netboot()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := wireNews{Life: s.life, Told: s.told}
	since, err := strconv.ParseUint(told, 10, 64)
	if life != strconv.FormatInt(s.life, 10) || err != nil {
		since = 0
	}
	if since < s.told {
		n.Seen = slices.Clone(s.kept[len(s.kept)-int(min(s.told-since, uint64(len(s.kept)))):])
	}
	if server != nil {
		n.Stalls = server.Stalls()
	}
	return n
}

// followOthers asks the other nodes until ctx ends.
func (s *sightingSeam) followOthers(ctx context.Context, cluster *consensus.Node) error {
	tick := time.NewTicker(wireEvery)
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		members := map[string]bool{}
		for _, m := range cluster.Status().Members {
			if m.ID == cluster.ID() {
				continue
			}
			members[m.ID] = true
			client, base, err := cluster.Call(m.ID)
			if !m.Reachable || err != nil || !s.begin(m.ID, m.Name) {
				continue
			}
			all.Go(func() {
				defer s.end(m.ID)
				ctx, cancel := context.WithTimeout(ctx, wireTime)
				defer cancel()
				_ = s.ask(ctx, client, base, m.ID) // it is asked again in a second, and its silence is shown elsewhere
			})
		}
		s.keepOnly(members)
	}
}

// begin says whether a node is to be asked now: one that has not answered yet is not
// asked again.
func (s *sightingSeam) begin(id, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.others[id]
	if o == nil {
		o = &farNode{seen: netboot.NewSightings(wireMachines, wireEach, nil), stalls: map[string]netboot.Stalled{}}
		s.others[id] = o
	}
	if o.asking {
		return false
	}
	o.asking, o.name = true, name
	return true
}

func (s *sightingSeam) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.others[id]; o != nil {
		o.asking = false
	}
}

// keepOnly forgets nodes that have left the cluster, and shares what may be kept among
// the others.
func (s *sightingSeam) keepOnly(members map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.others, func(id string, _ *farNode) bool { return !members[id] })
	for _, o := range s.others {
		o.seen.Bound(wireAll / len(s.others))
	}
}

// ask has a node tell what is new.
func (s *sightingSeam) ask(ctx context.Context, client *http.Client, base, id string) error {
	s.mu.Lock()
	o := s.others[id]
	if o == nil { // it has left the cluster meanwhile
		s.mu.Unlock()
		return nil
	}
	q := url.Values{"life": {strconv.FormatInt(o.life, 10)}, "told": {strconv.FormatUint(o.told, 10)}}
	s.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+wirePath+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // a node of an older version
		return fmt.Errorf("ask node %s what it sees on the wire: %s", id, resp.Status)
	}
	var n wireNews
	if err := json.NewDecoder(io.LimitReader(resp.Body, wireLongest)).Decode(&n); err != nil {
		return fmt.Errorf("ask node %s what it sees on the wire: %w", id, err)
	}
	s.take(o, n)
	return nil
}

// take keeps what a node has told, and tells it on.
func (s *sightingSeam) take(o *farNode, n wireNews) {
	s.mu.Lock()
	first := o.life == 0
	o.life, o.told, o.heard = n.Life, n.Told, s.now()
	clear(o.stalls)
	for _, stall := range n.Stalls[:min(len(n.Stalls), wireMachines)] {
		o.stalls[stall.MAC] = stall
	}
	name := o.name
	s.mu.Unlock()
	for _, seen := range n.Seen {
		o.seen.Add(seen)
		if !first { // what was before this node began is no news
			s.tell(sighting(seen, name))
		}
	}
}

// far are the other nodes that have told anything.
func (s *sightingSeam) far() []farNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []farNode
	for _, id := range slices.Sorted(maps.Keys(s.others)) {
		o := *s.others[id]
		o.stalls = nil
		if s.now().Sub(o.heard) < wireStale {
			o.stalls = maps.Clone(s.others[id].stalls)
		}
		out = append(out, o)
	}
	return out
}

// elsewhere is what the other nodes have seen of a machine.
func (s *sightingSeam) elsewhere(mac string) (out []netboot.Sighting) {
	s.mu.Lock()
	others := slices.Collect(maps.Values(s.others))
	s.mu.Unlock()
	for _, o := range others {
		out = append(out, o.seen.Of(mac)...)
	}
	return out
}

func (s *sightingSeam) Of(mac string) (out []api.Sighting) {
	if server := s.netboot(); server != nil {
		out = convert(out, server.Sightings().Of(mac), "")
	}
	for _, o := range s.far() {
		out = convert(out, o.seen.Of(mac), o.name)
	}
	slices.SortStableFunc(out, func(a, b api.Sighting) int { return a.At.Compare(b.At) })
	return onceEach(out)
}

// onceEach drops what several nodes say of one stall, each when it looked.
func onceEach(seen []api.Sighting) []api.Sighting {
	said := map[string]time.Time{}
	return slices.DeleteFunc(seen, func(s api.Sighting) bool {
		if s.Kind != string(netboot.KindStall) {
			return false
		}
		what := s.Step + s.Stall
		again := s.At.Sub(said[what]) < wireTogether
		said[what] = s.At
		return again
	})
}

func (s *sightingSeam) Recent(n int) (out []api.Sighting) {
	if server := s.netboot(); server != nil {
		out = convert(out, server.Sightings().Recent(n), "")
	}
	for _, o := range s.far() {
		out = convert(out, o.seen.Recent(n), o.name)
	}
	slices.SortStableFunc(out, func(a, b api.Sighting) int { return b.At.Compare(a.At) })
	return out[:min(n, len(out))]
}

func convert(out []api.Sighting, in []netboot.Sighting, node string) []api.Sighting {
	for _, s := range in {
		out = append(out, sighting(s, node))
	}
	return out
}

func (s *sightingSeam) Stall(mac string) *api.Stall {
	if server := s.netboot(); server != nil {
		if stall, ok := server.Sightings().Stall(mac); ok {
			return stallView(stall, "")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(s.others)) {
		o := s.others[id]
		if stall, ok := o.stalls[mac]; ok && s.now().Sub(o.heard) < wireStale {
			return stallView(stall.Stall, o.name)
		}
	}
	return nil
}

func (s *sightingSeam) OnWire(n int) []api.OnWire {
	by := map[string]api.OnWire{}
	add := func(seen *netboot.Sightings, stalls map[string]netboot.Stalled, node string) {
		for _, m := range seen.OnWire(n) {
			if old, ok := by[m.MAC]; ok && !old.At.Before(m.Last.At) {
				continue
			}
			v := api.OnWire{MAC: m.MAC, At: m.Last.At, Text: m.Last.Text, Node: node}
			if m.Addr.IsValid() {
				v.Address = m.Addr.String()
			}
			by[m.MAC] = v
		}
		for mac, stall := range stalls {
			if _, ok := by[mac]; !ok { // it stands for so long that others were seen since
				by[mac] = api.OnWire{MAC: mac, At: stall.Since, Text: stall.Text, Node: node}
			}
		}
	}
	if server := s.netboot(); server != nil {
		stalls := map[string]netboot.Stalled{}
		for _, stall := range server.Stalls() {
			stalls[stall.MAC] = stall
		}
		add(server.Sightings(), stalls, "")
	}
	for _, o := range s.far() {
		add(o.seen, o.stalls, o.name)
	}
	out := slices.Collect(maps.Values(by))
	for i := range out {
		out[i].Stall = s.Stall(out[i].MAC)
	}
	slices.SortFunc(out, func(a, b api.OnWire) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.MAC, b.MAC)) })
	if len(out) <= n {
		return out
	}
	return append(out[:n], slices.DeleteFunc(out[n:], func(m api.OnWire) bool { return m.Stall == nil })...)
}

func (s *sightingSeam) Alarms() []string {
	if server := s.netboot(); server != nil {
		return server.Alarms()
	}
	return nil
}

func (s *sightingSeam) Counters() map[string]uint64 {
	all := map[string]uint64{}
	if server := s.netboot(); server != nil {
		all = server.Stats()
	}
	maps.Copy(all, s.more())
	return all
}

func (s *sightingSeam) Transfers() api.Transfers {
	server := s.netboot()
	if server == nil {
		return api.Transfers{}
	}
	t := server.Transfers()
	return api.Transfers{Places: t.Places, Running: t.Running, Waiting: t.Waiting}
}

func (s *sightingSeam) Interfaces() []api.Interface {
	s.mu.Lock()
	interfaces := s.interfaces
	s.mu.Unlock()
	out := []api.Interface{}
	for _, i := range interfaces {
		networks, err := netboot.ServedNetworks(i)
		if err != nil {
			networks = []netboot.ServedNetwork{{Interface: i, OnWire: true}} // it is shown without its address
		}
		for _, n := range networks {
			one := api.Interface{Name: n.Name, Mode: string(n.Mode), Range: n.Range.String()}
			if n.OnWire && n.Addr.IsValid() {
				one.Address = n.Addr.String()
			}
			if !n.OnWire {
				one.BehindRelays = n.Prefix.String()
			}
			out = append(out, one)
		}
	}
	return out
}

// journeys is what netboot cannot see of a machine on the wire.
type journeys struct {
	cluster *consensus.Node
	agents  *agentserver.Server
}

func (j journeys) of(mac string) netboot.Journey {
	var m *fleet.Machine
	var t *fleet.Task
	var before []*fleet.Evidence
	j.cluster.View(func(s *fleet.State) {
		if m = s.MachineByMAC(mac); m != nil {
			t = s.Task(m.TaskID)
		}
		if t != nil && t.Status == wire.StatusCompleted && t.CameUp == nil {
			before = s.Evidence(m.ID)
		}
	})
	if m == nil {
		return netboot.Journey{}
	}
	out := journeyOf(m, t, j.agents.LastContact(m.ID))
	out.UpTook = upTook(before)
	return out
}

// upTook is the longest that a machine's systems took from the end of the install to
// their first word, as far as that is known.
func upTook(installs []*fleet.Evidence) (longest time.Duration) {
	for _, e := range installs {
		if e.CameUp != nil && !e.EndedAt.IsZero() {
			longest = max(longest, e.CameUp.At.Sub(e.EndedAt))
		}
	}
	return longest
}

// journeyOf is the journey of a machine whose latest task is t, or nil.
func journeyOf(m *fleet.Machine, t *fleet.Task, contact time.Time) netboot.Journey {
	out := netboot.Journey{AgentSpoke: m.ReportedAt, Question: m.Question}
	if contact.After(out.AgentSpoke) {
		out.AgentSpoke = contact
	}
	if t == nil {
		return out
	}
	switch t.Status {
	case wire.StatusPendingApproval, wire.StatusNeedsReview, wire.StatusApproved, wire.StatusInstalling:
		out.AgentDue = m.Held == nil && !m.AgentDone
	case wire.StatusCompleted:
		out.Installed = t.FinishedAt
		if t.CameUp != nil {
			out.CameUp = t.CameUp.At
		}
	}
	return out
}
