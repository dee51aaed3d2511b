package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/consensus"
)

// contactsPath is where a node is told by others which agents they have heard.
const contactsPath = "/x/contacts"

const (
	contactsEvery = 5 * time.Second
	contactsTime  = 4 * time.Second // for one node to take them
	maxContacts   = 4 << 20         // bytes: many times what all machines of a cluster take
)

// agentContacts knows when agents were last heard here, and is told what others heard.
type agentContacts interface {
	Contacts(since time.Time) map[string]time.Time
	Touched(machineID string, at time.Time)
}

// contactTeller tells the other nodes which agents speak to this one, so that no
// screen takes a machine for lost that is well and talks to somebody else. It
// takes no part in what is agreed on: nobody decides by it.
type contactTeller struct {
	agents  agentContacts
	members func() []consensus.Member
	call    func(id string) (*http.Client, string, error)
	now     func() time.Time
	log     *slog.Logger

	told map[string]time.Time // up to when each node knows
}

func newContactTeller(cluster *consensus.Node, agents agentContacts, log *slog.Logger) *contactTeller {
	return &contactTeller{agents: agents, members: func() []consensus.Member { return cluster.Status().Members },
		call: func(id string) (*http.Client, string, error) {
			if id == cluster.ID() {
				return nil, "", nil
			}
			return cluster.Call(id)
		},
		now: time.Now, log: log, told: map[string]time.Time{}}
}

// run tells until ctx ends.
func (c *contactTeller) run(ctx context.Context) error {
	tick := time.NewTicker(contactsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.tell(ctx)
		}
	}
}

// tell tells each node that is in reach what it was not told yet.
func (c *contactTeller) tell(ctx context.Context) {
	for _, m := range c.members() {
		if !m.Reachable {
			continue
		}
		began := c.now()
		since, known := c.told[m.ID]
		if !known {
			since = began.Add(-contactsEvery)
		}
		heard := c.agents.Contacts(since)
		if len(heard) > 0 {
			if err := c.post(ctx, m.ID, began, heard); err != nil {
				c.log.Debug("another node could not be told which agents are heard here", "node", m.Name, "err", err)
				continue
			}
		}
		c.told[m.ID] = began
	}
}

// post sends how long ago each agent was heard: the clocks of two nodes differ.
func (c *contactTeller) post(ctx context.Context, id string, now time.Time, heard map[string]time.Time) error {
	client, base, err := c.call(id)
	if err != nil || client == nil {
		return err
	}
	ago := make(map[string]float64, len(heard))
	for machine, at := range heard {
		ago[machine] = max(0, now.Sub(at).Seconds())
	}
	body, err := json.Marshal(ago)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, contactsTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+contactsPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("it answered %s", res.Status)
	}
	return nil
}

// ServeHTTP is told by another node, at contactsPath.
func (c *contactTeller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "contacts are posted", http.StatusMethodNotAllowed)
		return
	}
	ago := map[string]float64{}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxContacts)).Decode(&ago); err != nil {
		http.Error(w, "contacts are not understood: "+err.Error(), http.StatusBadRequest)
		return
	}
	now := c.now()
	for machine, seconds := range ago {
		if seconds >= 0 && seconds < (24*time.Hour).Seconds() {
			c.agents.Touched(machine, now.Add(-time.Duration(seconds*float64(time.Second))))
		}
	}
	w.WriteHeader(http.StatusNoContent)
}
