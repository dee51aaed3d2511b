package consensus

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// tellEvery is how often news that is ahead of the log goes to the other nodes.
const tellEvery = 200 * time.Millisecond

// contactsEvery is how often others are told which machines' agents were heard.
const contactsEvery = 2 * time.Second

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
func (w *news) take() (m liveMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range w.progress {
		m.Progress = append(m.Progress, it)
	}
	w.progress = nil
	return m
}

// tellPeers sends news to all nodes in reach until the node closes.
func (n *Node) tellPeers() {
	defer n.wg.Done()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	told := n.now() // of contacts
	for {
		select {
		case <-n.stop:
			return
		case <-n.brokenDown:
			return
		case <-tick.C:
		}
		m := n.news.take()
		if now := n.now(); n.cfg.Contacts != nil && now.Sub(told) >= contactsEvery {
			m.Contacts = map[string]time.Duration{}
			for id, at := range n.cfg.Contacts(told) {
				m.Contacts[id] = max(0, now.Sub(at))
			}
			told = now
		}
		if len(m.Progress)+len(m.Contacts) == 0 {
			continue
		}
		raw, err := json.Marshal(m)
		if err != nil {
			continue // durations and progress always are JSON
		}
		var all sync.WaitGroup
		for _, s := range n.servers() {
			if up, _, _ := n.peers.reach(string(s.ID)); string(s.ID) == n.dir.id || !up {
				continue
			}
			all.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 2*tellEvery)
				defer cancel()
				// Whoever misses it gets the newer, or the log.
				_ = n.ask(ctx, http.MethodPost, string(s.Address), "/live", raw, nil)
			})
		}
		all.Wait()
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
		for id, ago := range m.Contacts {
			n.cfg.Heard(id, now.Add(-ago))
		}
	}
	reply(w, struct{}{})
}
