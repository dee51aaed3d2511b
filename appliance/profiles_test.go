package appliance

import (
	"context"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
	"github.com/lpmos/lpmos/netboot"
)

// profileStore has every file of a profile but these.
type profileStore map[string]error

func (s profileStore) OpenFile(_ context.Context, digest string) (io.ReaderAt, error) {
	return strings.NewReader("123456789"), s[digest]
}

const profileMAC = "52:54:00:00:00:0a"

// profileMachine has a machine report to a cluster.
func profileMachine(t *testing.T, n *consensus.Node) *fleet.Machine {
	t.Helper()
	return consensustest.Propose[*fleet.Machine](t, n, fleet.ReportMachine{NewID: "m1", BootID: "b1", SessionHash: "s1", MAC: profileMAC, IP: "10.77.0.120", Inventory: wire.Inventory{
		System: wire.System{Serial: "SN1"}, NICs: []wire.NIC{{Name: "eth0", MAC: profileMAC}},
		Disks: []wire.Disk{{Name: "sda", Serial: "D1", WWN: "naa.5000c500a0b1c2d3", SizeBytes: 8 << 30, LogicalSector: 512, Contents: wire.Contents{Table: "gpt"}}}}})
}

// Three nodes that a machine may ask at once: one of them gives it the profile, once, and
// all others leave it to its disk.
func TestAProfileIsGivenOnceByAllNodesTogether(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	leader := c.Nodes[c.Leader()]
	profileMachine(t, leader)
	consensustest.Propose[*fleet.Machine](t, leader, fleet.AskBoot{ID: "w1", MachineID: "m1", Profile: "rescue", Token: "tok1", By: "ann"})
	at := netip.MustParseAddrPort("10.77.0.1:80")
	machine := netboot.Machine{MAC: profileMAC, Addr: netip.MustParseAddr("10.77.0.120")}
	var wg sync.WaitGroup
	var mu sync.Mutex
	given := 0
	var d netboot.Decision
	for _, n := range c.Nodes {
		c.Until("every node knows what is asked", func() bool {
			d = fleetSeam{n, time.Now}.Decide(t.Context(), machine)
			return d.Action == netboot.BootProfile
		})
	}
	for _, n := range c.Nodes {
		for range 4 {
			wg.Go(func() {
				p, err := profileSeam{n, profileStore{}, time.Now}.Take(t.Context(), machine, d, at)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					given++
					if p.Name != "rescue" || p.Kind != netboot.ProfileRescue {
						t.Errorf("it is given %+v", p)
					}
				}
			})
		}
	}
	wg.Wait()
	if given != 1 {
		t.Errorf("of 12 that asked %d were given the profile", given)
	}
	for _, n := range c.Nodes {
		c.Until("every node knows that it was taken", func() bool {
			return fleetSeam{n, time.Now}.Decide(t.Context(), machine).Action == netboot.BootLocal
		})
	}
}

// A node without a majority gives out no profile, and its machines boot their disks.
func TestACutOffNodeGivesOutNoProfile(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	leader := c.Nodes[c.Leader()]
	profileMachine(t, leader)
	consensustest.Propose[*fleet.Machine](t, leader, fleet.AskBoot{ID: "w1", MachineID: "m1", Profile: "rescue", Token: "tok1", By: "ann"})
	alone := c.Nodes[c.Others(c.Leader())[0]]
	machine := netboot.Machine{MAC: profileMAC, Addr: netip.MustParseAddr("10.77.0.120")}
	var d netboot.Decision
	c.Until("it knows what is asked", func() bool {
		d = fleetSeam{alone, time.Now}.Decide(t.Context(), machine)
		return d.Wish != nil
	})
	c.Isolate(c.Others(c.Leader())[0])
	if p, err := (profileSeam{alone, profileStore{}, time.Now}).Take(t.Context(), machine, d, netip.MustParseAddrPort("10.77.0.1:80")); err == nil {
		t.Errorf("it gives out %+v", p)
	}
}

// What a node cannot serve it does not hand over: the machine boots its disk, the wish stands,
// and the machine is given it as soon as the files are there.
func TestAProfileIsNotGivenWithoutItsFiles(t *testing.T) {
	node := consensustest.Node(t)
	profileMachine(t, node)
	consensustest.Propose[*fleet.Profile](t, node, fleet.PutProfile{Profile: fleet.Profile{Name: "live", Kind: fleet.ProfileKernel,
		Kernel:  &fleet.ProfileFile{Name: "linux", Digest: strings.Repeat("aa", 32), SizeBytes: 9},
		Initrds: []fleet.ProfileFile{{Name: "initrd.gz", Digest: strings.Repeat("bb", 32), SizeBytes: 9}}}})
	consensustest.Propose[*fleet.Machine](t, node, fleet.AskBoot{ID: "w1", MachineID: "m1", Profile: "live", Token: "tok1", By: "ann"})
	gone := profileStore{strings.Repeat("bb", 32): images.ErrNotYet}
	b := asFirmwareWith(t, node, profileMAC, gone)
	b.times(2, "local", "without the profile's initramfs")
	said := ""
	for _, s := range b.seen.Of(profileMAC) {
		said += s.Text + "\n"
	}
	if !strings.Contains(said, "was told to boot its own disk: not into profile live: file initrd.gz of it cannot be had here: ") {
		t.Errorf("its timeline says\n%s", said)
	}
	delete(gone, strings.Repeat("bb", 32))
	if got := b.script(); !strings.Contains(got, "booting profile live, once") {
		t.Errorf("with its files it is told\n%s", got)
	}
}

// Firmware's UUID goes with the wish, in both orders of its bytes.
func TestAProfileIsGivenToTheMachineWithTheUUID(t *testing.T) {
	const uuid, swapped = "12345678-abcd-cdef-0102-030405060708", "78563412-cdab-efcd-0102-030405060708"
	for told, given := range map[string]bool{uuid: true, swapped: true, "": true, "22345678-abcd-cdef-0102-030405060708": false} {
		node := consensustest.Node(t)
		consensustest.Propose[*fleet.Machine](t, node, fleet.ReportMachine{NewID: "m1", BootID: "b1", SessionHash: "s1", MAC: profileMAC, IP: "10.77.0.120", Inventory: wire.Inventory{
			System: wire.System{Serial: "SN1", UUID: uuid}, NICs: []wire.NIC{{Name: "eth0", MAC: profileMAC}},
			Disks: []wire.Disk{{Name: "sda", Serial: "D1", WWN: "naa.5000c500a0b1c2d3", SizeBytes: 8 << 30, LogicalSector: 512, Contents: wire.Contents{Table: "gpt"}}}}})
		consensustest.Propose[*fleet.Machine](t, node, fleet.AskBoot{ID: "w1", MachineID: "m1", Profile: "rescue", Token: "tok1", By: "ann"})
		if got := asFirmware(t, node, profileMAC).scriptOf(told); strings.Contains(got, "booting profile rescue") != given {
			t.Errorf("firmware with UUID %q is told\n%s", told, got)
		}
	}
}

// A whole boot as firmware asks for it: the profile with its URLs filled in, the answer
// file for this machine, the word from the installed system, and the disk from then on.
func TestAnInstallerIsGivenItsAnswers(t *testing.T) {
	node := consensustest.Node(t)
	m := profileMachine(t, node)
	consensustest.Propose[*fleet.Profile](t, node, fleet.PutProfile{Profile: fleet.Profile{Name: "d-i", Kind: fleet.ProfileKernel, Erases: true,
		Kernel:  &fleet.ProfileFile{Name: "linux", Digest: strings.Repeat("aa", 32), SizeBytes: 9},
		Initrds: []fleet.ProfileFile{{Name: "initrd.gz", Digest: strings.Repeat("bb", 32), SizeBytes: 9}},
		Args:    "url={{answers}}preseed.cfg", Answers: []fleet.AnswerFile{{Name: "preseed.cfg", Text: "disk {{disk}} for {{name}}, up {{up}}"}}}})
	plan, err := fleet.ProfilePlan(m, profileOf(node, "d-i"), "")
	if err != nil {
		t.Fatal(err)
	}
	b := asFirmware(t, node, profileMAC)
	b.times(2, "local", "before")
	consensustest.Propose[*fleet.Machine](t, node, fleet.AskBoot{ID: "w1", MachineID: "m1", Profile: "d-i", Token: "tok1", By: "ann",
		Approve: &fleet.Decision{PlanHash: plan.Hash(), ConfirmSerial: "D1", By: "ann"}})
	b.times(1, "agent", "before its agent has looked again")
	profileMachine(t, node)
	got := b.script()
	for _, want := range []string{
		"kernel http://10.77.0.1:80/boot/file/" + strings.Repeat("aa", 32) + "/linux initrd=initrd0 url=http://10.77.0.1:80/boot/answer/tok1/preseed.cfg || goto local\n",
		"initrd --name initrd0 http://10.77.0.1:80/boot/file/" + strings.Repeat("bb", 32) + "/initrd.gz || goto local\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it is told\n%s\nwant\n%s", got, want)
		}
	}
	if got, want := b.get("/boot/answer/tok1/preseed.cfg"), "disk /dev/disk/by-id/wwn-0x5000c500a0b1c2d3 for sn1, up http://10.77.0.1:80/up/tok1"; got != want {
		t.Errorf("its answers are %q, want %q", got, want)
	}
	b.times(50, "local", "netbooted again")
	consensustest.Propose[*fleet.Machine](t, node, fleet.ReportUp{PhoneToken: "tok1", Hostname: "web1"})
	b.times(3, "local", "when it came up")
	if got := b.get("/boot/answer/tok1/preseed.cfg"); strings.Contains(got, "disk") {
		t.Errorf("after that its answers are %q", got)
	}
}

func profileOf(n *consensus.Node, name string) (p *fleet.Profile) {
	n.View(func(s *fleet.State) { p = s.Profile(name) })
	return p
}
