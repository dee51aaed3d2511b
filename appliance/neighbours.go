package appliance

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// servedNetwork is a network this node serves.
type servedNetwork struct {
	netboot.Interface
	addr    netip.Addr   // of this node there
	network netip.Prefix // masked
	onWire  bool         // and not behind relays
}

// servedNetworks asks the kernel for the networks of the interfaces on which this
// node does more than look.
func servedNetworks(interfaces []netboot.Interface) ([]servedNetwork, error) {
	var out []servedNetwork
	for _, i := range interfaces {
		if i.Mode == netboot.ModeOff || i.Mode == netboot.ModeObserve || i.Mode == "" {
			continue
		}
		all, err := netboot.ServedNetworks(i)
		if err != nil {
			return nil, err
		}
		for _, n := range all {
			out = append(out, servedNetwork{Interface: n.Interface, addr: n.Addr, network: n.Prefix, onWire: n.OnWire})
		}
	}
	return out, nil
}

// neighbours is what netboot and the agents' server know of the other nodes: which
// machines may turn to whom, and which node answers and lends what. It answers
// from memory.
type neighbours struct {
	self   string
	view   func(func(*fleet.State))
	served []servedNetwork

	mu    sync.Mutex
	alive map[string]bool            // ids of the members that answered lately
	heard time.Time                  // up to when this node knows all that was agreed on
	pools map[netip.Prefix]poolShare // as they were asked for last
}

// poolShare is what this node lends of a pool, which is asked for with every packet.
// A pool in the state is never changed, but another takes its place.
type poolShare struct {
	pool   *fleet.Pool
	blocks []netboot.Block
}

func newNeighbours(cluster *consensus.Node, served []servedNetwork) *neighbours {
	return &neighbours{self: cluster.ID(), view: cluster.View, served: served, alive: map[string]bool{}}
}

// look takes over who is alive.
func (n *neighbours) look(st consensus.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.alive)
	for _, m := range st.Members {
		n.alive[m.ID] = m.Reachable
	}
	n.alive[n.self] = true
}

// hear notes that everything agreed on before a time is known here.
func (n *neighbours) hear(upTo time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard = upTo
}

func (n *neighbours) isAlive(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return id == n.self || n.alive[id]
}

// Nodes are the other nodes, one URL each: those on the machine's own network
// first, which need no router, then those of the same region, and those that
// answer before those that do not.
func (n *neighbours) Nodes(own netip.AddrPort) []string {
	var network netip.Prefix
	for _, s := range n.served {
		if s.addr == own.Addr().Unmap() {
			network = s.network
		}
	}
	type choice struct {
		url, name string
		rank      int
	}
	var all []choice
	n.view(func(st *fleet.State) {
		region := ""
		if me := st.Node(n.self); me != nil {
			region = me.RegionID
		}
		for _, o := range st.Nodes() {
			if o.ID == n.self || len(o.BootURLs) == 0 {
				continue
			}
			c := choice{url: o.BootURLs[0], name: o.Name + o.ID}
			if o.RegionID != region {
				c.rank++
			}
			near := false
			for _, u := range o.BootURLs {
				if at, err := netip.ParseAddrPort(strings.TrimPrefix(u, "http://")); err == nil && !near && network.Contains(at.Addr()) {
					c.url, near = u, true
				}
			}
			if !near {
				c.rank += 2
			}
			if !n.isAlive(o.ID) {
				c.rank += 4
			}
			all = append(all, c)
		}
	})
	slices.SortFunc(all, func(a, b choice) int { return cmp.Or(cmp.Compare(a.rank, b.rank), strings.Compare(a.name, b.name)) })
	urls := make([]string, len(all))
	for i, c := range all {
		// The record says where the boot port is; agents ask there over TLS.
		urls[i] = "https://" + strings.TrimPrefix(c.url, "http://")
	}
	return urls
}

// Addresses are all by which the other nodes serve machines.
func (n *neighbours) Addresses() (out []netip.Addr) {
	n.view(func(st *fleet.State) {
		for _, o := range st.Nodes() {
			if o.ID == n.self {
				continue
			}
			for _, u := range o.BootURLs {
				if at, err := netip.ParseAddrPort(strings.TrimPrefix(u, "http://")); err == nil {
					out = append(out, at.Addr().Unmap())
				}
			}
		}
	})
	return out
}

// NodesOf is Nodes for the agents' server, which knows this node by its URL.
func (n *neighbours) NodesOf(own string) []string {
	at, err := netip.ParseAddrPort(strings.TrimPrefix(own, "https://"))
	if err != nil {
		return nil
	}
	return n.Nodes(at)
}

// SameNetwork says whether both addresses are of one network that a node serves.
func (n *neighbours) SameNetwork(a, b netip.Addr) (same bool) {
	n.view(func(st *fleet.State) {
		for _, o := range st.Nodes() {
			for _, text := range o.Networks {
				p, err := netip.ParsePrefix(text)
				same = same || err == nil && p.Contains(a) && p.Contains(b)
			}
		}
	})
	return same
}

// Answering are, of the nodes that are alive, those that lend addresses on the
// network or, for a proxy, those that serve it without.
func (n *neighbours) Answering(network netip.Prefix, mode netboot.Mode) (self string, alive []string) {
	name := network.String()
	n.view(func(st *fleet.State) {
		lends := map[string]bool{}
		if p := st.Pool(name); p != nil {
			for _, b := range p.Blocks {
				lends[b.Owner] = lends[b.Owner] || b.Lends(b.Owner)
			}
		}
		for _, o := range st.Nodes() {
			if lends[o.ID] == (mode == netboot.ModeDHCP) && slices.Contains(o.Networks, name) && n.isAlive(o.ID) {
				alive = append(alive, o.ID)
			}
		}
	})
	return n.self, alive
}

// Share is this node's part of the network's range.
func (n *neighbours) Share(network netip.Prefix) netboot.Share {
	n.mu.Lock()
	heard := n.heard // before the pool: it may not be younger
	n.mu.Unlock()
	var pool *fleet.Pool
	n.view(func(st *fleet.State) { pool = st.Pool(network.String()) })
	n.mu.Lock()
	defer n.mu.Unlock()
	known, ok := n.pools[network]
	if !ok || known.pool != pool {
		known = poolShare{pool, netboot.ShareOf(n.self, poolBlocks(pool), heard).Blocks}
		if n.pools == nil {
			n.pools = map[netip.Prefix]poolShare{}
		}
		n.pools[network] = known
	}
	return netboot.Share{Blocks: known.blocks, Heard: heard}
}

// poolBlocks is a pool in netboot's terms.
func poolBlocks(p *fleet.Pool) []netboot.PoolBlock {
	if p == nil {
		return nil
	}
	out := make([]netboot.PoolBlock, len(p.Blocks)) // places count, so none is left out
	for i, b := range p.Blocks {
		first, err := netip.ParseAddr(b.First)
		last, err2 := netip.ParseAddr(b.Last)
		if err != nil || err2 != nil || !b.Lends(b.Owner) {
			continue // nobody lends it
		}
		out[i] = netboot.PoolBlock{Range: netboot.Range{First: first, Last: last}, Owner: b.Owner, Wanted: b.Wanted}
	}
	return out
}
