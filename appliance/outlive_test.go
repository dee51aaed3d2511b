package appliance

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/agent/grant/granttest"
	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// site is a cluster of three nodes with all that agents speak to.
type site struct {
	grants  *granttest.Authority
	t       *testing.T
	c       *consensustest.Cluster
	servers [3]*httptest.Server
	agents  [3]*agentserver.Server
	digest  string
	trust   *pintest.Cluster
	claim   func(mac string, addr netip.Addr) (string, error)
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, trust: pintest.New(t), grants: granttest.New(t, time.Now)}
	claims := (&trust.Identity{Node: "n", Secret: trust.NewSecret()}).Claims()
	s.claim = claimSeam{claims}.make
	log := slog.New(slog.DiscardHandler)
	var stores [3]*images.Store
	var given [3]peerImages
	s.c = consensustest.NewCluster(t, 3, func(i int, cfg *consensus.Config) {
		store, err := images.OpenStore(t.TempDir(), images.StoreOptions{Reserve: 1})
		if err != nil {
			t.Fatal(err)
		}
		stores[i] = store
		given[i].open(store)
		cfg.Calls, cfg.Describe = &given[i], given[i].describe
	})
	for i, n := range s.c.Nodes {
		replica := newReplicator(config.Config{CopyLimit: 100}, n, stores[i], log)
		s.agents[i] = agentserver.New(agentserver.Config{Cluster: n, Scheduler: schedulerSeam{images.NewScheduler(replica)}, Region: "dc1",
			Claim: claimSeam{claims}.read, Dashboard: "http://people", ReleaseAfter: time.Minute, Now: time.Now, Logger: log,
			Sign: func(g wire.Grant) (wire.SignedGrant, error) { return s.grants.Sign(s.grants.Fill(g)), nil },
			Nodes: func(string) (urls []string) {
				for _, other := range s.servers {
					urls = append(urls, other.URL)
				}
				return urls
			}})
		mux := http.NewServeMux()
		mux.Handle("/api/v1/agent/", s.agents[i].Handler())
		mux.Handle("/up/", s.agents[i].Handler())
		mux.Handle("/chunk/", agentserver.Alive(replica.Handler()))
		mux.Handle("/manifest/", agentserver.Alive(replica.Handler()))
		s.servers[i] = s.trust.Server(mux)
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { replica.Run(ctx) })
		wg.Go(func() { _ = feedReplicator(ctx, n, replica) })
		wg.Go(func() { _ = feedAgents(ctx, n, s.agents[i]) })
		t.Cleanup(func() { s.servers[i].CloseClientConnections(); s.servers[i].Close(); cancel(); wg.Wait() })
	}
	var err error
	if _, s.digest, err = stores[0].Import(t.Context(), bytes.NewReader(bootable(12)), images.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	consensustest.Propose[*fleet.Image](t, s.c.Nodes[0], fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: s.digest, SizeBytes: 12 * wire.ChunkBytes, Stored: 1000, Sector: 512}})
	s.c.Until("every node has the image", func() bool {
		for _, store := range stores {
			if !store.Holdings()[s.digest].Whole() {
				return false
			}
		}
		return true
	})
	return s
}

// kill takes a node off the network and ends all that machines hear of it.
func (s *site) kill(i int) {
	s.c.Isolate(i)
	_ = s.servers[i].Listener.Close()
	s.servers[i].CloseClientConnections()
}

func (s *site) task(i int) (t fleet.Task) {
	s.c.Nodes[i].View(func(st *fleet.State) {
		if found := st.Task("t-1"); found != nil {
			t = *found
		}
	})
	return t
}

// fetching is an installer that gets every chunk and forgets it.
type fetching struct {
	mu      sync.Mutex
	got     map[int]int
	after   int // so many chunks something happens
	happens func()
}

func (f *fetching) Install(ctx context.Context, g wire.Grant, _ func() error, src agent.Source, report func(wire.Progress)) error {
	report(wire.Progress{Stage: wire.StagePartitioning, Percentage: 20})
	man, err := src.Manifest(ctx, g.Plan.Image.Digest)
	if err != nil {
		return err
	}
	for i := 0; i < len(man.Chunks); {
		if len(f.got) == f.after && f.happens != nil {
			f.happens()
			f.happens = nil
		}
		res, err := src.Next(ctx, wire.NextRequest{TaskID: g.TaskID, Image: g.Plan.Image.Digest, Need: []int{i}})
		if err != nil {
			return err
		}
		if len(res.Fetch) == 0 || fetchWhole(ctx, src, res.Fetch[0].URL, man.Chunks[i]) != nil {
			continue
		}
		f.mu.Lock()
		f.got[i]++
		f.mu.Unlock()
		i++
		report(wire.Progress{Stage: wire.StageDownloading, Percentage: 20 + 40*float64(i)/float64(len(man.Chunks))})
	}
	report(wire.Progress{Stage: wire.StageInstalling, Percentage: 90})
	report(wire.Progress{Stage: wire.StageConfiguring, Percentage: 100})
	return nil
}

func fetchWhole(ctx context.Context, src agent.Source, url, name string) error {
	rc, err := src.Fetch(ctx, url)
	if err != nil {
		return err
	}
	defer rc.Close()
	z, err := gzip.NewReader(rc)
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(h, z); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != name {
		return errors.New("other bytes")
	}
	return nil
}

// Agents, the nodes' end of the conversation, the scheduler and the cluster as they
// are: an install goes on when its node is killed, and when its node is left alone.
func TestAnInstallOutlivesItsNode(t *testing.T) {
	for _, tc := range []struct {
		name    string
		happens func(*site)
		know    bool // the agent is told of the other nodes
		kept    bool // the end is kept by the node until it hears of the others
	}{
		{"its node, which leads, is killed", func(s *site) { s.kill(s.c.Leader()) }, true, false},
		{"its node is cut off, and the others are in reach of the machine", func(s *site) { s.c.Isolate(0) }, true, false},
		{"its node is cut off, and all the machine can reach", func(s *site) { s.c.Isolate(0) }, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			first := 0
			if strings.Contains(tc.name, "leads") {
				first = s.c.Leader()
			}
			if !tc.know {
				for i := range s.servers {
					if i != first {
						_ = s.servers[i].Listener.Close()
					}
				}
			}
			inv := apitest.Server()
			inv.NICs = []wire.NIC{{Name: "eno1", MAC: "52:54:00:00:00:01"}}
			f := &fetching{got: map[int]int{}, after: 5, happens: func() { tc.happens(s) }}
			var console bytes.Buffer
			con := agent.NewConsole(&console, time.Now)
			code, err := s.claim(inv.NICs[0].MAC, netip.MustParseAddr("127.0.0.1"))
			if err != nil {
				t.Fatal(err)
			}
			a, err := agent.New(agent.Config{Trust: s.trust.Verifier(), Grants: s.grants.Checker(), Claim: code, Nodes: []string{s.servers[first].URL}, MAC: inv.NICs[0].MAC, IP: "10.77.0.9", Version: "test",
				Collect: func() wire.Inventory { return inv }, Installer: f, Console: con})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				out, err := a.Run(ctx)
				if err == nil && out != agent.OutcomeInstalled {
					err = fmt.Errorf("it ended with %s", out)
				}
				ended <- err
			}()
			consensustest.Propose[*fleet.Task](t, s.c.Nodes[1], fleet.CreateTask{ID: "t-1", RegionID: "dc1", TargetMAC: inv.NICs[0].MAC, PhoneToken: "p",
				Spec: fleet.Spec{OSType: "tiny", NetworkConfig: fleet.NetworkConfig{Hostname: "web-1"}}})
			s.c.Until("there is a plan", func() bool { return s.task(1).PlanHash != "" })
			consensustest.Propose[*fleet.Task](t, s.c.Nodes[1], fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: s.task(1).PlanHash, By: "anna"})
			if err := <-ended; err != nil {
				t.Fatalf("%v\n%s", err, console.String())
			}
			for i := range 12 {
				if f.got[i] != 1 {
					t.Errorf("chunk %d was fetched %d times", i, f.got[i])
				}
			}
			other := (first + 1) % 3
			if _, kept := s.c.Nodes[first].DeferredFor("t-1"); kept != tc.kept {
				t.Errorf("the end is kept: %v, want %v\n%s", kept, tc.kept, console.String())
			}
			if tc.kept {
				if got := s.task(other).Status; got != wire.StatusInstalling {
					t.Errorf("the others know of %s already", got)
				}
				s.c.Net.Heal()
			}
			s.c.Until("the others know that it has ended", func() bool { return s.task(other).Status == wire.StatusCompleted })
			machines := 0
			s.c.Nodes[other].View(func(st *fleet.State) { machines = len(st.Machines()) })
			if got := s.task(other); got.InstallBootID == "" || machines != 1 {
				t.Errorf("%d machines, task %+v", machines, got)
			}
		})
	}
}
