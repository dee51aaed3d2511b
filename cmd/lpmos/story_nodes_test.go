package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// A story stays with its node while nothing is done to that one, and then takes
// the first that is well.
func TestStoryGoesOnByANodeThatIsWell(t *testing.T) {
	node := func(name, state string, cut bool) lab.NodeState {
		return lab.NodeState{Node: lab.Node{Name: name}, State: state, Cut: cut}
	}
	n1, n2, n3 := node("n1", lab.NodeRunning, false), node("n2", lab.NodeRunning, false), node("n3", lab.NodeRunning, false)
	tests := map[string]struct {
		nodes    []lab.NodeState
		at, want string
	}{
		"at first":    {[]lab.NodeState{n1, n2, n3}, "", "n1"},
		"stays":       {[]lab.NodeState{n1, n2, n3}, "n2", "n2"},
		"killed":      {[]lab.NodeState{n1, node("n2", lab.NodeDead, false), n3}, "n2", "n1"},
		"paused":      {[]lab.NodeState{node("n1", lab.NodePaused, false), n2, n3}, "n1", "n2"},
		"cut":         {[]lab.NodeState{node("n1", lab.NodeRunning, true), node("n2", lab.NodeDead, false), n3}, "n1", "n3"},
		"nobody left": {[]lab.NodeState{node("n1", lab.NodeDead, false)}, "n1", ""},
	}
	for name, tt := range tests {
		got := ""
		if n := wellNode(tt.nodes, tt.at); n != nil {
			got = n.Name
		}
		if got != tt.want {
			t.Errorf("%s: goes on by %q, want %q", name, got, tt.want)
		}
	}
}

// A refusal ends the story; a node that cannot be asked does not.
func TestStoryTellsRefusalFromAbsence(t *testing.T) {
	problem := func(status int) error {
		return fmt.Errorf("make task: %w", &client.Error{Problem: *api.NewProblem(status, "no")})
	}
	for name, tt := range map[string]struct {
		err  error
		away bool
	}{
		"connection reset": {errors.New("connection reset"), true},
		"no majority":      {problem(503), true},
		"refused":          {problem(409), false},
	} {
		if got := away(tt.err); got != tt.away {
			t.Errorf("%s: away %v, want %v", name, got, tt.away)
		}
	}
	// The first try may have been heard: what the second is refused for then is done.
	if refusedAgain(problem(409), false) || !refusedAgain(problem(409), true) || refusedAgain(problem(412), true) {
		t.Error("only a conflict of a repeated call is taken for done")
	}
}
