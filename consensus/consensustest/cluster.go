package consensustest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Cluster is several nodes of one test.
type Cluster struct {
	Net   *Network
	Nodes []*consensus.Node // nil where a node is down
	t     testing.TB
	dirs  []string
	addrs []string
	tune  func(i int, c *consensus.Config)
}

// Name of the node at place i, which is its id too.
func Name(i int) string { return fmt.Sprintf("n%d", i+1) }

// NewCluster starts n nodes and waits until they are one cluster in which all
// that should vote do. tune may change the configuration of each start.
func NewCluster(t testing.TB, n int, tune func(i int, c *consensus.Config)) *Cluster {
	t.Helper()
	c := &Cluster{Net: NewNetwork(), t: t, tune: tune, Nodes: make([]*consensus.Node, n), addrs: make([]string, n)}
	root := t.TempDir()
	for i := range n {
		c.dirs = append(c.dirs, filepath.Join(root, Name(i)))
	}
	t.Cleanup(func() {
		c.Net.Heal()
		for i := range c.Nodes {
			if err := c.Stop(i); err != nil {
				t.Errorf("close %s: %v", Name(i), err)
			}
		}
	})
	for i := range n {
		c.Start(i)
		if i > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			if err := c.Nodes[0].Admit(ctx, Name(i), c.addrs[i]); err != nil {
				t.Fatalf("admit %s: %v", Name(i), err)
			}
			cancel()
		}
		c.Ready(i)
		Propose[*fleet.Node](t, c.Nodes[i], fleet.PutNode{Node: fleet.Node{ID: Name(i), Name: Name(i), RegionID: "dc1", ClusterAddress: c.addrs[i]}})
	}
	c.Until("all nodes vote that should", func() bool {
		// On every node: what the leader alone knows of is not agreed on yet.
		for _, node := range c.Nodes {
			votes, members := 0, node.Status().Members
			for _, m := range members {
				if m.Voter {
					votes++
				}
			}
			if len(members) != n || votes != map[int]int{1: 1, 2: 1, 3: 3, 4: 3, 5: 5}[n] {
				return false
			}
		}
		return true
	})
	return c
}

// Start starts the node at place i on its directory, which is new or has been used.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	port, err := c.Net.Join(Name(i), c.addrs[i])
	if err != nil {
		c.t.Fatalf("%s joins the network: %v", Name(i), err)
	}
	c.addrs[i] = port.Address()
	cfg := Config(c.dirs[i])
	cfg.NodeID, cfg.Name, cfg.Network, cfg.Join = Name(i), Name(i), port, i > 0
	cfg.SettleAfter = 200 * time.Millisecond
	if c.tune != nil {
		c.tune(i, &cfg)
	}
	n, err := consensus.Open(cfg)
	if err != nil {
		c.t.Fatalf("open %s: %v", Name(i), err)
	}
	c.Nodes[i] = n
}

// Ready waits until a node is ready.
func (c *Cluster) Ready(i int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Nodes[i].Ready(ctx); err != nil {
		c.t.Fatalf("%s is not ready: %v", Name(i), err)
	}
}

// Stop closes the node at place i, if it runs.
func (c *Cluster) Stop(i int) error {
	n := c.Nodes[i]
	c.Nodes[i] = nil
	if n == nil {
		return nil
	}
	return n.Close()
}

// Dir of the node at place i.
func (c *Cluster) Dir(i int) string { return c.dirs[i] }

// Leader is the place of the node that leads, as soon as all that run and are in
// reach of it agree.
func (c *Cluster) Leader() int {
	c.t.Helper()
	at := -1
	c.Until("one node leads", func() bool {
		at = slices.IndexFunc(c.Nodes, func(n *consensus.Node) bool { return n != nil && n.Status().Role == "leader" && n.Leads() })
		return at >= 0
	})
	return at
}

// Others are the places of all nodes but one.
func (c *Cluster) Others(i int) (out []int) {
	for j := range c.Nodes {
		if j != i {
			out = append(out, j)
		}
	}
	return out
}

// Isolate cuts a node off from all others.
func (c *Cluster) Isolate(i int) {
	var others []string
	for _, j := range c.Others(i) {
		others = append(others, Name(j))
	}
	c.Net.Isolate(Name(i), others...)
}

// Until waits for something that the nodes bring about.
func (c *Cluster) Until(what string, is func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited 30 s until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
