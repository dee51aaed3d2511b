package consensus

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// A node whose directory was restored from a backup, or that goes on alone
// because the others are lost, begins anew with the first entry it writes: a new
// epoch, so that nothing is erased on the word of an approval that somebody may
// have acted on already, and without the nodes that are gone.

// anewFile is there until that entry is agreed on.
const anewFile = "raise-epoch"

// anew is what it holds.
type anew struct {
	Reason      string `json:"reason"`
	By          string `json:"by"`
	NewIdentity bool   `json:"new_identity,omitempty"`
}

func (d *dataDir) putAnew(a anew) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return d.write(anewFile, string(b))
}

// beginAnew writes the entry if one is due. Until a leader has done so, append
// takes nothing from anybody. Should it be written twice, because of a crash in
// between, the second raises the epoch once more and does no harm.
func (n *Node) beginAnew(l *life) error {
	if !n.anew.Load() {
		return nil
	}
	b, err := os.ReadFile(n.dir.file(anewFile))
	if err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	var a anew
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("begin a new epoch: %w: %s: %w", ErrCorrupt, n.dir.file(anewFile), err)
	}
	config := l.raft.GetConfiguration()
	if err := n.await(l, config); err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	members := map[string]bool{}
	for _, s := range config.Configuration().Servers {
		members[string(s.ID)] = true
	}
	n.mu.RLock()
	bodies := a.bodies(n.machine(), members)
	n.mu.RUnlock()
	entry, err := n.entryOf(bodies)
	if err == nil && len(bodies) > 0 {
		err = n.await(l, l.raft.Apply(entry, proposeTimeout))
	}
	if err == nil {
		err = n.dir.remove(anewFile)
	}
	if err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	n.anew.Store(false)
	n.log.Warn("a new epoch has begun: what was approved has to be approved again", "reason", a.Reason)
	return nil
}

// bodies are the commands of the entry.
func (a anew) bodies(s *fleet.State, members map[string]bool) []fleet.Body {
	var out []fleet.Body
	if s.Cluster() != nil {
		out = append(out, fleet.RaiseEpoch{Reason: a.Reason, By: a.By, NewIdentity: a.NewIdentity})
	}
	for _, node := range s.Nodes() {
		if !members[node.ID] {
			out = append(out, fleet.RemoveNode{ID: node.ID, By: a.By, Gone: true})
		}
	}
	return out
}

// entryOf makes one entry of the log, which is agreed on as a whole.
func (n *Node) entryOf(bodies []fleet.Body) ([]byte, error) {
	now := n.now()
	var cmds []fleet.Command
	for _, b := range bodies {
		id, err := ulid.New(ulid.Timestamp(now), n.random)
		if err != nil {
			return nil, fmt.Errorf("make command id: %w", err)
		}
		cmds = append(cmds, fleet.Command{ID: strings.ToLower(id.String()), At: now, Body: b})
	}
	if len(cmds) == 0 {
		return nil, nil
	}
	return fleet.EncodeEntry(cmds)
}
