package appliance

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// Times of the loop that looks after this node's share of addresses.
const (
	lookEvery   = time.Second      // who is alive
	hearEvery   = 10 * time.Second // what was agreed on
	hearTime    = 5 * time.Second
	claimEvery  = time.Hour        // a claim that changes nothing costs a log entry
	clockMayBe  = 10 * time.Minute // off another node's, for this one to judge what has run out
	yieldTime   = 10 * time.Second
	beginEvery  = 100 * time.Millisecond
	firstKeepIn = 3 * time.Second // so that a node which can lend does so from its first packet
)

// poolCluster is what the loop needs of the cluster.
type poolCluster interface {
	ID() string
	View(func(*fleet.State))
	Propose(ctx context.Context, body fleet.Body) (any, error)
	Verify(ctx context.Context) error
	Status() consensus.Status
}

// poolKeeper claims this node's share of the addresses of each network where it is
// the DHCP server, gives blocks to nodes that wait for them, and takes over
// what a removed node has left. The rules are the fleet's; it says when.
type poolKeeper struct {
	cluster poolCluster
	boot    interface {
		Yield(self string, pool []netboot.PoolBlock) []int
	}
	neighbours *neighbours
	served     []servedNetwork
	now        func() time.Time
	log        *slog.Logger

	claimed map[netip.Prefix]time.Time
	begun   chan struct{} // closed after the first turn
}

func newPoolKeeper(cluster *consensus.Node, boot *netboot.Server, n *neighbours, log *slog.Logger) *poolKeeper {
	return &poolKeeper{cluster: cluster, boot: boot, neighbours: n, served: n.served, now: time.Now, log: log, claimed: map[netip.Prefix]time.Time{}, begun: make(chan struct{})}
}

// begin claims as soon as this node is on record. One that is cut off does not
// wait for the others: it has known machines to serve.
func (k *poolKeeper) begin(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstKeepIn)
	defer cancel()
	again := time.NewTicker(beginEvery)
	defer again.Stop()
	for {
		k.neighbours.look(k.cluster.Status())
		if k.keep(ctx); k.allClaimed() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// run keeps until ctx ends. Packets are answered once begun is closed.
func (k *poolKeeper) run(ctx context.Context) error {
	k.begin(ctx)
	close(k.begun)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	kept := k.now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		k.neighbours.look(k.cluster.Status())
		if k.now().Sub(kept) >= hearEvery || !k.allClaimed() {
			k.keep(ctx)
			kept = k.now()
		}
	}
}

// keep makes sure of what was agreed on and does what follows from it. Whatever
// fails is tried again at the next turn.
func (k *poolKeeper) keep(ctx context.Context) {
	began := k.now()
	verify, cancel := context.WithTimeout(ctx, hearTime)
	err := k.cluster.Verify(verify)
	cancel()
	if err != nil {
		return // cut off: what is known is lent for a day, and nothing changes hands
	}
	k.neighbours.hear(began)
	recorded := false
	k.cluster.View(func(st *fleet.State) { recorded = st.Node(k.cluster.ID()) != nil })
	for _, s := range k.served {
		if recorded && s.Mode == netboot.ModeDHCP && k.now().Sub(k.claimed[s.network]) >= claimEvery {
			if k.propose(ctx, "claim", fleet.ClaimPool{NodeID: k.cluster.ID(), Network: s.network.String(), First: s.Range.First.String(), Last: s.Range.Last.String()}) {
				k.claimed[s.network] = k.now()
			}
		}
	}
	var pools []*fleet.Pool
	k.cluster.View(func(st *fleet.State) { pools = st.Pools() })
	for _, p := range pools {
		if places := k.boot.Yield(k.cluster.ID(), poolBlocks(p)); len(places) > 0 {
			k.propose(ctx, "yield", fleet.YieldPool{NodeID: k.cluster.ID(), Network: p.Network, Blocks: places})
		}
		if places := k.takable(p); len(places) > 0 {
			k.propose(ctx, "take", fleet.TakePool{NodeID: k.cluster.ID(), Network: p.Network, Blocks: places})
		}
	}
}

// takable are the blocks that are free by now and fall to this node, of all that
// lend there.
func (k *poolKeeper) takable(p *fleet.Pool) (places []int) {
	network, err := netip.ParsePrefix(p.Network)
	if err != nil || !k.lendsOn(network) || !k.clockIsRight() {
		return nil
	}
	self, alive := k.neighbours.Answering(network, netboot.ModeDHCP)
	for i, b := range p.Blocks {
		if by := netboot.Chosen(b.First, alive); b.Free(k.now()) && (by == self || by == "") {
			places = append(places, i)
		}
	}
	return places
}

func (k *poolKeeper) lendsOn(network netip.Prefix) bool {
	for _, s := range k.served {
		if s.network == network && s.Mode == netboot.ModeDHCP {
			return true
		}
	}
	return false
}

// clockIsRight compares this node's clock with the others': whether a lease has run
// out somewhere must not be judged by one that has jumped.
func (k *poolKeeper) clockIsRight() bool {
	for _, m := range k.cluster.Status().Members {
		if off := time.Duration(m.ClockOff * float64(time.Second)); m.Reachable && m.ID != k.cluster.ID() && off.Abs() > clockMayBe {
			return false
		}
	}
	return true
}

func (k *poolKeeper) allClaimed() bool {
	for _, s := range k.served {
		if s.Mode == netboot.ModeDHCP && k.claimed[s.network].IsZero() {
			return false
		}
	}
	return true
}

func (k *poolKeeper) propose(ctx context.Context, what string, body fleet.Body) bool {
	ctx, cancel := context.WithTimeout(ctx, yieldTime)
	defer cancel()
	if _, err := k.cluster.Propose(ctx, body); err != nil {
		if ctx.Err() == nil {
			k.log.Warn("could not change who lends which addresses; trying again", "what", what, "err", err)
		}
		return false
	}
	return true
}
