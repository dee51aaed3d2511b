package install

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/grant/granttest"
	"github.com/lpmos/lpmos/agent/wire"
)

// good is what is asked before the first byte where a test is not about grants.
func good() error { return nil }

// S33: a machine is given every kind of grant that is not the cluster's for it, for
// this disk and for now. Each goes the whole way of the agent, from the signature to
// the installer, and not one byte of the disk is written.
func TestS33_WithoutAGoodGrantNotAByteIsWritten(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const size = 32 * mib
	src := newSource(t, gptImage(t, 17*mib), 512)
	type world struct {
		now    time.Time
		signed wire.SignedGrant
		id     string // of the machine
		wait   time.Duration
		disks  []Candidate
	}
	var w *world
	ours := granttest.New(t, func() time.Time {
		if w == nil {
			return noon
		}
		return w.now
	})
	foreign := granttest.New(t, func() time.Time { return noon })
	approvedGrant := ours.Fill(grantFor(src.man, size, wire.Contents{Table: "mbr"}))
	regrant := func(change func(*wire.Grant)) wire.SignedGrant {
		g := approvedGrant
		change(&g)
		return ours.Sign(g)
	}
	marked := func(issued int64) []Candidate {
		c := approved(approvedGrant, "")
		c.Contents.Marker = &wire.Marker{MachineID: "m1", TaskID: "another", Generation: 1, Issued: issued}
		return []Candidate{c}
	}
	for _, c := range []struct {
		name   string
		change func(*world)
		writes bool
	}{
		{"as it was approved", func(*world) {}, true},
		{"altered", func(w *world) {
			w.signed.Payload = []byte(strings.Replace(string(w.signed.Payload), `"task_id":"task-1"`, `"task_id":"task-2"`, 1))
		}, false},
		{"signature of another grant", func(w *world) {
			w.signed.Signature = regrant(func(g *wire.Grant) { g.Generation++ }).Signature
		}, false},
		{"not signed", func(w *world) { w.signed.Signature = nil }, false},
		{"expired", func(w *world) { w.now = noon.Add(wire.GrantLife) }, false},
		{"expired while the image was waited for", func(w *world) { w.wait = wire.GrantLife }, false},
		{"the clock set back meanwhile", func(w *world) { w.wait = -time.Hour }, false},
		{"other machine", func(w *world) { w.id = "m2" }, false},
		{"other cluster", func(w *world) { w.signed = foreign.Sign(foreign.Fill(approvedGrant)) }, false},
		{"says another cluster", func(w *world) {
			w.signed = regrant(func(g *wire.Grant) { g.Cluster = foreign.Pin.Cluster() })
		}, false},
		{"other disk granted", func(w *world) {
			w.signed = regrant(func(g *wire.Grant) { g.Plan.Erase.Serial, g.PlanHash = "SN2", ""; g.PlanHash = g.Plan.Hash() })
		}, false},
		{"other disk in the machine", func(w *world) {
			other := approved(approvedGrant, "")
			other.Serial, other.WWN = "SN2", "0x2"
			w.disks = []Candidate{other}
		}, false},
		{"write-protected", func(w *world) { w.disks[0].ReadOnly = true }, false},
		{"mounted", func(w *world) { w.disks[0].InUse = "mounted on /mnt" }, false},
		{"installed by another task a second later", func(w *world) { w.disks = marked(approvedGrant.Issued + 1) }, false},
		{"installed by another task in the same second", func(w *world) { w.disks = marked(approvedGrant.Issued) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w = &world{now: noon, signed: ours.Sign(approvedGrant), id: approvedGrant.Plan.MachineID, disks: []Candidate{approved(approvedGrant, "")}}
			c.change(w)
			disk := newMemDisk(size, 512)
			noise(disk.view, 9)
			copy(disk.medium, disk.view)
			was := digest(disk.view)
			g, allowed, err := ours.Checker().Open(&w.signed, w.id)
			if err == nil {
				w.now = w.now.Add(w.wait)
				err = installTo(t.Context(), g, src, disk, func(o *Options) {
					o.Allowed = allowed
					o.Disks = func() ([]Candidate, error) { return w.disks, nil }
				})
			}
			if (err == nil) != c.writes {
				t.Errorf("it ended with %v", err)
			}
			if (disk.writes > 0) != c.writes || (digest(disk.view) != was) != c.writes {
				t.Errorf("%d writes after %v", disk.writes, err)
			}
		})
	}
	t.Run("nobody has checked it", func(t *testing.T) {
		disk := newMemDisk(size, 512)
		err := installTo(t.Context(), approvedGrant, src, disk, func(o *Options) { o.Allowed = nil })
		if err == nil || disk.writes > 0 {
			t.Errorf("%d writes, %v", disk.writes, err)
		}
	})
}

// An install done while a clock was ahead may be replaced by who has seen it, and by
// nobody else.
func TestWhatWasSeenIsNotLaterThanTheGrant(t *testing.T) {
	src := newSource(t, gptImage(t, 17*mib), 512)
	ahead := wire.Marker{MachineID: "m1", TaskID: "another", Generation: 1, Issued: 9000}
	later := ahead
	later.Issued++
	for _, c := range []struct {
		name          string
		marked, noted wire.Marker
		ok            bool
	}{{"as it was seen", ahead, ahead, true}, {"another marker", later, ahead, false}, {"another journal", ahead, later, false}} {
		g := grantFor(src.man, 32*mib, wire.Contents{Table: "mbr", Marker: &ahead})
		g.Issued = 1000
		disk := oldDisk(32*mib, 512)
		if err := (journal{Marker: c.noted, State: stateCommitting}).write(disk); err != nil {
			t.Fatal(err)
		}
		writes := disk.writes
		err := installTo(t.Context(), g, src, disk, func(o *Options) {
			o.Inspect = func(Candidate) (wire.Contents, error) {
				return wire.Contents{Table: "mbr", Marker: &c.marked}, nil
			}
		})
		if (err == nil) != c.ok || (disk.writes > writes) != c.ok || !c.ok && !errors.Is(err, ErrGrantLate) {
			t.Errorf("%s: %d writes, %v", c.name, disk.writes-writes, err)
		}
	}
}

// A machine that is started again within its install gets another grant for it,
// which is younger, and goes on with it.
func TestALaterGrantForTheSameWorkGoesOn(t *testing.T) {
	src := newSource(t, gptImage(t, 17*mib), 512)
	disk := newMemDisk(32*mib, 512)
	g := grantFor(src.man, 32*mib, wire.Contents{Table: "mbr"})
	g.Issued = 1000
	disk.writesLeft = 10
	if err := installTo(t.Context(), g, src, disk, nil); err == nil {
		t.Fatal("the power did not go")
	}
	disk = disk.afterPowerLoss(rand.New(rand.NewPCG(1, 2)))
	g.Issued = 2000
	if err := installTo(t.Context(), g, src, disk, nil); err != nil {
		t.Fatal(err)
	}
	kept, found, err := readJournal(disk)
	if err != nil || !found || kept.Marker.Issued != 2000 {
		t.Errorf("the journal is %+v (%v, %v)", kept, found, err)
	}
}
