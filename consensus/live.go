package consensus

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

const (
	// tellEvery is how often news that is ahead of the log goes to the other nodes.
	tellEvery = 100 * time.Millisecond
	// tellTime is how long one of them may take to hear it. It is long: a message
	// that is given up takes its connection with it, and a node that is far off or
	// busy would then hear less and less.
	tellTime = 2 * time.Second
	// contactsEvery is how often others are told which machines' agents were heard.
	contactsEvery = 2 * time.Second
)

// news is what this node's machines have told since the others were told last:
// the newest of each. It is lost without harm: progress follows in the log.
type news struct {
	mu       sync.Mutex
	progress map[string]fleet.AdvanceItem // by task
}

// liveMessage is news on its way. Contacts are ages, for clocks differ.
type liveMessage struct {
	Progress []fleet.AdvanceItem      `json:"progress,omitempty"`
	Contacts map[string]time.Duration `json:"contacts,omitempty"` // by machine: how long ago
}

func (w *news) advance(it fleet.AdvanceItem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.progress == nil {
		w.progress = map[string]fleet.AdvanceItem{}
	}
	w.progress[it.TaskID] = it
}

// take gives all news.
func (w *news) take() map[string]fleet.AdvanceItem {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.progress
	w.progress = nil
	return all
}

// listener is a node that news goes to, one message after the other. What comes in
// meanwhile waits for the next one, so that a slow node holds nobody else up and
// misses nothing.
type listener struct {
	busy     atomic.Bool                  // a message is on its way
	progress map[string]fleet.AdvanceItem // not told yet
	contacts map[string]time.Time
}

// take is the message that is due now, if any.
func (l *listener) take(now time.Time) (m liveMessage, due bool) {
	if l.busy.Load() || len(l.progress)+len(l.contacts) == 0 {
		return m, false
	}
	m.Progress = slices.Collect(maps.Values(l.progress))
	if len(l.contacts) > 0 {
		m.Contacts = make(map[string]time.Duration, len(l.contacts))
	}
	for id, at := range l.contacts {
		m.Contacts[id] = max(0, now.Sub(at))
	}
	clear(l.progress)
	clear(l.contacts)
	return m, true
}

// tellPeers sends news to all nodes in reach until the node closes.
func (n *Node) tellPeers() {
	defer n.wg.Done()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	listeners := map[raft.ServerID]*listener{}
	told := n.now() // of contacts
	for {
		select {
		case <-n.stop:
			return
		case <-n.brokenDown:
			return
		case <-tick.C:
		}
		progress := n.news.take()
		var contacts map[string]time.Time
		now := n.now()
		if n.cfg.Contacts != nil && now.Sub(told) >= contactsEvery {
			contacts, told = n.cfg.Contacts(told), now
		}
		before := listeners
		listeners = map[raft.ServerID]*listener{} // who is out of reach gets the newer later, or the log
		for _, s := range n.servers() {
			if up, _, _ := n.peers.reach(string(s.ID)); string(s.ID) == n.dir.id || !up {
				continue
			}
			l := before[s.ID]
			if l == nil {
				l = &listener{progress: map[string]fleet.AdvanceItem{}, contacts: map[string]time.Time{}}
			}
			listeners[s.ID] = l
			maps.Copy(l.progress, progress)
			maps.Copy(l.contacts, contacts)
			if m, due := l.take(now); due {
				l.busy.Store(true)
				all.Go(func() {
					defer l.busy.Store(false)
					ctx, cancel := context.WithTimeout(context.Background(), tellTime)
					defer cancel()
					// Whoever misses it gets the newer, or the log.
					_ = n.ask(ctx, http.MethodPost, string(s.Address), "/live", m, nil)
				})
			}
		}
	}
}

func (n *Node) answerLive(w http.ResponseWriter, r *http.Request) {
	raw, err := readAll(r)
	var m liveMessage
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, it := range m.Progress {
		n.advance(it, false)
	}
	if n.cfg.Heard != nil {
		now := n.now()
		for id, ago := range n.ofMachines(m.Contacts) {
			// None was heard in the future: it would count as alive until then.
			n.cfg.Heard(id, now.Add(-max(0, ago)))
		}
	}
	reply(w, struct{}{})
}

// ofMachines leaves out what is said of machines that are not known here, for
// nothing would ever forget it.
func (n *Node) ofMachines(contacts map[string]time.Duration) map[string]time.Duration {
	n.mu.RLock()
	defer n.mu.RUnlock()
	maps.DeleteFunc(contacts, func(id string, _ time.Duration) bool { return n.state.Machine(id) == nil })
	return contacts
}
