package consensus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// carryOut does to the seats what the leader would do to the members.
func carryOut(seats []seat, s step) []seat {
	at := slices.IndexFunc(seats, func(x seat) bool { return x.id == s.id })
	switch s.kind {
	case promote:
		seats[at].voter = true
	case demote:
		seats[at].voter = false
	case remove:
		seats = slices.Delete(seats, at, at+1)
	case yield:
		for i := range seats {
			seats[i].leader = i == at
		}
	}
	return seats
}

// Whatever the members are like, the rules come to an end, keep a majority in
// reach and never take the vote of the node that leads.
func TestTheRulesOfSeatsComeToAnEnd(t *testing.T) {
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		n := 1 + r.IntN(7)
		seats := make([]seat, n)
		leader := r.IntN(n)
		up, voters := 0, 0
		for i := range seats {
			seats[i] = seat{id: fmt.Sprint("n", i), region: fmt.Sprint("r", r.IntN(3)), voter: i == leader || r.IntN(2) == 0, leader: i == leader,
				up: i == leader || r.IntN(4) > 0, since: now.Add(-time.Duration(r.IntN(100)) * time.Hour), standsBy: r.IntN(4) == 0}
			if seats[i].voter {
				voters++
				if seats[i].up {
					up++
				}
			}
		}
		if up <= voters/2 {
			continue // nobody leads there
		}
		first := fmt.Sprintf("%+v", seats)
		var steps []step
		for {
			s, ok := nextStep(now, seats, 10*time.Second, 72*time.Hour)
			if !ok {
				break
			}
			steps = append(steps, s)
			if len(steps) > 25 {
				t.Fatalf("no end from %s: %+v", first, steps)
			}
			seats = carryOut(seats, s)
			up, voters, leads := 0, 0, false
			for _, x := range seats {
				leads = leads || x.leader && x.voter && x.up
				if x.voter {
					voters++
					if x.up {
						up++
					}
				}
			}
			if up <= voters/2 || !leads {
				t.Fatalf("no majority from %s after %+v", first, steps)
			}
		}
	}
}
