package appliance

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

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
type fleetSeam struct {
	cluster *consensus.Node
	now     func() time.Time
}

func (f fleetSeam) Decide(_ context.Context, m netboot.Machine) netboot.Decision {
	var d fleet.BootDecision
	var t *fleet.Task
	var machine *fleet.Machine
	look := func() {
		f.cluster.View(func(s *fleet.State) {
			d = s.BootAt(m.MAC, f.now())
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
	out := netboot.Decision{Action: netboot.Action(d.Action), MachineID: d.MachineID, Name: d.Name,
		Reason: d.Reason, LocalDrive: d.LocalDrive, SecureBoot: d.SecureBoot, Counted: d.MachineID != "" || t != nil}
	if d.Once != nil {
		out.Wish = &netboot.Wish{ID: d.Once.ID, Profile: d.Once.Profile}
	}
	return out
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
			text = m.AddressOf(mac)
		}
	})
	addr, err := netip.ParseAddr(text)
	return addr, err == nil
}

// owners are the machines known by the ids, which are in small letters.
func (f fleetSeam) owners(ids []string) map[string][]netboot.Owner {
	out := map[string][]netboot.Owner{}
	f.cluster.View(func(s *fleet.State) {
		for _, m := range s.Machines() {
			for _, id := range []string{m.IDs.UUID, strings.ToLower(m.IDs.Serial)} {
				if id != "" && slices.Contains(ids, id) && len(m.IDs.MACs) > 0 {
					out[id] = append(out[id], netboot.Owner{Name: m.Name, Card: cmp.Or(m.AgentMAC, m.IDs.MACs[0])})
				}
			}
		}
	})
	return out
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
	arch, err := i.store.Architecture(digest)
	if err != nil {
		return api.ImportedImage{}, err
	}
	return api.ImportedImage{Digest: digest, SizeBytes: m.SizeBytes, StoredBytes: info.StoredBytes, SectorBytes: m.SectorBytes, Arch: arch}, nil
}

func (i imageSeam) ImportFile(ctx context.Context, r io.Reader, o api.ImportOptions) (string, uint64, error) {
	digest, size, err := i.store.ImportFile(ctx, r, images.ImportOptions{FileBytes: o.FileBytes, MaxBytes: o.MaxBytes})
	return digest, size, imageError(err)
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

// leaseSeam is netboot's book of leases as the API sees it.
type leaseSeam struct{ server *netboot.Server }

func lease(h netboot.Holding) api.Lease {
	return api.Lease{Address: h.Addr.String(), State: h.State, MAC: h.MAC, Until: h.Until, Why: h.Why}
}

func (s leaseSeam) Leases() []api.Lease {
	table := s.server.LeaseTable()
	out := make([]api.Lease, len(table))
	for i, h := range table {
		out[i] = lease(h)
	}
	return out
}

func (s leaseSeam) Release(addr netip.Addr) (api.Lease, bool, error) {
	was, err := s.server.FreeLease(addr)
	if errors.Is(err, netboot.ErrNoLease) {
		return api.Lease{}, false, nil
	}
	return lease(was), err == nil, err
}

func (s leaseSeam) Objection(addr netip.Addr, macs, ids []string) string {
	return s.server.Objection(addr, macs, ids)
}

// netbootInterfaces turns what was configured into what netboot takes.
func netbootInterfaces(in []config.Interface) ([]netboot.Interface, error) {
	var out []netboot.Interface
	for _, c := range in {
		n, err := c.Netboot()
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}
