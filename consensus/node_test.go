package consensus_test

import (
	"testing"

	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func TestARestartKeepsWhatWasAcknowledged(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	n := consensustest.Open(t, cfg)
	id := n.ID()
	consensustest.Propose[*fleet.Node](t, n, fleet.PutNode{Node: fleet.Node{ID: "a", Name: "first"}})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	n = consensustest.Open(t, cfg)
	if n.ID() != id {
		t.Errorf("the node was %s and is %s now", id, n.ID())
	}
	n.View(func(s *fleet.State) {
		if got := s.Node("a"); got == nil || got.Name != "first" {
			t.Errorf("node a is %+v after the restart", got)
		}
	})
}
