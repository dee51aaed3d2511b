package fleet

import (
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

func disk(serial string, gigabytes uint64, change ...func(*wire.Disk)) wire.Disk {
	d := wire.Disk{Name: "sd-" + serial, Serial: serial, SizeBytes: gigabytes * gb, LogicalSector: 512}
	for _, c := range change {
		c(&d)
	}
	return d
}

func TestWhichDiskIsErased(t *testing.T) {
	removable := func(d *wire.Disk) { d.Removable = true }
	usb := func(d *wire.Disk) { d.Transport = "usb" }
	fc := func(d *wire.Disk) { d.Transport = "fc" }
	iscsi := func(d *wire.Disk) { d.Transport = "iscsi" }
	readOnly := func(d *wire.Disk) { d.ReadOnly = true }
	native4k := func(d *wire.Disk) { d.LogicalSector = 4096 }
	unreadable := func(d *wire.Disk) { d.Contents.Unreadable = "I/O error" }
	wwn := func(w string) func(*wire.Disk) { return func(d *wire.Disk) { d.WWN = w } }
	whole := func(s string) func(*wire.Disk) { return func(d *wire.Disk) { d.Contents.Signatures = []string{s} } }
	part := func(s string) func(*wire.Disk) {
		return func(d *wire.Disk) { d.Contents.Partitions = []wire.Partition{{Filesystem: s}} }
	}
	cases := []struct {
		name  string
		disks []wire.Disk
		named string
		want  string // serial
		code  Code
		says  string // in the error, or in the warnings
	}{
		{"the only one", []wire.Disk{disk("A", 100)}, "", "A", "", ""},
		{"the smallest that fits", []wire.Disk{disk("A", 100), disk("B", 1), disk("C", 50)}, "", "C", "", "smallest of 2"},
		{"the first by id of equal ones", []wire.Disk{disk("B", 50), disk("A", 50)}, "", "A", "", "smallest of 2"},
		{"one that holds an OS", []wire.Disk{disk("A", 100, part("ext4"))}, "", "A", "", ""},
		{"the one named by serial", []wire.Disk{disk("A", 50), disk("B", 100)}, "b", "B", "", ""},
		{"the one named by WWN", []wire.Disk{disk("A", 50), disk("B", 100, wwn("0xABC"))}, "0xabc", "B", "", ""},
		{"exactly the image and the seed", []wire.Disk{{Serial: "A", SizeBytes: 2*gb + SeedBytes}}, "", "A", "", ""},

		{"no disks", nil, "", "", Conflict, "no disk can take"},
		{"named, not there", []wire.Disk{disk("A", 50)}, "Z", "", Invalid, `"Z"`},
		{"two answer to the name", []wire.Disk{disk("A", 50, wwn("X")), disk("X", 60)}, "X", "", Invalid, "2 disks"},
		{"two answer to the name, one of them too small", []wire.Disk{disk("A", 1, wwn("X")), disk("X", 60)}, "X", "", Invalid, "2 disks"},
		{"a byte too small", []wire.Disk{{Serial: "A", SizeBytes: 2*gb + SeedBytes - 1}}, "", "", Conflict, "too small"},
		{"named, too small", []wire.Disk{disk("A", 1)}, "A", "", Conflict, "too small"},
		{"sectors of 4096 bytes", []wire.Disk{disk("A", 50, native4k)}, "", "", Conflict, "4096"},
		{"named, sectors of 4096 bytes", []wire.Disk{disk("A", 50, native4k)}, "A", "", Conflict, "4096"},
		{"read-only", []wire.Disk{disk("A", 50, readOnly)}, "", "", Conflict, "read-only"},
		{"named, read-only", []wire.Disk{disk("A", 50, readOnly)}, "A", "", Conflict, "read-only"},
		{"neither serial nor WWN", []wire.Disk{disk("", 50)}, "", "", Conflict, "mistaken"},
		{"twins that cannot be told apart", []wire.Disk{disk("A", 50), disk("A", 50)}, "", "", Conflict, "mistaken"},
		{"twins are left for a third", []wire.Disk{disk("A", 50), disk("A", 50), disk("B", 90)}, "", "B", "", ""},

		{"removable", []wire.Disk{disk("A", 50, removable)}, "", "", Conflict, "removable"},
		{"on USB", []wire.Disk{disk("A", 50, usb)}, "", "", Conflict, "removable"},
		{"removable, named", []wire.Disk{disk("A", 50, removable)}, "A", "A", "", "removable"},
		{"removable, so the other", []wire.Disk{disk("A", 50, removable), disk("B", 90)}, "", "B", "", ""},
		{"on a storage network", []wire.Disk{disk("A", 50, fc)}, "", "", Conflict, "storage network"},
		{"on a storage network, named", []wire.Disk{disk("A", 50, iscsi)}, "A", "A", "", "storage network"},
		{"on a storage network, so the larger", []wire.Disk{disk("A", 50, iscsi), disk("B", 60, fc), disk("C", 90)}, "", "C", "", ""},
		{"not readable", []wire.Disk{disk("A", 50, unreadable)}, "", "", Conflict, "I/O error"},
		{"not readable, named", []wire.Disk{disk("A", 50, unreadable)}, "A", "A", "", "I/O error"},
	}
	for _, storage := range []string{"vmfs", "gpfs", "zfs", "ceph", "lvm2", "md", "bcache", "luks"} {
		for where, holds := range map[string]func(*wire.Disk){"whole disk": whole(storage), "partition": part(storage)} {
			cases = append(cases, []struct {
				name  string
				disks []wire.Disk
				named string
				want  string
				code  Code
				says  string
			}{
				{storage + " on the " + where, []wire.Disk{disk("A", 50, holds)}, "", "", Conflict, storage},
				{storage + " on the " + where + ", named", []wire.Disk{disk("A", 50, holds)}, "A", "A", "", storage},
				{storage + " on the " + where + ", so the other", []wire.Disk{disk("A", 50, holds), disk("B", 90)}, "", "B", "", ""},
			}...)
		}
	}
	img := debian().Image
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inv := inventory(uuid1, "SER1", []string{mac1}, c.disks...)
			m := &Machine{ID: "m1", Name: "web1", Inventory: &inv, InventoryHash: inv.Hash()}
			p, err := MakePlan(m, Spec{DiskLayout: DiskLayout{Disk: c.named}}, &img)
			if ErrorCode(err) != c.code {
				t.Fatalf("error %v, want code %q", err, c.code)
			}
			if err != nil {
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("the error does not say %q: %v", c.says, err)
				}
				return
			}
			if p.Erase.Serial != c.want {
				t.Errorf("disk %s is erased, want %s", p.Erase.Serial, c.want)
			}
			if len(p.Untouched) != len(c.disks)-1 {
				t.Errorf("%d of the other %d disks are named", len(p.Untouched), len(c.disks)-1)
			}
			if c.says == "" && len(p.Warnings) > 0 || !strings.Contains(strings.Join(p.Warnings, "; "), c.says) {
				t.Errorf("warnings %q, want one that says %q", p.Warnings, c.says)
			}
		})
	}
}

func TestAnImageTooLargeForAnyNumberIsRefused(t *testing.T) {
	img := debian().Image
	img.SizeBytes = ^uint64(0)
	inv := inventory(uuid1, "SER1", []string{mac1}, sda())
	if _, err := MakePlan(&Machine{ID: "m1", Inventory: &inv}, Spec{}, &img); ErrorCode(err) != Conflict {
		t.Errorf("a disk was found for it (%v)", err)
	}
}

func TestTheOrderOfDiscoveryDoesNotChangeAPlan(t *testing.T) {
	plan := func(disks ...wire.Disk) string {
		inv := inventory(uuid1, "SER1", []string{mac1}, disks...)
		img := debian().Image
		p, err := MakePlan(&Machine{ID: "m1", Inventory: &inv, InventoryHash: inv.Hash()}, Spec{}, &img)
		if err != nil {
			t.Fatal(err)
		}
		return p.Hash()
	}
	a, b, c := disk("A", 50), disk("B", 90), disk("C", 90)
	want := plan(a, b, c)
	a.Name, b.Name = b.Name, a.Name
	if got := plan(c, b, a); got != want {
		t.Error("the same disks under other names gave another plan")
	}
}

func TestAnApprovalHoldsForThePlanThatWasSeen(t *testing.T) {
	changes := map[string]struct {
		report func() ReportMachine
		says   string
	}{
		"another disk": {func() ReportMachine { return report("boot-2", disk("Z", 100)) }, "disk to erase is Z"},
		"data where nothing was": {func() ReportMachine { return report("boot-2", withDebian(sda())) },
			"what lies on disk DISK-A has changed"},
		"a disk more": {func() ReportMachine { return report("boot-2", sda(), disk("Z", 900)) }, "the other disks have changed"},
		"no disk":     {func() ReportMachine { return report("boot-2", disk("Z", 1)) }, "no plan to compare"},
	}
	for name, c := range changes {
		t.Run(name+", before the click arrives", func(t *testing.T) {
			r := at(t, wire.StatusPendingApproval)
			click := r.approve("t1")
			r.must(c.report())
			if r.task("t1").Plan == nil {
				r.refused(Conflict, click)
				return
			}
			err := r.refused(Precondition, click)
			if !strings.Contains(strings.Join(err.Changed, "; "), c.says) {
				t.Errorf("it says %q, want %q", err.Changed, c.says)
			}
			r.must(r.approve("t1"))
		})
		t.Run(name+", after the approval", func(t *testing.T) {
			r := at(t, wire.StatusApproved)
			old := r.start("t1")
			r.must(c.report())
			task := r.task("t1")
			if task.Status != wire.StatusNeedsReview || task.Approval != nil {
				t.Fatalf("the task is %s with approval %+v", task.Status, task.Approval)
			}
			if last := task.Logs[len(task.Logs)-1].Text; !strings.Contains(last, c.says) {
				t.Errorf("the milestone %q does not say %q", last, c.says)
			}
			old.SessionHash = "s-boot-2"
			r.refused(Conflict, old)
		})
	}
	t.Run("the same machine after another boot", func(t *testing.T) {
		r := at(t, wire.StatusApproved)
		r.must(report("boot-2"))
		if got := r.task("t1").Status; got != wire.StatusApproved {
			t.Fatalf("the task is %s", got)
		}
		r.must(r.start("t1"))
	})
	t.Run("no hash", func(t *testing.T) {
		r := at(t, wire.StatusPendingApproval)
		r.refused(Precondition, DecideTask{TaskID: "t1", Approved: true})
	})
	t.Run("a hash nobody saw", func(t *testing.T) {
		r := at(t, wire.StatusPendingApproval)
		r.refused(Precondition, DecideTask{TaskID: "t1", Approved: true, PlanHash: "0123456789abcdef"})
	})
	t.Run("another plan than approved at the start", func(t *testing.T) {
		r := at(t, wire.StatusApproved)
		start := r.start("t1")
		start.PlanHash = "x"
		r.refused(Precondition, start)
	})
}

func TestOneClickMakesAndApprovesOrMakesNothing(t *testing.T) {
	r := newRig(t)
	one := create("t1")
	one.Approve = &Decision{PlanHash: "x", By: "ann"}
	r.must(debian())
	r.refused(Conflict, one) // no machine has reported
	r.must(report("b1"))
	r.refused(Precondition, one)

	probe := newRig(t) // what the dialog shows is the plan the task would have
	probe.must(debian(), report("b1"), create("t1"))
	one.Approve.PlanHash = probe.task("t1").PlanHash
	r.must(one)
	if got := r.task("t1"); got.Status != wire.StatusApproved || got.Approval.By != "ann" || r.machine("m1").TaskID != "t1" {
		t.Errorf("the task is %s, approved %+v", got.Status, got.Approval)
	}
}

func TestPlanChangesNamesEveryDifference(t *testing.T) {
	base := wire.Plan{MachineID: "m1", Erase: wire.PlanDisk{DiskID: wire.DiskID{Serial: "A", SizeBytes: gb}}}
	cases := map[string]func(*wire.Plan){
		"another machine": func(p *wire.Plan) { p.MachineID = "m2" },
		"hardware":        func(p *wire.Plan) { p.InventoryHash = "x" },
		"disk to erase":   func(p *wire.Plan) { p.Erase.Serial = "B" },
		"what lies on":    func(p *wire.Plan) { p.Erase.Contents.Table = "gpt" },
		"other disks":     func(p *wire.Plan) { p.Untouched = []wire.PlanDisk{{Name: "sdb"}} },
		"other bytes":     func(p *wire.Plan) { p.Image.Digest = "x" },
		"is told":         func(p *wire.Plan) { p.FirstBoot.Hostname = "x" },
		"ids":             func(p *wire.Plan) { p.SystemUUID = "x" },
	}
	for want, change := range cases {
		changed := base
		change(&changed)
		if got := PlanChanges(&base, &changed); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("said %q, want one sentence with %q", got, want)
		}
	}
	same := base
	same.Erase.Name = "elsewhere"
	if got := PlanChanges(&base, &same); len(got) != 0 {
		t.Errorf("a disk under another name is told as %q", got)
	}
}

func TestWhatATaskMayAskFor(t *testing.T) {
	change := func(f func(*CreateTask)) CreateTask {
		b := create("t1")
		f(&b)
		return b
	}
	for field, b := range map[string]CreateTask{
		"id":                      change(func(b *CreateTask) { b.ID = "" }),
		"target_mac":              change(func(b *CreateTask) { b.TargetMAC = "52-54-00-00-00-01" }),
		"os_type":                 change(func(b *CreateTask) { b.Spec.OSType = "plan9" }),
		"network_config.hostname": change(func(b *CreateTask) { b.Spec.NetworkConfig.Hostname = "web 1" }),
		"network_config.ssh_keys[1]": change(func(b *CreateTask) {
			b.Spec.NetworkConfig.SSHKeys = []string{"ssh-ed25519 AAAA ann", "ssh-ed25519 AAAA\nssh-rsa BBBB"}
		}),
		"network_config.config": change(func(b *CreateTask) { b.Spec.NetworkConfig.Config = strings.Repeat("x", 65537) }),
		"user_data":             change(func(b *CreateTask) { b.Spec.UserData = strings.Repeat("x", 65537) }),
	} {
		r := newRig(t)
		r.must(debian())
		if err := r.refused(Invalid, b); err.Field != field {
			t.Errorf("field %q is at fault, want %q: %v", err.Field, field, err)
		}
	}
	r := newRig(t)
	if err := r.refused(Invalid, create("t1")); !strings.Contains(err.Message, "lpmos image import") {
		t.Errorf("without any image the error does not say what to do: %v", err)
	}
	r.must(debian(), change(func(b *CreateTask) { b.TargetMAC = strings.ToUpper(mac1) }))
	r.refused(Invalid, create("t1")) // the id is taken
}

func TestWhatAnImageMayBe(t *testing.T) {
	for field, change := range map[string]func(*Image){
		"name":       func(i *Image) { i.Name = "../etc" },
		"digest":     func(i *Image) { i.Digest = "abc" },
		"size_bytes": func(i *Image) { i.SizeBytes = 0 },
	} {
		b := debian()
		change(&b.Image)
		if err := newRig(t).refused(Invalid, b); err.Field != field {
			t.Errorf("field %q is at fault, want %q", err.Field, field)
		}
	}
	for name, want := range map[string]bool{"debian-12": true, "0": true, "a.b_c": true, "": false, "-a": false, ".a": false, "A": false,
		"a/b": false, "ä": false, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) is %v", name, !want)
		}
	}
}

func TestATaskWithoutItsImageSaysSo(t *testing.T) {
	r := at(t, wire.StatusCancelled)
	r.must(DeleteImage{Name: "debian-12"}, RetryTask{TaskID: "t1", PhoneToken: "2"})
	task := r.task("t1")
	if task.Plan != nil || !strings.Contains(task.Problem, "debian-12") || slices.Contains(task.Actions(), "approve") {
		t.Errorf("plan %v, problem %q, actions %v", task.Plan, task.Problem, task.Actions())
	}
	r.refused(Conflict, DecideTask{TaskID: "t1", Approved: true, PlanHash: "x"})
}
