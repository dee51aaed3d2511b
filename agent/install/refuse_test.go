package install

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestChoose(t *testing.T) {
	disk := func(name, wwn, serial string, size uint64) Candidate {
		return Candidate{Disk: wire.Disk{Name: name, WWN: wwn, Serial: serial, SizeBytes: size}}
	}
	a, b := disk("sda", "w1", "s1", 100), disk("sdb", "w2", "s2", 100)
	removable, readOnly, mounted := a, a, a
	removable.Removable, readOnly.ReadOnly, mounted.InUse = true, true, "mounted on /mnt"
	for _, c := range []struct {
		name  string
		disks []Candidate
		want  wire.DiskID
		found string
		code  string
	}{
		{"by both", []Candidate{a, b}, wire.DiskID{WWN: "w2", Serial: "s2", SizeBytes: 100}, "sdb", ""},
		{"the plan names no WWN", []Candidate{a, b}, wire.DiskID{Serial: "s1", SizeBytes: 100}, "sda", ""},
		{"the plan names no serial", []Candidate{a, b}, wire.DiskID{WWN: "w1", SizeBytes: 100}, "sda", ""},
		{"names swapped", []Candidate{disk("sdb", "w1", "s1", 100), disk("sda", "w2", "s2", 100)}, wire.DiskID{WWN: "w1", Serial: "s1", SizeBytes: 100}, "sdb", ""},
		{"another serial", []Candidate{a, b}, wire.DiskID{WWN: "w1", Serial: "s2", SizeBytes: 100}, "", wire.CodePlanMismatch},
		{"the WWN is gone", []Candidate{disk("sda", "", "s1", 100)}, wire.DiskID{WWN: "w1", Serial: "s1", SizeBytes: 100}, "", wire.CodePlanMismatch},
		{"another size", []Candidate{a, b}, wire.DiskID{WWN: "w1", Serial: "s1", SizeBytes: 101}, "", wire.CodePlanMismatch},
		{"no disk", nil, wire.DiskID{WWN: "w1", SizeBytes: 100}, "", wire.CodePlanMismatch},
		{"two answer", []Candidate{a, disk("sdc", "w3", "s1", 100)}, wire.DiskID{Serial: "s1", SizeBytes: 100}, "", wire.CodePlanMismatch},
		{"nothing but a size", []Candidate{a}, wire.DiskID{SizeBytes: 100}, "", wire.CodePlanMismatch},
		{"removable, as the person who named it was told", []Candidate{removable, b}, a.ID(), "sda", ""},
		{"write-protected", []Candidate{readOnly}, a.ID(), "", wire.CodeDiskError},
		{"mounted", []Candidate{mounted}, a.ID(), "", wire.CodeDiskBusy},
	} {
		got, err := choose(c.disks, c.want)
		switch {
		case c.code == "" && (err != nil || got.Name != c.found):
			t.Errorf("%s: %s, %v, want %s", c.name, got.Name, err, c.found)
		case c.code != "" && code(err) != c.code:
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
}

// code is the code of a task's error.
func code(err error) string {
	var e *wire.TaskError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Each of these is refused, and not one byte of the disk is written.
func TestRefuses(t *testing.T) {
	image := gptImage(t, 17*mib)
	const size = 32 * mib
	src := newSource(t, image, 512)
	good := grantFor(src.man, size, wire.Contents{Table: "mbr"})
	regrant := func(change func(*wire.Plan)) wire.Grant {
		g := good
		change(&g.Plan)
		g.PlanHash = g.Plan.Hash()
		return g
	}
	noTable := newSource(t, append([]byte("not a disk"), make([]byte, 17*mib-10)...), 512)
	zeros := newSource(t, make([]byte, 17*mib), 512)
	broken := append([]byte(nil), image...)
	broken[512+60]++ // in the GPT's header
	brokenSrc := newSource(t, broken, 512)

	for _, c := range []struct {
		name   string
		grant  wire.Grant
		src    *memSource
		disk   *memDisk
		change func(*Options)
		code   string
		says   string
	}{
		{name: "another plan hash", grant: func() wire.Grant { g := good; g.PlanHash = "x"; return g }(), code: wire.CodePlanMismatch},
		{name: "a plan changed after it was approved", grant: func() wire.Grant { g := good; g.Plan.FirstBoot.Hostname = "x"; return g }(), code: wire.CodePlanMismatch},
		{name: "another disk", grant: good, code: wire.CodePlanMismatch, says: "not in this machine",
			change: func(o *Options) {
				o.Disks = func() ([]Candidate, error) {
					c := approved(good, "")
					c.Serial = "SN2"
					return []Candidate{c}, nil
				}
			}},
		{name: "another disk under its name once it is open", grant: good, code: wire.CodePlanMismatch, says: "changed while they were looked at",
			change: func(o *Options) {
				looks := 0
				o.Disks = func() ([]Candidate, error) {
					if looks++; looks == 1 {
						return []Candidate{approved(good, "/dev/sda")}, nil
					}
					other := approved(good, "/dev/sda")
					other.Serial, other.WWN = "SN2", ""
					return []Candidate{other, approved(good, "/dev/sdb")}, nil
				}
			}},
		{name: "other contents once it is open", grant: good, code: wire.CodePlanMismatch, says: "approve it anew",
			change: func(o *Options) {
				looks := 0
				o.Disks = func() ([]Candidate, error) {
					c := approved(good, "")
					if looks++; looks > 1 {
						c.Contents = wire.Contents{Table: "gpt"}
					}
					return []Candidate{c}, nil
				}
			}},
		{name: "other contents", grant: good, code: wire.CodePlanMismatch, says: "approve it anew",
			change: func(o *Options) {
				o.Inspect = func(Candidate) (wire.Contents, error) { return wire.Contents{Table: "gpt"}, nil }
			}},
		{name: "unreadable contents", grant: good, code: wire.CodeDiskError,
			change: func(o *Options) {
				o.Inspect = func(Candidate) (wire.Contents, error) { return wire.Contents{}, errors.New("medium error") }
			}},
		{name: "the device is of another size", grant: good, disk: newMemDisk(size+512, 512), code: wire.CodePlanMismatch},
		{name: "too small", grant: grantFor(src.man, 24*mib, wire.Contents{Table: "mbr"}), disk: newMemDisk(24*mib, 512), code: wire.CodeDiskTooSmall},
		{name: "much too small", grant: grantFor(src.man, mib, wire.Contents{Table: "mbr"}), disk: newMemDisk(mib, 512), code: wire.CodeDiskTooSmall},
		{name: "a 4Kn disk and an image that is not", grant: good, disk: newMemDisk(size, 4096), code: wire.CodeImageError, says: "sectors of 4096"},
		{name: "another image", grant: regrant(func(p *wire.Plan) { p.Image.Digest = strings.Repeat("0", 64) }), code: wire.CodeImageError},
		{name: "another image size", grant: regrant(func(p *wire.Plan) { p.Image.SizeBytes++ }), code: wire.CodePlanMismatch},
		{name: "no table", grant: grantFor(noTable.man, size, wire.Contents{Table: "mbr"}), src: noTable, code: wire.CodeImageError, says: "cannot be made to start"},
		{name: "nothing but zeros", grant: grantFor(zeros.man, size, wire.Contents{Table: "mbr"}), src: zeros, code: wire.CodeImageError},
		{name: "a broken table", grant: grantFor(brokenSrc.man, size, wire.Contents{Table: "mbr"}), src: brokenSrc, code: wire.CodeImageError},
		{name: "user-data too large", grant: regrant(func(p *wire.Plan) { p.FirstBoot.UserData = strings.Repeat("#", 5*mib) }), code: wire.CodeBootSetup},
		{name: "the disk cannot be opened", grant: good, code: wire.CodeDiskError,
			change: func(o *Options) {
				o.Open = func(Candidate) (Device, error) { return nil, errors.New("no such device") }
			}},
		{name: "the disks cannot be listed", grant: good, code: wire.CodeInternal,
			change: func(o *Options) { o.Disks = func() ([]Candidate, error) { return nil, errors.New("no sysfs") } }},
		{name: "a used grant, by the marker", grant: good, code: wire.CodePlanMismatch, says: "already used",
			change: func(o *Options) {
				o.Inspect = func(Candidate) (wire.Contents, error) {
					m := marker(good)
					return wire.Contents{Table: "gpt", Marker: &m}, nil
				}
			}},
		{name: "a later grant's journal", grant: good, code: wire.CodePlanMismatch, says: "already used",
			disk: func() *memDisk {
				d := newMemDisk(size, 512)
				j := journal{Marker: marker(good), State: stateWiping}
				j.Marker.Generation++
				if err := j.write(d); err != nil {
					t.Fatal(err)
				}
				return d
			}()},
		{name: "the node knows no such image", grant: good, code: wire.CodeImageError, says: "gone",
			change: func(o *Options) { o.Source = noImage{} }},
	} {
		if c.src == nil {
			c.src = src
		}
		if c.disk == nil {
			c.disk = oldDisk(size, 512)
		}
		writes := c.disk.writes
		err := installTo(context.Background(), c.grant, c.src, c.disk, c.change)
		if code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s with %q", c.name, err, c.code, c.says)
		}
		if c.disk.writes != writes {
			t.Errorf("%s: the disk was written", c.name)
		}
		var told *wire.TaskError
		if errors.As(err, &told) && told.Code != wire.CodePlanMismatch && !told.Untouched {
			t.Errorf("%s: it is not told that the disk was not written", c.name)
		}
	}
}

// noImage is a node without the image.
type noImage struct{ Source }

func (noImage) Manifest(context.Context, string) (wire.Manifest, error) {
	return wire.Manifest{}, &wire.TaskError{Code: wire.CodeImageError, Message: "the image is gone"}
}

// A run that fails before its first byte does not speak for the one before it.
func TestWhatAnEarlierRunHasWrittenIsNotUntouched(t *testing.T) {
	src := newSource(t, gptImage(t, 17*mib), 512)
	g := grantFor(src.man, 32*mib, wire.Contents{Table: "mbr"})
	disk := oldDisk(32*mib, 512)
	disk.writesLeft = 10
	first := installTo(t.Context(), g, src, disk, nil)
	disk = disk.afterPowerLoss(rand.New(rand.NewPCG(1, 2)))
	second := installTo(t.Context(), g, noImage{}, disk, nil)
	for _, err := range []error{first, second} {
		var told *wire.TaskError
		if !errors.As(err, &told) || told.Untouched {
			t.Errorf("it ended with %+v", err)
		}
	}
}

// A journal of this grant gives no leave to erase what came to the disk later.
func TestAJournalIsNoLeaveToErase(t *testing.T) {
	src := newSource(t, gptImage(t, 17*mib), 512)
	const size = 32 * mib
	g := grantFor(src.man, size, wire.Contents{})
	d := newMemDisk(size, 512)
	j := journal{Marker: marker(g), PlanHash: g.PlanHash, State: stateWriting}
	if err := j.write(d); err != nil {
		t.Fatal(err)
	}
	d.view[510], d.view[511] = 0x55, 0xaa // somebody has put a system there
	writes := d.writes
	err := installTo(context.Background(), g, src, d, func(o *Options) { o.Inspect = looks(d) })
	if code(err) != wire.CodePlanMismatch || d.writes != writes {
		t.Errorf("%v after %d writes", err, d.writes-writes)
	}
}

func TestOfTwoDisksOneIsWritten(t *testing.T) {
	image := gptImage(t, 17*mib)
	const size = 32 * mib
	src := newSource(t, image, 512)
	g := grantFor(src.man, size, wire.Contents{})
	right, wrong := newMemDisk(size, 512), newMemDisk(size, 512)
	a := approved(g, "right")
	b := a
	b.Path, b.Serial, b.WWN = "wrong", "SN2", "wwn-2"
	err := installTo(context.Background(), g, src, nil, func(o *Options) {
		o.Disks = func() ([]Candidate, error) { return []Candidate{b, a}, nil }
		o.Open = func(c Candidate) (Device, error) {
			return map[string]*memDisk{"right": right, "wrong": wrong}[c.Path], nil
		}
	})
	if err != nil || right.writes == 0 || wrong.writes != 0 {
		t.Errorf("%v, %d and %d writes", err, right.writes, wrong.writes)
	}
}
