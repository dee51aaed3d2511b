package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

const (
	// lookEvery is how often each node is asked how it is.
	lookEvery = 500 * time.Millisecond
	lookTime  = 2 * time.Second
	// silentAfter is when a node counts as out of reach.
	silentAfter = 3 * time.Second
	// tripsKept are the round trips that the timers are made from.
	tripsKept = 20
	// stuckAfter is how long a follower may stand still, with entries to follow,
	// before its connections are made anew.
	stuckAfter = 5 * time.Second
	// bulk is how many bytes sent in that time show that a follower is being filled,
	// by a snapshot that is not in its log yet; heartbeats alone are a tenth of it.
	bulk = 256 << 10
)

// peers is what this node knows of the others: it asks each how it is.
type peers struct {
	mu sync.Mutex
	by map[string]*peer
}

type peer struct {
	said    peerStatus
	at      time.Time // when it last answered
	since   time.Time // since when it has answered, or not, without a break
	up      bool
	trips   []time.Duration
	off     time.Duration // its clock less ours
	moved   time.Time     // when its log last grew, or had nothing to grow by
	asking  bool
	lastLog uint64
	sent    uint64 // bytes, when it was last seen to move
}

// peerStatus is a node's word on itself.
type peerStatus struct {
	ID        string        `json:"id"`
	Time      time.Time     `json:"time"`
	Term      uint64        `json:"term"`
	Applied   uint64        `json:"applied"`
	LastLog   uint64        `json:"last_log"`
	LongTrip  time.Duration `json:"long_trip"` // how long its round trips take lately
	Filling   bool          `json:"filling,omitempty"`
	Problem   string        `json:"problem,omitempty"`
	Described Described     `json:"described,omitzero"`
}

func newPeers() *peers { return &peers{by: map[string]*peer{}} }

// own is this node's word on itself.
func (n *Node) own() peerStatus {
	r := n.life().raft
	n.mu.RLock()
	applied := n.machine().Index()
	n.mu.RUnlock()
	st := peerStatus{ID: n.dir.id, Time: n.now(), Term: r.CurrentTerm(), Applied: applied, LastLog: r.LastIndex(), LongTrip: n.peers.longest(), Filling: n.joining.Load()}
	if err := n.guard.state(); err != nil {
		st.Problem = err.Error()
	}
	if n.cfg.Describe != nil {
		st.Described = n.cfg.Describe()
	}
	return st
}

func (n *Node) answerStatus(w http.ResponseWriter, _ *http.Request) { reply(w, n.own()) }

// watchPeers asks the others how they are until the node closes, and does what
// follows from it.
func (n *Node) watchPeers() {
	defer n.wg.Done()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var t tuner
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-n.stop:
			return
		case <-n.brokenDown:
			return
		case <-tick.C:
		}
		servers := n.servers()
		n.peers.keep(servers, time.Now())
		for _, s := range servers {
			if string(s.ID) != n.dir.id && n.peers.begin(string(s.ID)) {
				all.Go(func() { n.look(s) })
			}
		}
		n.becomeReady()
		n.unstick(servers)
		n.rememberMembers(servers)
		if n.cfg.Heartbeat == 0 {
			if want := timerFor(n.peers.agreed()); t.due(n.heartbeat(), want, time.Now()) {
				n.retime(want)
			}
		}
	}
}

// look asks one node how it is.
func (n *Node) look(s raft.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	var said peerStatus
	began := time.Now()
	err := n.ask(ctx, http.MethodGet, string(s.Address), "/status", nil, &said)
	trip := time.Since(began)
	if err == nil && said.ID != string(s.ID) {
		err = fmt.Errorf("it says it is node %s", said.ID)
	}
	if n.peers.note(string(s.ID), said, trip, n.now(), err) {
		if err != nil {
			n.log.Warn("a node does not answer", slog.String("node", n.nameOf(string(s.ID))), slog.String("address", string(s.Address)), slog.Any("error", err))
		} else {
			n.log.Info("a node answers", slog.String("node", n.nameOf(string(s.ID))), slog.String("address", string(s.Address)))
		}
	}
}

// becomeReady makes a follower ready that has all that was agreed on.
func (n *Node) becomeReady() {
	n.readyMu.Lock()
	ready := n.ready
	n.readyMu.Unlock()
	select {
	case <-ready:
		return
	default:
	}
	if id, _, _ := n.leader.now(); id == "" || string(id) == n.dir.id {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	if n.Verify(ctx) != nil {
		return
	}
	if n.joining.Load() {
		if err := n.dir.remove(joiningFile); err != nil {
			n.log.Warn("this node has what the others have and cannot keep a note of it", "error", err)
			return
		}
		n.joining.Store(false)
	}
	n.caughtUp()
	n.setReady(true)
}

// unstick makes the leader's connections to a follower anew that stands still:
// after some faults Raft keeps sending heartbeats and nothing else.
func (n *Node) unstick(servers []raft.Server) {
	if !n.Leads() {
		return
	}
	goal := n.life().raft.CommitIndex()
	for _, s := range servers {
		if n.peers.stuck(string(s.ID), goal, n.conns.sentTo(string(s.Address)), time.Now()) {
			count := n.conns.reset(string(s.Address))
			n.log.Warn("a node answers but its log stands still; connecting to it anew", slog.String("node", n.nameOf(string(s.ID))), slog.Int("connections", count))
		}
	}
}

func (p *peers) keep(servers []raft.Server, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range servers {
		if p.by[string(s.ID)] == nil {
			p.by[string(s.ID)] = &peer{since: now, moved: now}
		}
	}
	for id := range p.by {
		if !slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == id }) {
			delete(p.by, id)
		}
	}
}

// begin reports whether the peer is to be asked now: it is not being asked already.
func (p *peers) begin(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.by[id]
	if one == nil || one.asking {
		return false
	}
	one.asking = true
	return true
}

// note keeps an answer, or that there was none; changed says that the peer has
// come or gone by it.
func (p *peers) note(id string, said peerStatus, trip time.Duration, clock time.Time, err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.by[id]
	if one == nil {
		return false
	}
	one.asking = false
	now := time.Now()
	if err != nil {
		if one.up && now.Sub(one.at) > silentAfter {
			one.up, one.since, one.trips = false, now, nil
			return true
		}
		return false
	}
	if said.LastLog != one.lastLog {
		one.lastLog, one.moved = said.LastLog, now
	}
	one.said, one.at = said, now
	one.off = said.Time.Sub(clock.Add(-trip / 2))
	one.trips = append(one.trips, trip)
	if len(one.trips) > tripsKept {
		one.trips = one.trips[1:]
	}
	if !one.up {
		one.up, one.since = true, now
		return true
	}
	return false
}

// stuck reports whether a peer that answers has not come nearer to the goal for
// too long; it is then given that long again. sent are the bytes it was sent so far.
func (p *peers) stuck(id string, goal, sent uint64, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.by[id]
	if one == nil {
		return false
	}
	// Old news tells nothing.
	if !one.up || one.lastLog >= goal || sent-one.sent >= bulk || now.Sub(one.at) > 3*lookEvery {
		one.moved, one.sent = now, sent
		return false
	}
	if now.Sub(one.moved) < stuckAfter {
		return false
	}
	one.moved, one.sent = now, sent
	return true
}

// longest is how long round trips to the farthest peer take lately. Few may take
// longer: an answer that was late once, because a machine was busy, says nothing
// about the wire.
func (p *peers) longest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out time.Duration
	for _, one := range p.by {
		// The first includes the making of a connection.
		trips := slices.Sorted(slices.Values(one.trips[min(1, len(one.trips)):]))
		if n := len(trips); n > 1 {
			out = max(out, trips[n-2-n/10])
		}
	}
	return out
}

// agreed is the longest round trip that anybody in reach has measured: a leader
// that sends seldom and a follower that waits briefly do not go together.
func (p *peers) agreed() time.Duration {
	out := p.longest()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.by {
		if one.up {
			out = max(out, one.said.LongTrip)
		}
	}
	return out
}

// servers are the members in Raft's newest configuration.
func (n *Node) servers() []raft.Server {
	l := n.life()
	if l == nil {
		return nil
	}
	f := l.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

func (n *Node) server(id string) (raft.Server, bool) {
	for _, s := range n.servers() {
		if string(s.ID) == id {
			return s, true
		}
	}
	return raft.Server{}, false
}

func (n *Node) hasOtherVoters(l *life) bool {
	f := l.raft.GetConfiguration()
	return f.Error() == nil && slices.ContainsFunc(f.Configuration().Servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && string(s.ID) != n.dir.id
	})
}

// mayTalk reports whether a node is a member. A node that joins knows no members
// yet and talks with whoever has a certificate of the cluster.
func (n *Node) mayTalk(id string) bool {
	servers := n.servers()
	return len(servers) == 0 || slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
}

func (n *Node) nameOf(id string) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if f := n.state.Node(id); f != nil && f.Name != "" {
		return f.Name
	}
	return id
}

// Status is how the cluster looks from here.
func (n *Node) Status() Status {
	l := n.life()
	id, _, _ := n.leader.now()
	st := Status{Node: n.dir.id, Role: strings.ToLower(l.raft.State().String()), Leader: string(id), Term: l.raft.CurrentTerm(),
		Committed: l.raft.CommitIndex(), HeardAt: n.now(), Quorum: id != ""}
	switch {
	case l.raft.State() == raft.Shutdown:
		st.Role, st.Quorum = "stopped", false
	case id == "" && n.joining.Load():
		st.Role = "starting"
	case l.raft.State() == raft.Leader:
		st.Leader, st.Quorum = n.dir.id, true // it may not have been noticed yet
	default:
		st.HeardAt = l.raft.LastContact()
	}
	known := map[string]*fleet.Node{}
	n.mu.RLock()
	st.Applied = n.state.Index()
	for _, f := range n.state.Nodes() {
		known[f.ID] = f
	}
	n.mu.RUnlock()
	st.Members = n.members(known, st)
	st.Problem = n.problem(st)
	return st
}

// members are all nodes, this one among them.
func (n *Node) members(known map[string]*fleet.Node, st Status) []Member {
	var out []Member
	for _, s := range n.servers() {
		m := Member{ID: string(s.ID), Name: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: string(s.ID) == st.Leader}
		if f := known[m.ID]; f != nil {
			m.Name, m.Region, m.Version, m.Dashboard = f.Name, f.RegionID, f.Version, f.Address
		}
		said := n.own
		if m.ID == n.dir.id {
			own := said()
			m.Reachable, m.SeenAt, m.Applied, m.Problem, m.Described = true, n.now(), own.Applied, own.Problem, own.Described
		} else {
			n.peers.tell(&m)
		}
		if m.Applied < st.Applied {
			m.Lag = st.Applied - m.Applied
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return out
}

func (p *peers) tell(m *Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.by[m.ID]
	if one == nil {
		return
	}
	m.Reachable, m.SeenAt, m.Applied = one.up, one.at, one.said.Applied
	m.Problem, m.Described, m.ClockOff = one.said.Problem, one.said.Described, one.off.Seconds()
	if len(one.trips) > 0 {
		trips := slices.Sorted(slices.Values(one.trips))
		m.RoundTrip = float64(trips[len(trips)/2]) / float64(time.Millisecond)
	}
}

// reach reports whether a peer answers, and since when it has done so or not.
func (p *peers) reach(id string) (up bool, since time.Time, lastLog uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.by[id]
	if one == nil {
		return false, time.Now(), 0 // it has not been asked yet
	}
	return one.up, one.since, one.lastLog
}

// filling reports whether a peer lacks what others have, so that it gives no vote.
func (p *peers) filling(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.by[id]
	return one != nil && one.said.Filling
}

// problem is the sentence for people: what this node cannot do now, and why.
func (n *Node) problem(st Status) string {
	lost := n.leader.lost()
	switch {
	case st.Role == "stopped":
		return "This node was taken off the cluster, or has stopped: it goes on booting machines it knows, and nothing can be decided here."
	case n.guard.state() != nil && lost.IsZero():
		return "This node cannot write its log (" + n.guard.state().Error() + "); the others go on."
	case n.guard.state() != nil:
		return "Nothing can be written: " + n.guard.state().Error() + "."
	case lost.IsZero() || time.Since(lost) < patience:
		return ""
	}
	voters, up := 0, 0
	var silent []string
	for _, m := range st.Members {
		if !m.Voter {
			continue
		}
		voters++
		if m.Reachable {
			up++
		} else {
			silent = append(silent, m.Name)
		}
	}
	if up > voters/2 {
		return fmt.Sprintf("The nodes have had no leader for %s; they are choosing one.", time.Since(lost).Round(time.Second))
	}
	return fmt.Sprintf("This node reaches %d of %d voting nodes (%s silent), which is no majority: known machines go on booting and installs that have begun go on, but nothing new can be approved or erased until more of them answer.",
		up, voters, strings.Join(silent, ", "))
}
