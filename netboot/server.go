package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	rememberedMachines  = 4096
	rememberedSightings = 48 // two whole boots, and what went wrong before; see sightingsInAll
)

// Config is what a Server is made from. All fields without "optional" are
// needed.
type Config struct {
	Interfaces []Interface
	DataDir    string // leases.db goes here, and copies of boot files (BootFilesDir)
	BootPort   int    // TCP port on which Handler is served at each interface's address
	Files      *Files
	Fleet      Fleet
	Log        *slog.Logger

	// Pin is what the agent knows its cluster by, and Claim makes the code it begins
	// its session with, for the machine with that MAC at that address. Both stand in
	// a script: letters, digits, dashes and underscores.
	Pin   string
	Claim func(mac string, addr netip.Addr) (string, error)
	// PathKey is what all nodes make the paths of boots with.
	PathKey [32]byte

	Profiles     Profiles      // optional: what machines may be booted into once
	Neighbours   Neighbours    // optional: the other nodes of the cluster
	Reservations []Reservation // optional: addresses kept for machines because the operator says so
	// Owners, which is optional, are the known machines that have these UUIDs and serial
	// numbers, in small letters, by them; who was seen first comes first.
	Owners func(ids []string) map[string][]Owner

	KernelArgs      string                      // optional: appended to the agent's kernel command line
	UEFILoader      UEFILoader                  // optional: UEFILoaderAuto
	NoRouterAdverts bool                        // optional: leave router solicitations unanswered
	TFTPSinglePort  bool                        // optional: TFTP replies leave from port 69, for firewalls that let nothing else through
	OnSighting      func(Sighting)              // optional: called with every sighting, must not block
	Journey         func(mac string) Journey    // optional: what is known of a machine beyond the wire; from memory
	Elsewhere       func(mac string) []Sighting // optional: what other nodes have seen of a machine
	Now             func() time.Time            // optional: time.Now

	look    time.Duration                           // for other servers before anything is lent; 0: lookFirst, below: not at all
	network func(name string) (netip.Prefix, error) // nil: InterfaceNetwork
}

// Server is netboot on all interfaces of a node.
type Server struct {
	cfg        Config
	leases     *Leases
	reserved   *reserving
	tries      tries
	yields     yields
	loaders    loaders
	sightings  *Sightings
	stats      counters
	strangers  strangers
	newcomers  bucket
	waiting    arpWaiting
	bound      bound
	turns      turns
	complaints pace // of DHCP
	unfetched  pace // of TFTP
	unscripted pace // of scripts
	shortages  shortages
	ready      chan struct{}

	mu     sync.Mutex
	others []*otherServers // one a link
}

// New checks the configuration and opens the book of leases. Close or Run
// closes it.
func New(cfg Config) (*Server, error) {
	if err := ValidateKernelArgs(cfg.KernelArgs); err != nil {
		return nil, err
	}
	if cfg.BootPort < 1 || cfg.BootPort > 65535 {
		return nil, fmt.Errorf("boot_port %d: want 1 to 65535", cfg.BootPort)
	}
	if cfg.Pin == "" || cfg.Claim == nil || cfg.PathKey == [32]byte{} {
		return nil, errors.New("netboot: Pin, Claim and PathKey must be given")
	}
	switch cfg.UEFILoader {
	case "", UEFILoaderAuto, UEFILoaderIPXE, UEFILoaderDrivers, UEFILoaderShim:
	default:
		return nil, fmt.Errorf("uefi_loader %q: want auto, ipxe, ipxe-drivers or shim", cfg.UEFILoader)
	}
	seen := make(map[string]bool)
	for _, in := range cfg.Interfaces {
		switch in.Mode {
		case ModeDHCP, ModeProxy, ModeObserve, ModeOff, "":
		default:
			return nil, fmt.Errorf("interface %s: mode %q: want dhcp, proxy, observe or off", in.Name, in.Mode)
		}
		if seen[in.Name] {
			return nil, fmt.Errorf("interface %s is listed twice", in.Name)
		}
		seen[in.Name] = true
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.look == 0 {
		cfg.look = lookFirst
	}
	if cfg.network == nil {
		cfg.network = InterfaceNetwork
	}
	leases, err := OpenLeases(filepath.Join(cfg.DataDir, "leases.db"), cfg.Now)
	if err != nil {
		return nil, err
	}
	reserved, err := reserve(cfg.Fleet, cfg.Reservations, cfg.Owners, leases, cfg.Now)
	if err != nil {
		return nil, errors.Join(err, leases.Close())
	}
	cfg.Fleet = reserved
	s := &Server{
		cfg:       cfg,
		leases:    leases,
		reserved:  reserved,
		turns:     turns{places: turnPlaces},
		newcomers: bucket{burst: strangersAtOnce, each: strangersEach},
		sightings: NewSightings(rememberedMachines, rememberedSightings, cfg.OnSighting),
		ready:     make(chan struct{}),
	}
	s.turns.overtime = func() { s.stats.add("http.overtime") }
	if !slices.ContainsFunc(cfg.Interfaces, func(i Interface) bool { return i.Mode == ModeDHCP || i.Mode == ModeProxy }) {
		return s, nil // nobody boots here
	}
	if err := cfg.Files.spool(filepath.Join(cfg.DataDir, BootFilesDir)); err != nil {
		cfg.Log.Warn("boot files are sent from memory, which takes more of the processor", "reason", err)
	}
	return s, nil
}

// Close closes the book of leases. It is for a Server that is never run.
func (s *Server) Close() error { return s.leases.Close() }

// Ready is closed when every port is open and packets are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Sightings is what each machine did on the wire.
func (s *Server) Sightings() *Sightings { return s.sightings }

// Stats are the counters so far.
func (s *Server) Stats() Stats {
	all := s.stats.snapshot()
	if n := s.sightings.tooMany(); n > 0 {
		all["sightings.too many"] = n
	}
	return all
}

// Transfers is how many boot files are on their way over HTTP, and how many wait.
func (s *Server) Transfers() Transfers { return s.turns.now() }

// Alarms is what is wrong on the networks served, in sentences: other DHCP
// servers, and no address left.
func (s *Server) Alarms() []string {
	out := append(s.shortages.alarms(s.cfg.Now()), s.reserved.alarms()...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.others {
		out = append(out, o.alarms()...)
	}
	return out
}

// Leases are the addresses lent to machines the fleet does not know.
func (s *Server) Leases() []Lease { return s.leases.All() }

// LeaseTable is the book of leases as people ask for it.
func (s *Server) LeaseTable() []Holding {
	return append(s.leases.Table(), s.reserved.table()...)
}

// FreeLease ends a lease or the rest of an address because a person says so.
func (s *Server) FreeLease(addr netip.Addr) (Holding, error) { return s.leases.Free(addr) }

// Handler serves everything below BootPath. The caller listens with it at the
// interfaces' addresses on Config.BootPort.
func (s *Server) Handler() http.Handler {
	return &bootHTTP{files: s.cfg.Files, profiles: s.cfg.Profiles, turns: &s.turns, scripts: s.scripts(), sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now, within: sendTime}
}

func (s *Server) scripts() *scripts {
	return &scripts{
		fleet: s.cfg.Fleet, files: s.cfg.Files, profiles: s.cfg.Profiles, neighbours: s.cfg.Neighbours, kernelArgs: s.cfg.KernelArgs,
		paths: s.paths(), bound: &s.bound, lent: s.lentTo, lends: s.lends, pin: s.cfg.Pin, claim: s.cfg.Claim, strangers: &s.strangers, loaders: &s.loaders, complaints: &s.unscripted,
		sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now,
	}
}

func (s *Server) paths() paths { return paths{key: s.cfg.PathKey, now: s.cfg.Now} }

// lentTo is the MAC of the machine that this node has given the address to and that
// still has it, or "": then another server may have given it to anybody.
func (s *Server) lentTo(addr netip.Addr) string {
	mac := s.sightings.holder(addr)
	if fixed, ok := s.cfg.Fleet.Address(mac); ok && fixed == addr {
		return mac
	}
	if lease, ok := s.leases.Of(mac); ok && lease.Addr == addr && s.cfg.Now().Before(lease.Until) {
		return mac
	}
	return ""
}

// lends says whether the address is of a network in which this node lends them.
func (s *Server) lends(addr netip.Addr) bool {
	for _, in := range s.cfg.Interfaces {
		if in.Mode != ModeDHCP {
			continue
		}
		if own, err := s.cfg.network(in.Name); err == nil && own.Masked().Contains(addr) {
			return true
		}
		for _, n := range in.Networks {
			if n.Prefix.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// Run opens every port of every interface, and only when it has them all
// answers the first packet; then it serves until ctx ends. It returns nil after
// an orderly end. It can be called once.
func (s *Server) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.leases.Close()) }()
	services, err := s.open(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, serve := range services {
		group.Go(func() error { return serve(ctx) })
	}
	group.Go(func() error { return s.watchStalls(ctx) })
	close(s.ready)
	return group.Wait()
}

// open binds everything. On an error nothing stays open.
func (s *Server) open(ctx context.Context) (services []func(context.Context) error, err error) {
	var opened []io.Closer
	defer func() {
		if err != nil {
			for _, c := range opened {
				c.Close()
			}
		}
	}()
	for _, in := range s.cfg.Interfaces {
		if in.Mode == ModeOff || in.Mode == "" {
			continue
		}
		l, err := findLink(in)
		if err != nil {
			return nil, err
		}
		r := s.responder(l)
		heard, err := openOthers(l)
		if err != nil {
			return nil, err
		}
		opened = append(opened, heard)
		others := s.watch(l)
		others.look(s.cfg.look)
		r.quiet = others.quiet
		services = append(services, func(ctx context.Context) error { return others.serve(ctx, heard) })
		if l.Mode == ModeObserve {
			asked, err := openRequests(l)
			if err != nil {
				return nil, err
			}
			opened = append(opened, asked)
			o := &observer{link: l, sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now}
			others.also = o.answered
			services = append(services, func(ctx context.Context) error { return o.serve(ctx, asked) })
			s.cfg.Log.Info("netboot observes an interface and answers nothing", "interface", l.Name, "network", l.subnet)
			continue
		}
		if l.Mode == ModeDHCP && !l.NoProbe {
			raw, err := openARP(l)
			if err != nil {
				return nil, err
			}
			opened = append(opened, raw)
			prober := newARPProber(l, raw.send, &s.stats, s.cfg.Log, s.cfg.Now)
			r.probe = prober.ask
			services = append(services, func(ctx context.Context) error { return prober.serve(ctx, raw) })
			if slices.ContainsFunc(l.all(), func(n link) bool { return n.behind }) {
				echoes, err := openEchoes(ctx, l)
				if err != nil {
					return nil, err
				}
				opened = append(opened, echoes)
				prober := echoes.prober(l, &s.stats, s.cfg.Log, s.cfg.Now)
				r.echo = prober.ask
				services = append(services, func(ctx context.Context) error { return echoes.serve(ctx, prober) })
			}
		}
		ports := map[int]answerFunc{dhcpServerPort: r.decide}
		if l.Mode == ModeProxy {
			ports = map[int]answerFunc{dhcpServerPort: r.proxyOffer, proxyServerPort: r.proxyBoot}
		}
		for port, answer := range ports {
			p, err := openDHCPPort(ctx, r, port, answer)
			if err != nil {
				return nil, err
			}
			opened = append(opened, p)
			services = append(services, p.serve)
		}

		for _, n := range l.onWire() {
			at := netip.IPv4Unspecified()
			if len(l.onWire()) > 1 {
				at = n.addr // each network has its own
			}
			conn, err := listenUDPAt(ctx, l.Name, at, 69, false)
			if err != nil {
				return nil, err
			}
			opened = append(opened, conn)
			if err := onlyFrom(conn, l.reach(n)...); err != nil {
				return nil, fmt.Errorf("TFTP on %s: %w", l.Name, err)
			}
			t := s.tftp(n)
			services = append(services, func(ctx context.Context) error { return t.serve(ctx, conn) })
		}

		if !s.cfg.NoRouterAdverts {
			raw, err := openRouter(l)
			if err != nil {
				return nil, err
			}
			opened = append(opened, raw)
			ra := &routerServer{link: l, sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now}
			services = append(services, func(ctx context.Context) error { return ra.serve(ctx, raw) })
		}
		for _, short := range kernelLimits("/proc/sys/net", l) {
			s.cfg.Log.Warn("the kernel is set up for fewer machines than this network may have", "interface", l.Name, "reason", short)
		}
		for _, n := range l.all() {
			s.cfg.Log.Info("netboot serves an interface", "interface", n.Name, "mode", n.Mode, "address", n.addr, "network", n.subnet, "range", n.Range, "behind relays", n.behind)
		}
	}
	return services, nil
}

func (s *Server) responder(l link) *responder {
	return &responder{
		link: l, networks: l.all(), bootPort: s.cfg.BootPort, paths: s.paths(), bound: &s.bound, leases: s.leases, fleet: strangersRest{s.cfg.Fleet, &s.strangers, s.cfg.Now}, reserved: s.reserved, neighbours: s.cfg.Neighbours, files: s.cfg.Files, loaders: &s.loaders, uefiLoader: s.cfg.UEFILoader, tries: &s.tries, strangers: &s.newcomers, waiting: &s.waiting, complaints: &s.complaints, shortages: &s.shortages,
		sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now,
	}
}

func (s *Server) tftp(l link) *tftpServer {
	return &tftpServer{
		link: l, bootPort: s.cfg.BootPort, singlePort: s.cfg.TFTPSinglePort, files: s.cfg.Files, scripts: s.scripts(), loaders: &s.loaders, complaints: &s.unfetched,
		sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now,
	}
}

// watch looks out for other servers on a link.
func (s *Server) watch(l link) *otherServers {
	o := &otherServers{
		link: l, neighbours: s.cfg.Neighbours, changed: make(chan struct{}, 1),
		sightings: s.sightings, stats: &s.stats, log: s.cfg.Log, now: s.cfg.Now,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others = append(s.others, o)
	return o
}
