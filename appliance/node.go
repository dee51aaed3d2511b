package appliance

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/appliance/config"
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

// readyTimeout is how long the log may take to be replayed at start.
const readyTimeout = time.Minute

// Run runs a node until ctx ends. It returns nil after an orderly stop, also when
// ctx ends while the node still starts; an error says what could not be opened,
// or what broke.
func Run(ctx context.Context, cfg config.Config, version string, log *slog.Logger) (err error) {
	started := time.Now()
	collectEarly()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}

	// The log first: nothing may be answered before the state is whole.
	cluster, err := consensus.Open(consensus.Config{
		Dir: filepath.Join(cfg.DataDir, "raft"), Name: cfg.Name, Region: cfg.Region, Version: version, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	readyCtx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := cluster.Ready(readyCtx); err != nil {
		if errors.Is(err, ctx.Err()) {
			return nil
		}
		return fmt.Errorf("wait for the log: %w", err)
	}

	store, err := images.OpenStore(filepath.Join(cfg.DataDir, "images"), images.StoreOptions{Log: log})
	if err != nil {
		return err
	}

	people, err := listenPeople(cfg.Listen)
	if err != nil {
		return err
	}
	defer people.Close()
	dashboard := dashboardURL(people.Addr(), cfg)

	// Agents and firmware.
	agents := agentserver.New(agentserver.Config{
		Cluster: cluster, Scheduler: schedulerSeam{images.NewScheduler(store)}, Region: cfg.Region,
		Dashboard: dashboard, ReleaseAfter: cfg.ReleaseAfter, Now: time.Now, Logger: log})
	boot, seen, err := openNetboot(cfg, cluster, log)
	if err != nil {
		return err
	}
	machines := http.NewServeMux()
	machines.Handle(netboot.BootPath, boot.Handler())
	machines.Handle("/api/v1/agent/", agents.Handler())
	machines.Handle("/up/", agents.Handler())
	machines.Handle("/chunk/", store.Handler())
	machines.Handle("/manifest/", store.Handler())
	bootListeners, err := listenMachines(cfg)
	if err != nil {
		return errors.Join(err, boot.Close())
	}
	defer closeAll(bootListeners)

	// People.
	static, reload := ui.Static(), false
	if cfg.UIDir != "" {
		static, reload = os.DirFS(cfg.UIDir), true
	}
	page, err := ui.New(ui.Config{
		API: api.Config{
			Cluster: clusterSeam{cluster}, Images: imageSeam{store}, Sightings: seen, Contact: agents,
			Name: cfg.Name, Region: cfg.Region, Version: version,
			Now: time.Now, NewID: newTaskID, NewToken: newToken, Logger: log},
		Static: static, Reload: reload, Hosts: cfg.Hosts})
	if err != nil {
		return errors.Join(err, boot.Close())
	}
	defer page.Close()

	if _, err := cluster.Propose(ctx, fleet.PutNode{Node: fleet.Node{
		ID: cluster.ID(), Name: cfg.Name, RegionID: cfg.Region, Address: dashboard, Version: version}}); err != nil {
		if errors.Is(err, ctx.Err()) {
			return boot.Close()
		}
		return errors.Join(fmt.Errorf("record this node: %w", err), boot.Close())
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return boot.Run(ctx) })
	group.Go(func() error { return feedAgents(ctx, cluster, agents) })
	group.Go(func() error {
		select {
		case err := <-cluster.Failed():
			return fmt.Errorf("the log stopped: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	for _, l := range bootListeners {
		group.Go(func() error { return serve(ctx, l, machines, log) })
	}
	group.Go(func() error { return serve(ctx, people, page, log) })
	group.Go(func() error {
		select {
		case <-boot.Ready():
			log.Info("node is ready", "dashboard", dashboard, "region", cfg.Region, "version", version, "after", time.Since(started).Round(time.Millisecond))
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// openNetboot prepares what firmware is told. Without a boot image a node that
// serves no interface is still of use; one that does would leave machines stuck.
func openNetboot(cfg config.Config, cluster *consensus.Node, log *slog.Logger) (*netboot.Server, *sightingSeam, error) {
	interfaces, err := netbootInterfaces(cfg.Interfaces)
	if err != nil {
		return nil, nil, err
	}
	if err := bootimage.Check(); err != nil {
		if len(interfaces) > 0 {
			return nil, nil, err
		}
		log.Warn("no boot image in this binary", "err", err)
	}
	files, err := netboot.LoadFiles(bootimage.Files())
	if err != nil && len(interfaces) > 0 {
		return nil, nil, err
	}
	seen := &sightingSeam{interfaces: interfaces}
	boot, err := netboot.New(netboot.Config{
		Interfaces: interfaces, DataDir: cfg.DataDir, BootPort: cfg.BootPort, Files: files, Fleet: fleetSeam{cluster},
		Log: log, KernelArgs: cfg.KernelArgs, NoRouterAdverts: cfg.QuietRouters, OnSighting: seen.publish})
	if err != nil {
		return nil, nil, err
	}
	seen.server = boot
	return boot, seen, nil
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

// listenPeople opens the dashboard's address, or takes over an inherited socket.
func listenPeople(addr string) (net.Listener, error) {
	if fd, ok := strings.CutPrefix(addr, "fd:"); ok {
		n, err := strconv.ParseUint(fd, 10, 16)
		if err != nil || n < 3 {
			return nil, fmt.Errorf("listen: %q is no inherited socket; write fd:3", addr)
		}
		f := os.NewFile(uintptr(n), addr)
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("listen: take over %s: %w", addr, err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, portError("listen", addr, err)
	}
	return l, nil
}

// listenMachines opens the boot port at the address of each named interface, and
// nowhere else.
func listenMachines(cfg config.Config) ([]net.Listener, error) {
	var out []net.Listener
	for _, i := range cfg.Interfaces {
		if i.Mode == "off" {
			continue
		}
		ip, err := netboot.InterfaceAddress(i.Name)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		addr := net.JoinHostPort(ip.String(), fmt.Sprint(cfg.BootPort))
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			closeAll(out)
			return nil, portError("boot_port", addr, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func portError(key, addr string, err error) error {
	_, port, _ := net.SplitHostPort(addr)
	holder := netboot.PortHolder("tcp", port)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %s is taken%s: end it, or give this node another port (%w)", key, addr, holder, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %s may not be opened: ports below 1024 need root or CAP_NET_BIND_SERVICE (%w)", key, addr, syscall.EACCES)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// dashboardURL is where people find the dashboard. One that listens on every
// address is named by that of the first network it serves, or else by the host.
func dashboardURL(addr net.Addr, cfg config.Config) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return "http://" + addr.String()
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	for _, i := range cfg.Interfaces {
		if ip, err := netboot.InterfaceAddress(i.Name); err == nil {
			host = ip.String()
			break
		}
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		l.Close()
	}
}

// serve answers HTTP until ctx ends, then lets running requests finish for a
// moment; long polls and sockets are cut.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			srv.Close()
		}
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}

func newTaskID() string { return "t-" + strings.ToLower(ulid.Make().String()) }

func newToken() string {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // never fails
	return hex.EncodeToString(b)
}
