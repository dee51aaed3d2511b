package fleet

import (
	"testing"
	"time"
)

func TestANodeThatIsGoneLeavesItsAddressesSoon(t *testing.T) {
	for gone, rest := range map[bool]time.Duration{false: 26 * time.Hour, true: 2 * time.Hour} {
		r := newRig(t)
		r.must(PutNode{Node{ID: "n1"}}, PutNode{Node{ID: "n2"}}, ClaimPool{NodeID: "n1", Network: "10.0.0.0/24", First: "10.0.0.100", Last: "10.0.0.199"},
			RemoveNode{ID: "n1", By: "ann", Gone: gone})
		removed := r.at
		r.at = removed.Add(rest - 3*time.Second)
		r.refused(Conflict, TakePool{NodeID: "n2", Network: "10.0.0.0/24", Blocks: []int{0}})
		r.at = removed.Add(rest)
		r.must(TakePool{NodeID: "n2", Network: "10.0.0.0/24", Blocks: []int{0}})
	}
}

func TestAnIdentityThatIsLostMakesRoomForAnother(t *testing.T) {
	r := newRig(t)
	r.must(PutCluster{Cluster{ID: "c1"}}, CreateToken{ID: "k1", SecretHash: "h", ExpiresAt: r.at.Add(time.Hour)})
	r.refused(Conflict, PutCluster{Cluster{ID: "c2"}})
	r.must(RaiseEpoch{Reason: "restored", By: "ann", NewIdentity: true})
	if r.s.Cluster() != nil || len(r.s.Tokens()) > 0 {
		t.Errorf("the cluster is %+v, its tokens are %v", r.s.Cluster(), r.s.Tokens())
	}
	r.refused(Conflict, RaiseEpoch{Reason: "again", By: "ann"})
	r.must(PutCluster{Cluster{ID: "c2"}})
	if c := r.s.Cluster(); c == nil || c.ID != "c2" || c.Epoch != 1 {
		t.Errorf("the cluster is %+v", c)
	}
}
