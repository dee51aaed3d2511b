package appliance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/agent/firstbyte"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/memory"
	"github.com/lpmos/lpmos/appliance/systemd"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/netboot"
	"github.com/lpmos/lpmos/ui"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"
)

// Run runs a node until ctx ends. It returns nil after an orderly stop, also when
// ctx ends while the node still starts; an error says what could not be opened,
// or what broke. A new data directory becomes a cluster of this node alone.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger, look Examiner, tell Teller) error {
	return run(ctx, cfg, Invitation{}, version, log, look, tell)
}

// Examiner looks for what keeps machines from booting off the node's host. It comes from
// outside, because it is made of packages that may start programs, and a node is not.
type Examiner func(context.Context) api.Examination

// Join runs a node like Run; a new data directory becomes that of one more node
// of the cluster it is invited to. A node that is of that cluster already just
// runs.
func Join(ctx context.Context, cfg config.Config, inv Invitation, version string, log *slog.Logger, look Examiner) error {
	return run(ctx, cfg, inv, version, log, look, Teller{})
}

func run(ctx context.Context, cfg config.Config, inv Invitation, version string, log *slog.Logger, look Examiner, tell Teller) (err error) {
	started := time.Now()
	manager, err := systemd.NewTeller(os.Getenv)
	if err != nil {
		return err
	}
	if err := consensus.GoFirst(); err != nil {
		log.Debug("this node runs as any other process", "reason", err)
	}
	// The directory first: nobody else may write what we are about to read.
	dir, err := takeDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := consensus.CheckDir(raftDir(cfg.DataDir)); err != nil {
		return err
	}

	heard := &contactSeam{}

	// Then this node's place in its cluster: nothing may be answered before there is
	// a state to answer from.
	var given peerImages
	seen := newSightingSeam()
	calls := http.NewServeMux()
	calls.Handle("/x/", &given)
	calls.Handle("GET "+wirePath, seen)
	self, err := openMember(ctx, cfg, inv, consensus.Config{Name: cfg.Name, Region: cfg.Region, Version: version, Logger: log,
		Calls: calls, Describe: given.describe, Contacts: heard.since, Heard: heard.elsewhere})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	go memory.Tune()
	cluster := self.Node
	defer func() { err = errors.Join(err, cluster.Close()) }()

	store, err := images.OpenStore(filepath.Join(cfg.DataDir, "images"), images.StoreOptions{Log: log})
	if err != nil {
		return err
	}
	given.open(store)
	replica := newReplicator(cfg, cluster, store, log)

	people, err := listenPeople(cfg.Listen)
	if err != nil {
		return err
	}
	defer people.Close()
	dashboard := dashboardURL(people.Addr(), cfg)
	secure, err := peopleTLS(cfg, self, people.Addr())
	if err != nil {
		return err
	}
	connected := newSeats(log)
	people = firstbyte.New(connected.forPeople(people), firstbyte.Config{TLS: secure})
	defer people.Close()
	atTheNode, err := listenAtTheNode(cfg.DataDir)
	if err != nil {
		return errors.Join(err, people.Close())
	}
	defer atTheNode.Close()

	// Agents and firmware.
	interfaces, err := netbootInterfaces(cfg.Interfaces)
	if err != nil {
		return err
	}
	networks, err := servedNetworks(interfaces)
	if err != nil {
		return err
	}
	beside := newNeighbours(cluster, networks)
	grants := self.newGrantor()
	agents := agentserver.New(agentserver.Config{
		Cluster: cluster, Scheduler: schedulerSeam{images.NewScheduler(replica)}, Region: cfg.Region, Nodes: beside.NodesOf,
		Claim: claimSeam{self.id.Claims()}.read, SameNetwork: beside.SameNetwork, Sign: grants.sign,
		Dashboard: dashboard, ReleaseAfter: cfg.ReleaseAfter, Now: time.Now, Logger: log})
	heard.agents.Store(agents)
	seen.more = connected.counters
	boot, err := openNetboot(cfg, interfaces, self, beside, seen, profileSeam{cluster, replica, time.Now}, journeys{cluster, agents}.of, log)
	if err != nil {
		return err
	}
	machines := machineHandler(boot, agents, replica.Handler())
	bootListeners, err := listenMachines(networks, cfg.BootPort)
	if err != nil {
		return errors.Join(err, boot.Close())
	}
	for i, l := range bootListeners {
		bootListeners[i] = bothWays(connected.forMachines(l), self.id)
	}
	defer closeAll(bootListeners)

	// People.
	static, reload := ui.Static(), false
	if cfg.UIDir != "" {
		static, reload = os.DirFS(cfg.UIDir), true
	}
	page, err := ui.New(ui.Config{
		API: api.Config{
			Cluster: clusterSeam{cluster}, Images: imageSeam{store, images.NewFetcher(cfg.FetchPrefixes())}, Sightings: seen, Contact: agents, Membership: membersOf(self), Leases: leaseSeam{boot},
			Name: cfg.Name, Region: cfg.Region, Version: version,
			Now: time.Now, NewID: newTaskID, NewToken: newToken, Logger: log,
			Examine: look},
		Static: static, Reload: reload, Hosts: cfg.Hosts, Figures: cluster.Figures})
	if err != nil {
		return errors.Join(err, boot.Close())
	}
	defer page.Close()

	record := fleet.Node{ID: cluster.ID(), Name: cfg.Name, RegionID: cfg.Region, Address: dashboard, Version: version, ClusterAddress: self.network.Address()}
	record.BootURLs, record.Networks = served(networks, bootListeners)
	pools := newPoolKeeper(cluster, boot, beside, log)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return manager.Run(ctx, boot.Ready(), func() { cluster.View(func(*fleet.State) {}) }) })
	group.Go(func() error { return announce(ctx, cluster, record, log) })
	group.Go(func() error { return self.keepCertificate(ctx) })
	group.Go(func() error { return self.letOthersIn(ctx) })
	group.Go(func() error { return grants.run(ctx) })
	group.Go(func() error { return pools.run(ctx) })
	group.Go(func() error {
		<-pools.begun // a node lends to strangers only what it has claimed
		return boot.Run(ctx)
	})
	group.Go(func() error { return feedAgents(ctx, cluster, agents) })
	group.Go(func() error { return seen.followOthers(ctx, cluster) })
	group.Go(func() error { return feedReplicator(ctx, cluster, replica) })
	group.Go(func() error { replica.Run(ctx); return nil })
	group.Go(func() error {
		select {
		case err := <-cluster.Failed():
			return fmt.Errorf("the log stopped: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	for _, l := range bootListeners {
		group.Go(func() error { return serve(ctx, l, connected.guard(machines), log) })
	}
	group.Go(func() error { return serve(ctx, people, connected.timely(page), log) })
	group.Go(func() error { return serveAtTheNode(ctx, atTheNode, page, log) })
	group.Go(func() error {
		select {
		case <-boot.Ready():
			firstMinute(ctx, self, page.Door(), dashboard, tell, log)
			log.Info("node is ready", "dashboard", dashboard, "region", cfg.Region, "version", version, "after", time.Since(started).Round(time.Millisecond))
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// openNetboot prepares what firmware is told. Without a boot image a node that
// serves no interface is still of use; one that does would leave machines stuck.
func openNetboot(cfg config.Config, interfaces []netboot.Interface, self *member, beside *neighbours, seen *sightingSeam, profiles netboot.Profiles, journey func(string) netboot.Journey, log *slog.Logger) (*netboot.Server, error) {
	if err := bootimage.Check(); err != nil {
		if len(interfaces) > 0 {
			return nil, err
		}
		log.Warn("no boot image in this binary", "err", err)
	}
	if len(interfaces) > 0 && !bootimage.HasARM64(bootimage.Files()) {
		log.Warn("this binary was built without the agent for arm64 machines; they cannot be booted")
	}
	files, err := netboot.LoadFiles(bootimage.Files())
	if err != nil && len(interfaces) > 0 {
		return nil, err
	}
	c := netboot.Config{
		Interfaces: interfaces, DataDir: cfg.DataDir, BootPort: cfg.BootPort, Files: files, Fleet: fleetSeam{self.Node, time.Now}, Profiles: profiles, Neighbours: beside,
		Log: log, KernelArgs: cfg.KernelArgs, UEFILoader: netboot.UEFILoader(cfg.UEFILoader), NoRouterAdverts: cfg.QuietRouters, TFTPSinglePort: cfg.TFTPOnePort, OnSighting: seen.publish, Journey: journey, Elsewhere: seen.elsewhere}
	for _, r := range cfg.Reservations {
		c.Reservations = append(c.Reservations, netboot.Reservation{Machine: r.Machine, Addr: netip.MustParseAddr(r.Address)}) // config has checked it
	}
	c.Owners = fleetSeam{self.Node, time.Now}.owners
	bootTrust(self.id, &c)
	boot, err := netboot.New(c)
	if err != nil {
		return nil, err
	}
	seen.open(boot, interfaces)
	return boot, nil
}

// feedAgents wakes the agents' long polls by what the feed tells.
func feedAgents(ctx context.Context, cluster *consensus.Node, agents *agentserver.Server) error {
	for {
		w := cluster.SnapshotAndWatch(func(*fleet.State) {})
		for {
			events, err := w.Next(ctx)
			if ctx.Err() != nil || errors.Is(err, consensus.ErrClosed) {
				w.Close()
				return nil
			}
			if err != nil {
				break // cut for lagging: watch anew, agents ask again by themselves
			}
			agents.Notify(events)
		}
		w.Close()
	}
}

func newTaskID() string { return "t-" + strings.ToLower(ulid.Make().String()) }

func newToken() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // never fails
	return hex.EncodeToString(b)
}
