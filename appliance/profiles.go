package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// profileSeam is what machines may be booted into once, as netboot asks for it: the rules
// and the templates are the fleet's, the files lie in the image store.
type profileSeam struct {
	cluster *consensus.Node
	files   profileFiles
	now     func() time.Time
}

// profileFiles are the files of profiles, here or at another node.
type profileFiles interface {
	OpenFile(ctx context.Context, digest string) (io.ReaderAt, error)
}

// Take fills in the profile's templates and looks for its files before the wish is taken:
// what cannot be filled in or served takes nothing.
func (s profileSeam) Take(ctx context.Context, m netboot.Machine, d netboot.Decision, node netip.AddrPort) (netboot.Profile, error) {
	var out netboot.Profile
	var files []fleet.ProfileFile
	var err error
	s.cluster.View(func(st *fleet.State) {
		if out, err = profileFor(st, m, d, node); err == nil {
			files = st.Profile(out.Name).AllFiles()
		}
	})
	if err != nil {
		return netboot.Profile{}, err
	}
	for _, f := range files {
		if _, err := s.files.OpenFile(ctx, f.Digest); err != nil {
			return netboot.Profile{}, fmt.Errorf("file %s of it cannot be had here: %w", f.Name, err)
		}
	}
	if _, err := s.cluster.Propose(ctx, fleet.TakeBoot{MAC: m.MAC, ID: d.Wish.ID, UUIDs: m.UUIDs()}); err != nil {
		return netboot.Profile{}, err
	}
	return out, nil
}

// profileFor is the profile that a machine is asked to boot, as netboot boots it.
func profileFor(st *fleet.State, m netboot.Machine, d netboot.Decision, node netip.AddrPort) (netboot.Profile, error) {
	machine := st.MachineByMAC(m.MAC)
	if machine == nil || machine.NextBoot == nil || machine.NextBoot.ID != d.Wish.ID {
		return netboot.Profile{}, errors.New("it is not asked for any more")
	}
	p := st.Profile(machine.NextBoot.Profile)
	if p == nil {
		return netboot.Profile{}, fmt.Errorf("there is no profile %s", machine.NextBoot.Profile)
	}
	base := "http://" + node.String()
	values := fleet.Values{Node: base, MAC: m.MAC, Addr: m.Addr.String(), Token: machine.NextBoot.Token}
	url := func(f *fleet.ProfileFile) string {
		if f == nil {
			return ""
		}
		return base + fleet.FilePath + f.Digest + "/" + f.Name
	}
	out := netboot.Profile{Name: p.Name, Kind: netboot.ProfileKind(p.Kind), Kernel: url(p.Kernel), BIOS: url(p.BIOS), UEFI: url(p.UEFI)}
	for _, f := range p.Initrds {
		out.Initrds = append(out.Initrds, url(&f))
	}
	disk := machine.NextBoot.EraseDisk()
	var err, err2 error
	out.Args, err = p.Expand(p.Args, machine, values, disk)
	out.Script, err2 = p.Expand(p.Script, machine, values, disk)
	return out, errors.Join(err, err2)
}

// Answer makes an answer file.
func (s profileSeam) Answer(token, name string, node netip.AddrPort, from netip.Addr) (text, mac string, err error) {
	s.cluster.View(func(st *fleet.State) {
		var m *fleet.Machine
		if text, m, err = st.AnswerFor(token, name, "http://"+node.String(), from.String(), s.now()); err == nil {
			mac = m.LastBoot.MAC
		}
	})
	return text, mac, err
}

// File gives a file that some profile is made of, and nothing else out of the image store.
func (s profileSeam) File(ctx context.Context, digest string) (io.ReaderAt, int64, error) {
	size := uint64(0)
	s.cluster.View(func(st *fleet.State) {
		for _, p := range st.MadeProfiles() {
			for _, f := range p.AllFiles() {
				if f.Digest == digest {
					size = f.SizeBytes
				}
			}
		}
	})
	if size == 0 {
		return nil, 0, netboot.ErrNoBootFile
	}
	f, err := s.files.OpenFile(ctx, digest)
	return f, int64(size), err
}

// lapseBoots writes down which machines did not netboot in time.
func lapseBoots(ctx context.Context, cluster interface {
	Propose(context.Context, fleet.Body) (any, error)
	View(func(*fleet.State))
}, now time.Time) error {
	var over []fleet.LapseBoot
	cluster.View(func(st *fleet.State) { over = st.LapsedBoots(now) })
	for _, b := range over {
		if _, err := cluster.Propose(ctx, b); err != nil {
			return err
		}
	}
	return nil
}
