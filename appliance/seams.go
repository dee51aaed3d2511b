package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/netboot"
	"github.com/lpmos/lpmos/ui/api"
)

// Siblings never import each other. Each seam here gives one room the service
// it declared, out of another.

// clusterSeam is the consensus node as the API sees it.
type clusterSeam struct{ *consensus.Node }

func (c clusterSeam) Watch(since uint64) (api.Watcher, error) {
	w, err := c.Node.Watch(since)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (c clusterSeam) SnapshotAndWatch(f func(*fleet.State)) api.Watcher {
	return c.Node.SnapshotAndWatch(f)
}

// fleetSeam is what netboot asks of the fleet.
type fleetSeam struct{ cluster *consensus.Node }

func (f fleetSeam) Decide(_ context.Context, m netboot.Machine) netboot.Decision {
	var d fleet.BootDecision
	var t *fleet.Task
	var machine *fleet.Machine
	look := func() {
		f.cluster.View(func(s *fleet.State) {
			d = s.Boot(m.MAC)
			if t = s.TaskForMAC(m.MAC); t != nil {
				machine = s.Machine(t.MachineID)
			}
		})
	}
	look()
	if t != nil && t.Status == wire.StatusInstalling {
		// An install that has ended while the others could not be told: they still
		// take it to be under way, and this node knows better. What is kept may be on
		// its way to the disk, so the state is not held for it.
		if end, kept := f.cluster.DeferredFor(t.ID); kept && end.Error == nil && end.Generation == t.Generation {
			d.Action, d.Reason = fleet.BootLocal, "task "+t.ID+" has installed it, which the other nodes are told when they can be reached"
			d.LocalDrive = driveOf(machine, t.Plan.Erase.DiskID)
		} else {
			look() // it may have been told just now
		}
	}
	return netboot.Decision{Action: netboot.Action(d.Action), MachineID: d.MachineID, Name: d.Name,
		Reason: d.Reason, LocalDrive: d.LocalDrive, Counted: d.MachineID != "" || t != nil}
}

// driveOf is the BIOS number of a disk, counted as State.Boot does for one that is
// known to be installed.
func driveOf(m *fleet.Machine, disk wire.DiskID) int {
	if m == nil || m.Inventory == nil {
		return 0
	}
	n := 0
	for _, d := range m.Inventory.Disks {
		switch {
		case d.Removable:
		case d.ID() == disk:
			return n
		default:
			n++
		}
	}
	return 0
}

// BootServed counts that a machine that is known or wanted was told to start the
// agent, and moves the task that waits for it; of a stranger nothing is written. A
// machine that is held asks for as long as it is, which is written once.
func (f fleetSeam) BootServed(ctx context.Context, m netboot.Machine, d netboot.Decision) error {
	if !d.Counted || d.Action != netboot.BootAgent && d.Action != netboot.BootHold {
		return nil
	}
	held := false
	f.cluster.View(func(s *fleet.State) { held = s.IsHeld(m.MAC) })
	if held {
		return nil
	}
	_, err := f.cluster.Propose(ctx, fleet.ServeBoot{MAC: m.MAC})
	return err
}

func (f fleetSeam) Address(mac string) (netip.Addr, bool) {
	var text string
	f.cluster.View(func(s *fleet.State) {
		if m := s.MachineByMAC(mac); m != nil {
			text = m.Addresses[mac]
		}
	})
	addr, err := netip.ParseAddr(text)
	return addr, err == nil
}

func (f fleetSeam) Taken(addr netip.Addr) bool {
	taken := false
	f.cluster.View(func(s *fleet.State) { taken = s.MachineByAddress(addr.String()) != nil })
	return taken
}

// schedulerSeam is the image store's scheduler as agents ask it.
type schedulerSeam struct{ *images.Scheduler }

func (s schedulerSeam) Next(ctx context.Context, base string, req wire.NextRequest) (wire.NextResponse, error) {
	res, err := s.Scheduler.Next(ctx, base, req)
	return res, chunkError(err)
}

// chunkError makes what ends an install a refusal. Anything else, an image that is
// not on this node yet or a disk that cannot be read just now, stays what it is:
// the agent asks again.
func chunkError(err error) error {
	var code fleet.Code
	switch {
	case errors.Is(err, images.ErrBadRequest):
		code = fleet.Invalid
	case errors.Is(err, images.ErrNotFound):
		code = fleet.NotFound
	case errors.Is(err, images.ErrSourceExhausted), errors.Is(err, images.ErrCorrupt):
		code = fleet.Precondition
	default:
		return err
	}
	return &fleet.Error{Code: code, Message: err.Error()}
}

// imageSeam is the image store as the API sees it.
type imageSeam struct {
	store   *images.Store
	fetcher *images.Fetcher
}

func (i imageSeam) Import(ctx context.Context, r io.Reader, o api.ImportOptions) (api.ImportedImage, error) {
	opts := images.ImportOptions{SHA256: o.SHA256, FileBytes: o.FileBytes}
	if o.Progress != nil {
		opts.Progress = func(p images.ImportProgress) { o.Progress(p.FileRead) }
	}
	m, digest, err := i.store.Import(ctx, r, opts)
	if err != nil {
		return api.ImportedImage{}, imageError(err)
	}
	info, err := i.store.Info(digest)
	if err != nil {
		return api.ImportedImage{}, err
	}
	return api.ImportedImage{Digest: digest, SizeBytes: m.SizeBytes, StoredBytes: info.StoredBytes, SectorBytes: m.SectorBytes}, nil
}

func (i imageSeam) Fetch(ctx context.Context, url string, o api.ImportOptions) (api.ImportedImage, error) {
	body, size, err := i.fetcher.Fetch(ctx, url, images.DefaultMaxBytes)
	if err != nil {
		return api.ImportedImage{}, imageError(err)
	}
	defer body.Close()
	o.FileBytes = size
	return i.Import(ctx, body, o)
}

func (i imageSeam) Delete(digest string) error {
	if err := i.store.Delete(digest); err != nil && !errors.Is(err, images.ErrNotFound) {
		return err
	}
	return nil
}

// imageError makes a refusal of the store one that people get to read.
func imageError(err error) error {
	var refused *images.RefusedError
	var full *images.SpaceError
	switch {
	case errors.As(err, &refused):
		return &fleet.Error{Code: fleet.Invalid, Message: err.Error()}
	case errors.As(err, &full):
		return api.NewProblem(http.StatusInsufficientStorage, err.Error())
	}
	return err
}

// sightingSeam is netboot's sightings as the API sees them.
type sightingSeam struct {
	server     *netboot.Server
	interfaces []netboot.Interface
	more       func() map[string]uint64 // what is counted at the door, before netboot hears of it

	mu    sync.Mutex
	next  int
	heard map[int]func(api.Sighting)
}

func sighting(s netboot.Sighting) api.Sighting {
	return api.Sighting{At: s.At, MAC: s.MAC, Kind: string(s.Kind), Text: s.Text}
}

// publish tells subscribers; they do not block.
func (s *sightingSeam) publish(seen netboot.Sighting) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.heard))
	s.mu.Unlock()
	for _, f := range all {
		f(sighting(seen))
	}
}

func (s *sightingSeam) Subscribe(f func(api.Sighting)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = map[int]func(api.Sighting){}
	}
	s.next++
	id := s.next
	s.heard[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.heard, id)
	}
}

func (s *sightingSeam) Of(mac string) []api.Sighting {
	return convert(s.server.Sightings().Of(mac))
}

func (s *sightingSeam) Recent(n int) []api.Sighting {
	return convert(s.server.Sightings().Recent(n))
}

func convert(in []netboot.Sighting) []api.Sighting {
	out := make([]api.Sighting, len(in))
	for i, s := range in {
		out[i] = sighting(s)
	}
	return out
}

func (s *sightingSeam) Alarms() []string { return s.server.Alarms() }

func (s *sightingSeam) Counters() map[string]uint64 {
	all := s.server.Stats()
	maps.Copy(all, s.more())
	return all
}

func (s *sightingSeam) Transfers() api.Transfers {
	t := s.server.Transfers()
	return api.Transfers{Places: t.Places, Running: t.Running, Waiting: t.Waiting}
}

func (s *sightingSeam) Interfaces() []api.Interface {
	out := []api.Interface{}
	for _, i := range s.interfaces {
		addr, err := netboot.InterfaceAddress(i.Name)
		text := ""
		if err == nil {
			text = addr.String()
		}
		out = append(out, api.Interface{Name: i.Name, Mode: string(i.Mode), Address: text, Range: i.Range.String()})
	}
	return out
}

// netbootInterfaces turns what was configured into what netboot takes.
func netbootInterfaces(in []config.Interface) ([]netboot.Interface, error) {
	var out []netboot.Interface
	for _, c := range in {
		n := netboot.Interface{Name: c.Name, Mode: netboot.Mode(c.Mode)}
		if c.Range != "" {
			r, err := netboot.ParseRange(c.Range)
			if err != nil {
				return nil, fmt.Errorf("interface %s: %w", c.Name, err)
			}
			n.Range = r
		}
		if c.Router != "" {
			n.Router = netip.MustParseAddr(c.Router) // config has checked it
		}
		for _, d := range c.DNS {
			n.DNS = append(n.DNS, netip.MustParseAddr(d))
		}
		out = append(out, n)
	}
	return out, nil
}
