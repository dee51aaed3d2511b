package consensus

import (
	"cmp"
	"slices"
	"time"
)

// The rules by which the leader keeps the members in order, one step at a time.
// They are pure: membership.go carries out what they say.
//
//   - Voters are odd, at most five, and as many as there are nodes for: an even
//     one more makes a majority larger and no failure easier to bear.
//   - They are spread over regions, so that losing one loses as few as possible.
//   - A node votes once it has been in reach for a while and has caught up. A
//     voter that is out of reach is replaced when there is somebody to replace it.
//   - A node that has been silent for long is taken off, unless the voters in
//     reach would then be no majority.
//   - What a person has said of a node goes before all this.

// seat is a member as the rules see it.
type seat struct {
	id, region string
	voter      bool
	leader     bool
	up         bool      // it answers
	since      time.Time // since when it does or does not
	behind     uint64    // entries its log lacks
	filling    bool      // it gives no vote yet
	standsBy   bool      // a person wants it not to vote
}

type stepKind string

const (
	promote stepKind = "promote"
	demote  stepKind = "demote"
	remove  stepKind = "remove"
	yield   stepKind = "hand over to"
)

type step struct {
	kind stepKind
	id   string
	why  string // half a sentence
}

const (
	maxVoters = 5
	// caughtUpWithin is how many entries a node may lack and still be made a voter.
	caughtUpWithin = 512
)

// votersFor is how many of n nodes are to vote.
func votersFor(n int) int {
	switch {
	case n >= maxVoters:
		return maxVoters
	case n >= 3:
		return 3
	}
	return 1
}

// nextStep is what to do now; ok is false when the members are in order.
func nextStep(now time.Time, seats []seat, settle, dead time.Duration) (s step, ok bool) {
	var voters, candidates []seat
	willing := 0
	for _, x := range seats {
		if x.voter {
			voters = append(voters, x)
		}
		if x.standsBy {
			continue
		}
		willing++
		if !x.voter && x.up && now.Sub(x.since) >= settle && x.behind <= caughtUpWithin && !x.filling {
			candidates = append(candidates, x)
		}
	}
	in := byRegion(voters)
	// The longest silent first, whether it votes or not.
	gone := slices.Clone(seats)
	slices.SortFunc(gone, func(a, b seat) int { return a.since.Compare(b.since) })
	for _, x := range gone {
		if !x.up && !x.leader && now.Sub(x.since) >= dead && enough(voters, x.id) {
			return step{remove, x.id, "it has been silent for " + now.Sub(x.since).Round(time.Minute).String()}, true
		}
	}
	want := votersFor(willing)
	// One that leads is never demoted, so one that is to stand by lets another lead.
	if i := slices.IndexFunc(seats, func(x seat) bool { return x.leader && x.standsBy }); i >= 0 {
		for _, v := range voters {
			if !v.leader && v.up && !v.standsBy {
				return step{yield, v.id, "the node that leads is to stand by"}, true
			}
		}
	}
	switch {
	case len(voters) > want || len(voters) > 1 && len(voters)%2 == 0 && len(candidates) == 0:
		if x, ok := leastNeeded(voters, in); ok && enough(voters, x.id) {
			return step{demote, x.id, "there are more voters than are needed"}, true
		}
	case len(candidates) == 0:
	case len(voters) < want && (len(voters)%2 == 0 || len(candidates) > 1):
		return step{promote, mostNeeded(candidates, in).id, "it has caught up"}, true
	case len(voters) == want:
		best := mostNeeded(candidates, in)
		for _, v := range voters {
			switch {
			case !v.up && now.Sub(v.since) >= settle:
				return step{promote, best.id, "it takes the place of a voter that does not answer"}, true
			case in[v.region]-in[best.region] >= 2:
				return step{promote, best.id, "its region has fewer voters"}, true
			case v.standsBy:
				return step{promote, best.id, "it takes the place of a voter that is to stand by"}, true
			}
		}
	}
	return step{}, false
}

func byRegion(voters []seat) map[string]int {
	in := map[string]int{}
	for _, v := range voters {
		in[v.region]++
	}
	return in
}

// enough reports whether the voters in reach are a majority without this one.
func enough(voters []seat, without string) bool {
	left, up := 0, 0
	for _, v := range voters {
		if v.id == without {
			continue
		}
		left++
		if v.up {
			up++
		}
	}
	return left > 0 && up > left/2
}

// leastNeeded is the voter to lose: one that is silent, one that is to stand by,
// or one of the most crowded region; never the leader.
func leastNeeded(voters []seat, in map[string]int) (seat, bool) {
	var others []seat
	for _, v := range voters {
		if !v.leader {
			others = append(others, v)
		}
	}
	if len(others) == 0 {
		return seat{}, false
	}
	return slices.MinFunc(others, func(a, b seat) int {
		return cmp.Or(truth(a.up, b.up), truth(b.standsBy, a.standsBy), -cmp.Compare(in[a.region], in[b.region]), -cmp.Compare(a.id, b.id))
	}), true
}

// mostNeeded is the candidate whose region has the fewest voters.
func mostNeeded(candidates []seat, in map[string]int) seat {
	return slices.MinFunc(candidates, func(a, b seat) int {
		return cmp.Or(cmp.Compare(in[a.region], in[b.region]), cmp.Compare(a.id, b.id))
	})
}

// truth orders false before true.
func truth(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
