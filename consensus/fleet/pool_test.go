package fleet

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const lan = "10.0.0.0/24"

func claim(node, first, last string) ClaimPool {
	return ClaimPool{NodeID: node, Network: lan, First: "10.0.0." + first, Last: "10.0.0." + last}
}

func nodes(ids ...string) (out []Body) {
	for _, id := range ids {
		out = append(out, PutNode{Node{ID: id, Name: "node-" + id}})
	}
	return out
}

// lent draws who lends what, a run of blocks a word: "a:100-199 b:7-9>a" says
// that a wants b's second; "(c)" in place of a node has let go of it.
func lent(p *Pool) string {
	var out []string
	for _, b := range p.Blocks {
		who := b.Owner
		if !b.FreedAt.IsZero() {
			who = "(" + who + ")"
		}
		if b.Wanted != "" {
			who += ">" + b.Wanted
		}
		out = append(out, fmt.Sprintf("%s:%s-%s", who, b.First[strings.LastIndex(b.First, ".")+1:], b.Last[strings.LastIndex(b.Last, ".")+1:]))
	}
	return strings.Join(out, " ")
}

func (r *rig) lent(want string) {
	r.t.Helper()
	if got := lent(r.s.Pool(lan)); got != want {
		r.t.Errorf("the pool is\n%s\nwant\n%s", got, want)
	}
}

// yield gives everything that is wanted of the node.
func (r *rig) yield(node string) {
	r.t.Helper()
	var places []int
	for i, b := range r.s.Pool(lan).Blocks {
		if b.Owner == node && b.Wanted != "" {
			places = append(places, i)
		}
	}
	r.must(YieldPool{NodeID: node, Network: lan, Blocks: places})
}

func TestTheFirstToClaimANetworkLendsAllOfIt(t *testing.T) {
	for _, c := range []struct{ first, last, want string }{
		{"100", "131", "a:100-101 a:102-103 a:104-105 a:106-107 a:108-109 a:110-111 a:112-113 a:114-115 a:116-117 a:118-119 a:120-121 a:122-123 a:124-125 a:126-127 a:128-129 a:130-131"},
		{"10", "28", "a:10-10 a:11-11 a:12-12 a:13-13 a:14-14 a:15-16 a:17-17 a:18-18 a:19-19 a:20-20 a:21-22 a:23-23 a:24-24 a:25-25 a:26-26 a:27-28"},
		{"5", "7", "a:5-5 a:6-6 a:7-7"},
		{"9", "9", "a:9-9"},
	} {
		r := newRig(t)
		r.must(nodes("a")...)
		r.must(claim("a", c.first, c.last))
		r.lent(c.want)
		r.must(claim("a", c.first, c.last))
		if len(r.events) > 0 {
			t.Errorf("the same claim again tells %v", r.events)
		}
	}
	r := newRig(t)
	r.must(nodes("a")...)
	r.must(ClaimPool{NodeID: "a", Network: "0.0.0.0/0", First: "0.0.0.0", Last: "255.255.255.255"})
	if b := r.s.Pool("0.0.0.0/0").Blocks; len(b) != 16 || b[15].First != "240.0.0.0" || b[15].Last != "255.255.255.255" {
		t.Errorf("the whole of IPv4 is %+v", b)
	}
}

func TestAClaimThatMakesNoSenseIsRefused(t *testing.T) {
	r := newRig(t)
	r.refused(Conflict, claim("a", "1", "9"))
	r.must(nodes("a")...)
	for field, c := range map[string]ClaimPool{
		"network": {Network: "10.0.0.1/24", First: "10.0.0.1", Last: "10.0.0.9"},
		"first":   {Network: lan, First: "10.0.1.1", Last: "10.0.0.9"},
		"last":    {Network: lan, First: "10.0.0.9", Last: "10.0.0.1"},
	} {
		c.NodeID = "a"
		if err := r.refused(Invalid, c); err.Field != field {
			t.Errorf("%+v is refused for its %s", c, err.Field)
		}
	}
	for _, c := range []ClaimPool{{Network: "fe80::/64", First: "fe80::1", Last: "fe80::9"}, {Network: "x"}, {Network: lan}, {Network: lan, First: "10.0.0.1", Last: "x"}} {
		c.NodeID = "a"
		r.refused(Invalid, c)
	}
}

func TestNodesShareAPoolFairly(t *testing.T) {
	r := newRig(t)
	r.must(nodes("a", "b", "c")...)
	r.must(claim("a", "1", "16"), claim("b", "1", "16"))
	r.lent("a:1-1 a:2-2 a:3-3 a:4-4 a:5-5 a:6-6 a:7-7 a:8-8 a>b:9-9 a>b:10-10 a>b:11-11 a>b:12-12 a>b:13-13 a>b:14-14 a>b:15-15 a>b:16-16")
	r.yield("a")
	r.lent("a:1-1 a:2-2 a:3-3 a:4-4 a:5-5 a:6-6 a:7-7 a:8-8 b:9-9 b:10-10 b:11-11 b:12-12 b:13-13 b:14-14 b:15-15 b:16-16")
	r.must(claim("c", "1", "16"))
	r.lent("a:1-1 a:2-2 a:3-3 a:4-4 a:5-5 a>c:6-6 a>c:7-7 a>c:8-8 b:9-9 b:10-10 b:11-11 b:12-12 b:13-13 b:14-14 b>c:15-15 b>c:16-16")
	r.must(claim("a", "1", "16"), claim("b", "1", "16")) // both have their share
	r.yield("a")
	r.yield("b")
	r.lent("a:1-1 a:2-2 a:3-3 a:4-4 a:5-5 c:6-6 c:7-7 c:8-8 b:9-9 b:10-10 b:11-11 b:12-12 b:13-13 b:14-14 c:15-15 c:16-16")
	for ip, node := range map[string]string{"10.0.0.1": "a", "10.0.0.8": "c", "::ffff:10.0.0.9": "b", "10.0.0.17": "", "fe80::1": ""} {
		if got := r.s.Pool(lan).Lender(netip.MustParseAddr(ip)); got != node {
			t.Errorf("%s is lent by %q, want %q", ip, got, node)
		}
	}
}

func TestOnlyTheOwnerYieldsAndOnlyWhatIsWanted(t *testing.T) {
	r := newRig(t)
	r.must(nodes("a", "b")...)
	r.refused(NotFound, YieldPool{NodeID: "a", Network: lan})
	r.must(claim("a", "1", "2"), claim("b", "1", "2"))
	const before = "a:1-1 a>b:2-2"
	r.lent(before)
	r.must(YieldPool{NodeID: "b", Network: lan, Blocks: []int{0, 1}}, YieldPool{NodeID: "a", Network: lan, Blocks: []int{0}})
	r.lent(before)
	for _, place := range []int{-1, 2} {
		r.refused(Invalid, YieldPool{NodeID: "a", Network: lan, Blocks: []int{1, place}})
	}
	r.must(YieldPool{NodeID: "a", Network: lan, Blocks: []int{1, 1}}, YieldPool{NodeID: "a", Network: lan, Blocks: []int{1}})
	r.lent("a:1-1 b:2-2")
	wantAudit(t, r, "node node-a yielded 1 of the 2 blocks of 10.0.0.0/24 to node node-b", "node node-b came to the cluster", "node node-a came to the cluster")
}

func TestABlockOfANodeThatIsGoneRestsBeforeAnotherTakesIt(t *testing.T) {
	r := newRig(t)
	r.must(nodes("a", "b")...)
	r.must(claim("a", "1", "4"), claim("b", "1", "4"))
	r.lent("a:1-1 a:2-2 a>b:3-3 a>b:4-4")
	take := TakePool{NodeID: "b", Network: lan, Blocks: []int{2, 3}}
	r.refused(Conflict, take)
	r.must(RemoveNode{ID: "a", By: "ann"})
	r.lent("(a):1-1 (a):2-2 (a):3-3 (a):4-4")
	if got := r.s.Pool(lan).Lender(netip.MustParseAddr("10.0.0.1")); got != "" {
		t.Errorf("what a removed node had is lent by %q", got)
	}
	r.must(claim("b", "1", "4"))
	r.lent("(a):1-1 (a):2-2 (a):3-3 (a):4-4")
	r.refused(Conflict, claim("a", "1", "4"))
	r.must(YieldPool{NodeID: "a", Network: lan, Blocks: []int{0}}) // is not its any more
	r.at = r.s.Pool(lan).Blocks[0].FreedAt.Add(poolRest - 2*time.Second)
	if err := r.refused(Conflict, take); !strings.Contains(err.Message, "free at 2026-03-02T14:00:06Z") {
		t.Errorf("too early it says %q", err.Message)
	}
	r.refused(Conflict, TakePool{NodeID: "z", Network: lan, Blocks: []int{2}})
	r.must(take, take)
	r.lent("(a):1-1 (a):2-2 b:3-3 b:4-4")

	r.must(nodes("a")...) // it is back, and nobody has taken two of its blocks
	r.lent("(a):1-1 (a):2-2 b:3-3 b:4-4")
	r.must(claim("a", "1", "4"))
	r.lent("a:1-1 a:2-2 b:3-3 b:4-4")
	r.must(claim("b", "1", "4"), RemoveNode{ID: "b", By: "ann"}, claim("a", "1", "4"))
	r.lent("a:1-1 a:2-2 (b):3-3 (b):4-4")
}

func TestARemovedNodeWantsNothing(t *testing.T) {
	r := newRig(t)
	r.must(nodes("a", "b", "c")...)
	r.must(claim("a", "1", "4"), claim("b", "1", "4"), RemoveNode{ID: "b", By: "ann"})
	r.lent("a:1-1 a:2-2 a:3-3 a:4-4")
	r.must(claim("c", "1", "4"))
	r.lent("a:1-1 a:2-2 a>c:3-3 a>c:4-4")
	r.must(nodes("b")...)
	r.must(claim("b", "1", "4")) // a third: takes one of what is not yielded yet from the richest
	r.lent("a:1-1 a>b:2-2 a>c:3-3 a>c:4-4")
}

func TestARangeThatChangesTakesNothingFromAnother(t *testing.T) {
	r := newRig(t)
	r.must(nodes("a", "b")...)
	r.must(claim("a", "10", "13"), claim("b", "10", "13"))
	r.yield("a")
	r.lent("a:10-10 a:11-11 b:12-12 b:13-13")
	// a's range moves down by two and grows: what it leaves rests, what nobody has is its.
	r.must(claim("a", "8", "11"))
	r.lent("a:10-10 a:11-11 b:12-12 b:13-13 a:8-8 a:9-9")
	r.must(claim("a", "8", "10"))
	r.lent("a:10-10 (a):11-11 b:12-12 b:13-13 a:8-8 a:9-9")
	// b's range covers all of it. It does not get what rests, nor what is a's; it
	// has a fair part of the six that are lent, less one it may ask for.
	r.must(claim("b", "8", "14"))
	r.lent("a:10-10 (a):11-11 b:12-12 b:13-13 a:8-8 a:9-9 b:14-14")
	r.refused(Conflict, TakePool{NodeID: "b", Network: lan, Blocks: []int{1}})
	// a's range covers what it left again.
	r.must(claim("a", "8", "14"))
	r.lent("a:10-10 a:11-11 b:12-12 b:13-13 a:8-8 a:9-9 b:14-14")
	if p := r.s.Pool(lan); p.First != "10.0.0.8" || p.Last != "10.0.0.14" {
		t.Errorf("the range is %s to %s", p.First, p.Last)
	}
}

func TestABlockIsCutWhereTheRangeEnds(t *testing.T) {
	r := newRig(t)
	r.must(nodes("a")...)
	r.must(claim("a", "0", "255"), claim("a", "24", "39"))
	p := r.s.Pool(lan)
	var mine, left []string
	for i, b := range p.Blocks {
		if run := b.First + "-" + b.Last; b.Lends("a") {
			mine = append(mine, run)
		} else if i >= poolBlocks {
			left = append(left, run)
		}
	}
	if got := strings.Join(mine, " "); got != "10.0.0.24-10.0.0.31 10.0.0.32-10.0.0.39" {
		t.Errorf("it lends %s", got)
	}
	if got := strings.Join(left, " "); got != "10.0.0.16-10.0.0.23 10.0.0.40-10.0.0.47" {
		t.Errorf("beside it lie %s", got)
	}
	if len(p.Blocks) != 18 {
		t.Errorf("there are %d blocks", len(p.Blocks))
	}
	r.must(claim("a", "0", "255"))
	for i, b := range r.s.Pool(lan).Blocks {
		if !b.Lends("a") {
			t.Errorf("block %d is not taken back: %+v", i, b)
		}
	}
	checkPool(t, r.s, p)
}

// checkPool wants blocks that do not overlap, each with an owner who is a member
// or has let go of it, and wanted by a member.
func checkPool(t interface{ Fatalf(string, ...any) }, s *State, p *Pool) {
	for i, b := range p.Blocks {
		sp := b.span()
		if sp.first > sp.last {
			t.Fatalf("block %d of %+v is empty", i, p)
		}
		for _, o := range p.Blocks[:i] {
			if os := o.span(); sp.first <= os.last && os.first <= sp.last {
				t.Fatalf("blocks %s-%s and %s-%s of %s overlap", o.First, o.Last, b.First, b.Last, p.Network)
			}
		}
		if b.FreedAt.IsZero() && s.Node(b.Owner) == nil {
			t.Fatalf("block %d of %s is lent by %q, who is no member", i, p.Network, b.Owner)
		}
		if b.Wanted != "" && (s.Node(b.Wanted) == nil || b.Wanted == b.Owner || !b.FreedAt.IsZero()) {
			t.Fatalf("block %d of %s is wanted so: %+v", i, p.Network, b)
		}
	}
}
