package fleet

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// installer is a profile that erases the disk it is told.
func installer() PutProfile {
	return PutProfile{Profile{Name: "d-i", Kind: ProfileKernel, Erases: true, By: "ann",
		Kernel:  &ProfileFile{Name: "linux", Digest: strings.Repeat("aa", 32), SizeBytes: 8 << 20},
		Initrds: []ProfileFile{{Name: "initrd.gz", Digest: strings.Repeat("bb", 32), SizeBytes: 30 << 20}},
		Args:    "auto=true url={{answers}}preseed.cfg hostname={{name}}",
		Answers: []AnswerFile{{Name: "preseed.cfg", Text: "d-i partman-auto/disk string {{disk}}\nd-i preseed/late_command string wget {{up}}\n"}}}}
}

// known is a rig whose machine m1 has reported once and is asked nothing.
func reported(t testing.TB) *rig {
	t.Helper()
	r := newRig(t)
	r.must(debian(), installer(), report("boot-1", withDebian(sda())))
	return r
}

func ask(profile string) AskBoot {
	return AskBoot{ID: "b1", MachineID: "m1", Profile: profile, Token: "tok1", By: "ann"}
}

// askErase is ask with the word for the plan as it is now.
func (r *rig) askErase(by string) AskBoot {
	r.t.Helper()
	plan, err := ProfilePlan(r.machine("m1"), r.s.Profile("d-i"), "")
	if err != nil {
		r.t.Fatal(err)
	}
	b := ask("d-i")
	b.By, b.Approve = by, &Decision{PlanHash: plan.Hash(), ConfirmSerial: "SK-A"}
	return b
}

func (r *rig) bootsAt(want BootAction) BootDecision {
	r.t.Helper()
	d := r.s.BootAt(mac1, r.at)
	if d.Action != want {
		r.t.Fatalf("it boots %s (%s), want %s", d.Action, d.Reason, want)
	}
	return d
}

// reportOf is a report of machine m1 with another inventory.
func reportOf(change func(*wire.Inventory)) ReportMachine {
	b := report("boot-2", withDebian(sda()))
	change(&b.Inventory)
	return b
}

func TestAProfileIsBootedOnce(t *testing.T) {
	r := reported(t)
	r.bootsAt(BootLocal)
	r.must(ask("rescue"))
	if d := r.bootsAt(BootOnce); d.Once.ID != "b1" || d.Once.Profile != "rescue" || d.Once.Erases {
		t.Fatalf("it boots %+v", d.Once)
	}
	r.refused(Conflict, TakeBoot{MAC: mac1, ID: "another"})
	r.refused(Conflict, TakeBoot{MAC: mac2, ID: "b1"})
	r.must(TakeBoot{MAC: mac1, ID: "b1"})
	r.refused(Conflict, TakeBoot{MAC: mac1, ID: "b1"}) // the other node, or the machine again
	r.bootsAt(BootLocal)
	if m := r.machine("m1"); m.NextBoot != nil || m.LastBoot.Profile != "rescue" || m.Installed != nil || len(r.s.Evidence("m1")) > 0 {
		t.Errorf("the machine is %+v", m)
	}
	told := ""
	for _, a := range r.s.Audit(3) {
		told += a.What + "\n"
	}
	if !strings.Contains(told, "ann asked to boot it into profile rescue once") || !strings.Contains(told, "it was told to boot into profile rescue, as asked by ann") {
		t.Errorf("the audit says\n%s", told)
	}
}

func TestAWishToBootIsRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  func(r *rig)
		ask     func(r *rig) AskBoot
		code    Code
		because string
	}{
		{"for a machine nobody knows", nil, func(*rig) AskBoot { b := ask("rescue"); b.MachineID = "m9"; return b }, NotFound, "no machine m9"},
		{"for a profile nobody knows", nil, func(*rig) AskBoot { return ask("nonsense") }, NotFound, "there are: agent, memtest, rescue, d-i"},
		{"beside a task", func(r *rig) { r.must(create("t1")) }, func(*rig) AskBoot { return ask("rescue") }, Conflict, "open task t1"},
		{"beside another wish", func(r *rig) { r.must(ask("memtest")) }, func(*rig) AskBoot { b := ask("rescue"); b.ID = "b2"; return b }, Conflict, "asked to boot profile memtest already"},
		{"with an open question", func(r *rig) { _, _ = r.do(seen("m2", uuid2, "SER2", mac1)) }, func(*rig) AskBoot { return ask("rescue") }, Conflict, "open question"},
		{"without an id", nil, func(*rig) AskBoot { b := ask("rescue"); b.ID = ""; return b }, Invalid, "new id"},
		{"with a token in use", func(r *rig) { r.must(ask("rescue"), TakeBoot{MAC: mac1, ID: "b1"}) }, func(*rig) AskBoot { return ask("rescue") }, Invalid, "new token"},
		{"of a profile that was another", nil, func(*rig) AskBoot { b := ask("rescue"); b.Digest = "x"; return b }, Precondition, "not the one you saw"},
		{"that erases, without a word", nil, func(*rig) AskBoot { return ask("d-i") }, Precondition, "say which plan is approved"},
		{"that erases, of a plan that is not true", nil, func(r *rig) AskBoot { b := r.askErase("ann"); b.Approve.PlanHash = "x"; return b }, Precondition, "the plan of the boot of machine ser1 into profile d-i is not the one you saw"},
		{"that erases, without the disk's serial", nil, func(r *rig) AskBoot { b := r.askErase("ann"); b.Approve.ConfirmSerial = "SK-B"; return b }, Invalid, "confirm_serial"},
		{"that erases, of a disk that is not there", nil, func(r *rig) AskBoot { b := r.askErase("ann"); b.Disk = "DISK-Z"; return b }, Invalid, "no disk of this machine"},
		{"that erases, of a protected machine", func(r *rig) { r.must(ProtectMachine{MachineID: "m1", Protected: true}) }, func(r *rig) AskBoot { return r.askErase("ann") }, Conflict, "protected"},
		{"that erases, whose disk has no lasting name", func(r *rig) {
			d := withDebian(sda())
			d.WWN = ""
			r.must(report("boot-2", d))
		}, func(r *rig) AskBoot { b := ask("d-i"); b.Approve = &Decision{PlanHash: "x"}; return b }, Conflict, "no name that stays the same"},
		{"of what its processor cannot run", func(r *rig) { r.must(reportOf(func(i *wire.Inventory) { i.CPU.Arch = "arm64" })) }, func(*rig) AskBoot { return ask("rescue") }, Conflict, "for amd64 alone"},
		{"under Secure Boot", func(r *rig) { r.must(reportOf(func(i *wire.Inventory) { i.Firmware.SecureBoot = true })) }, func(*rig) AskBoot { return ask("rescue") }, Conflict, "Secure Boot"},
		{"of what its firmware cannot start", func(r *rig) {
			r.must(PutProfile{Profile{Name: "tool", Kind: ProfileProgram, UEFI: &ProfileFile{Name: "tool.efi", Digest: strings.Repeat("cc", 32), SizeBytes: 1}}},
				reportOf(func(i *wire.Inventory) { i.Firmware.Mode = "bios" }))
		}, func(*rig) AskBoot { return ask("tool") }, Conflict, "BIOS firmware"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := reported(t)
			if c.before != nil {
				c.before(r)
			}
			if err := r.refused(c.code, c.ask(r)); !strings.Contains(err.Message, c.because) {
				t.Errorf("refused with %q, want %q in it", err.Message, c.because)
			}
		})
	}
	t.Run("not of a protected machine where nothing is erased", func(t *testing.T) {
		r := reported(t)
		r.must(ProtectMachine{MachineID: "m1", Protected: true}, ask("rescue"))
		r.bootsAt(BootOnce)
	})
}

func TestWhatErasesIsGivenAfterAnApprovalAndALook(t *testing.T) {
	r := reported(t)
	r.must(r.askErase("ann"))
	r.bootsAt(BootAgent)
	r.refused(Precondition, TakeBoot{MAC: mac1, ID: "b1"}) // nobody has looked again
	r.must(report("boot-2", withDebian(sda())))
	r.bootsAt(BootOnce)
	r.must(TakeBoot{MAC: mac1, ID: "b1"})
	for range 3 { // the wipe guard
		r.bootsAt(BootLocal)
		r.refused(Conflict, TakeBoot{MAC: mac1, ID: "b1"})
	}
	m := r.machine("m1")
	if m.LastBoot.Disk.Serial != "DISK-A" || m.Inventory.Disks[0].Contents.OS != "profile d-i" {
		t.Errorf("the machine is %+v", m)
	}
	if e := r.s.Evidence("m1"); len(e) != 1 || e[0].Disks[0] != "DISK-A" || e[0].ApprovedBy != "ann" || e[0].Result != ResultHandedOver {
		t.Errorf("the evidence is %+v", e)
	}
	answer := func(token, name string, at time.Time) (string, error) {
		text, _, err := r.s.AnswerFor(token, name, "http://10.0.0.1:81", "10.0.0.9", at)
		return text, err
	}
	text, err := answer("tok1", "preseed.cfg", r.at)
	if want := "d-i partman-auto/disk string /dev/disk/by-id/wwn-0x5000000000000001\nd-i preseed/late_command string wget http://10.0.0.1:81/up/tok1\n"; err != nil || text != want {
		t.Errorf("its answers are %q (%v), want %q", text, err, want)
	}
	for _, ask := range [][2]string{{"tok2", "preseed.cfg"}, {"", "preseed.cfg"}, {"tok1", "other"}} {
		if text, err := answer(ask[0], ask[1], r.at); err == nil {
			t.Errorf("%q gives %q", ask, text)
		}
	}
	if _, err := answer("tok1", "preseed.cfg", r.at.Add(answerLife+time.Second)); err == nil {
		t.Error("its answers are given for ever")
	}
	r.must(ReportUp{PhoneToken: "tok1", Hostname: "web9", IP: "10.0.0.9"})
	if m := r.machine("m1"); m.LastBoot.CameUp == nil || m.Name != "web9" {
		t.Errorf("after its report it is %+v", m.LastBoot)
	}
	if _, err := answer("tok1", "preseed.cfg", r.at); err == nil {
		t.Error("its answers are given after it came up")
	}
	r.bootsAt(BootLocal)
}

// A word for what erases is void when what it was for is not there any more.
func TestAWishToEraseEnds(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"the disk holds something else": func(r *rig) { r.must(report("boot-2")) },
		"another disk is there":         func(r *rig) { r.must(report("boot-2", withDebian(sda()), disk("DISK-B", 500))) },
		"it was taken back":             func(r *rig) { r.must(CancelBoot{MachineID: "m1", By: "bob"}) },
		"the machine is protected":      func(r *rig) { r.must(ProtectMachine{MachineID: "m1", Protected: true, By: "bob"}) },
		"its time is over": func(r *rig) {
			r.at = r.at.Add(NextBootLife)
			if got := r.s.LapsedBoots(r.at); len(got) != 1 {
				r.t.Fatalf("over are %v", got)
			}
			r.must(LapseBoot{MachineID: "m1", ID: "b1"})
		},
		"the cluster began an epoch": func(r *rig) { r.must(PutCluster{Cluster{ID: "c1"}}, RaiseEpoch{Reason: "restored", By: "ann"}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := reported(t)
			r.must(r.askErase("ann"))
			end(r)
			if n := r.machine("m1").NextBoot; n != nil {
				t.Fatalf("it is still to boot %+v", n)
			}
			if no := r.machine("m1").NotBooted; no == nil || !strings.Contains(no.Reason, "profile d-i") {
				t.Errorf("nobody says why: %+v", no)
			}
			r.must(report("boot-3", withDebian(sda())))
			if d := r.s.BootAt(mac1, r.at); d.Action == BootOnce {
				t.Error("it boots the profile")
			}
			r.refused(Conflict, TakeBoot{MAC: mac1, ID: "b1"})
		})
	}
	t.Run("nobody has put down that its time is over", func(t *testing.T) {
		r := reported(t)
		r.must(r.askErase("ann"), report("boot-2", withDebian(sda())))
		r.bootsAt(BootOnce)
		r.at = r.at.Add(NextBootLife)
		r.bootsAt(BootLocal)
		r.refused(Precondition, TakeBoot{MAC: mac1, ID: "b1"})
	})
	t.Run("the profile is replaced or removed", func(t *testing.T) {
		r := reported(t)
		r.must(r.askErase("ann"))
		other := installer()
		other.Profile.Args += " quiet"
		r.refused(Conflict, other)
		r.refused(Conflict, DeleteProfile{Name: "d-i"})
		r.must(CancelBoot{MachineID: "m1"}, other, DeleteProfile{Name: "d-i"})
		r.refused(NotFound, DeleteProfile{Name: "d-i"})
		r.refused(Conflict, DeleteProfile{Name: "rescue"})
	})
}

// Between the look and the boot a disk can be put into another machine.
func TestWhatErasesIsGivenSoonAfterTheLook(t *testing.T) {
	r := reported(t)
	r.must(r.askErase("ann"), report("boot-2", withDebian(sda())))
	r.at = r.at.Add(lookLife - 3*time.Second)
	r.bootsAt(BootOnce)
	r.at = r.at.Add(4 * time.Second)
	r.bootsAt(BootAgent)
	r.refused(Precondition, TakeBoot{MAC: mac1, ID: "b1"})
	r.must(report("boot-3", withDebian(sda())))
	r.bootsAt(BootOnce)
	n := r.machine("m1").NextBoot
	if n.Ready(n.CheckedAt.Add(-clocksApart - time.Second)) {
		t.Error("a look of times to come counts")
	}
	r.must(TakeBoot{MAC: mac1, ID: "b1"})
}

// A machine with a MAC of another, and not its UUID, is given nothing of what that is asked
// to boot.
func TestFirmwareThatIsAnotherMachinesIsGivenNoProfile(t *testing.T) {
	take := func(uuids ...string) TakeBoot { return TakeBoot{MAC: mac1, ID: "b1", UUIDs: uuids} }
	r := reported(t)
	r.must(r.askErase("ann"), report("boot-2", withDebian(sda())))
	if _, err := r.do(take(uuid2, "22222222")); ErrorCode(err) != Conflict {
		t.Fatalf("another machine was given it, or not refused for that: %v", err)
	}
	m := r.machine("m1")
	if m.NextBoot != nil || m.NotBooted == nil || !strings.Contains(m.NotBooted.Reason, uuid2) || r.alarms() != 1 {
		t.Errorf("it is to boot %+v, not booted for %+v, %d alarms", m.NextBoot, m.NotBooted, r.alarms())
	}
	r.refused(Conflict, take(uuid1)) // the machine itself: a person has to look first
	for _, uuids := range [][]string{nil, {uuid1}, {uuid2, uuid1}} {
		r := reported(t)
		r.must(r.askErase("ann"), report("boot-2", withDebian(sda())), take(uuids...))
	}
	r = reported(t)
	r.must(ask("rescue"))
	r.refused(Conflict, take(uuid2))
	r.must(take(uuid1))
	r = newRig(t)
	unnamed := report("boot-1")
	unnamed.Inventory.System.UUID = ""
	r.must(unnamed, ask("rescue"), take(uuid2)) // of whose UUID nobody knows
}

// What a profile left on a disk nobody has seen until the agent has looked, and a word for it
// would be void at that look.
func TestWhatErasedOnceErasesAgainAfterALook(t *testing.T) {
	r := reported(t)
	r.must(r.askErase("ann"), report("boot-2", withDebian(sda())))
	again := r.askErase("ann")
	again.ID, again.Token = "b2", "tok2"
	r.must(TakeBoot{MAC: mac1, ID: "b1"})
	if _, err := ProfilePlan(r.machine("m1"), r.s.Profile("d-i"), ""); ErrorCode(err) != Conflict || !strings.Contains(err.Error(), "boot the agent first: nobody has seen what profile d-i left") {
		t.Errorf("there is a plan, or none for this: %v", err)
	}
	if err := r.refused(Conflict, again); !strings.Contains(err.Message, "boot the agent first") {
		t.Error(err)
	}
	r.must(create("t1"))
	if task := r.task("t1"); task.Plan != nil {
		t.Errorf("an install has a plan of what nobody has seen: %+v", task.Plan.Erase)
	}
	r.bootsAt(BootAgent)
	written := sda()
	written.Contents = wire.Contents{Table: "gpt", OS: "Debian 13"}
	r.must(report("boot-3", written), CancelTask{TaskID: "t1", By: "ann"})
	r.bootsAt(BootLocal)
	second := r.askErase("ann")
	second.ID, second.Token = "b2", "tok2"
	r.must(second, report("boot-4", written))
	r.bootsAt(BootOnce)
	r.must(TakeBoot{MAC: mac1, ID: "b2"})
	if e := r.s.Evidence("m1"); len(e) != 2 || e[0].Held != "Debian 13" && e[1].Held != "Debian 13" {
		t.Errorf("the evidence is %+v", e)
	}
}

// After an installer, a rescue shell does not make the disk blank.
func TestAMachineWhoseDiskNobodyHasSeenBootsIt(t *testing.T) {
	r := newRig(t)
	r.must(installer(), report("boot-1"))
	r.must(r.askErase("ann"), report("boot-2"), TakeBoot{MAC: mac1, ID: "b1"})
	rescue := ask("rescue")
	rescue.ID, rescue.Token = "b2", "tok2"
	r.at = r.at.Add(answerLife)
	r.must(rescue, TakeBoot{MAC: mac1, ID: "b2"})
	if d := r.bootsAt(BootLocal); !strings.Contains(d.Reason, "profile d-i was to install it") {
		t.Error(d.Reason)
	}
}

// The agent looks anew at a machine that would boot its disk, once; that is how a disk that
// a profile has written can be erased again.
func TestTheAgentIsBootedForALook(t *testing.T) {
	r := installedByProfile(t)
	r.bootsAt(BootLocal)
	look := ask("agent")
	look.ID, look.Token = "b2", "tok2"
	r.must(look)
	if d := r.bootsAt(BootAgent); d.Reason != "ann asked for a look at it, once" {
		t.Error(d.Reason)
	}
	r.must(report("boot-3", withDebian(sda())))
	if m := r.machine("m1"); m.NextBoot != nil || m.Unseen != "" {
		t.Errorf("when it has looked: %+v, unseen %q", m.NextBoot, m.Unseen)
	}
	if records := r.s.Audit(1 << 30); records[0].What != "machine ser1: its agent has looked at it anew, as ann asked" {
		t.Errorf("the audit says %q", records[0].What)
	}
	r.bootsAt(BootLocal)
	if _, err := ProfilePlan(r.machine("m1"), r.s.Profile("d-i"), ""); err != nil {
		t.Error(err)
	}
	r.must(func() AskBoot { l := look; l.ID, l.Token = "b3", "tok3"; return l }())
	r.at = r.at.Add(NextBootLife)
	r.bootsAt(BootLocal)
}

// installed by profile d-i is machine m1, which has not reported.
func installedByProfile(t testing.TB) *rig {
	t.Helper()
	r := reported(t)
	r.must(r.askErase("ann"), report("boot-2", withDebian(sda())), TakeBoot{MAC: mac1, ID: "b1"})
	return r
}

// The secret of a boot is good for what that boot has begun, and for a while.
func TestTheWordOfAProfilesSystem(t *testing.T) {
	up := ReportUp{PhoneToken: "tok1", Hostname: "web9", IP: "10.0.0.9"}
	t.Run("not after an install has begun to erase it", func(t *testing.T) {
		r := installedByProfile(t)
		r.must(create("t1"), report("boot-3", withDebian(sda())))
		r.must(r.approve("t1"))
		r.must(r.start("t1"))
		r.refused(NotFound, up)
		if m := r.machine("m1"); m.LastBoot != nil || m.Name != "web1" {
			t.Errorf("it is %s, booted last %+v", m.Name, m.LastBoot)
		}
		if _, _, err := r.s.AnswerFor("tok1", "preseed.cfg", "", "", r.at); err == nil {
			t.Error("its answers are given out")
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		r := installedByProfile(t)
		r.at = r.at.Add(answerLife)
		r.refused(Conflict, up)
	})
	t.Run("not under another machine's name", func(t *testing.T) {
		r := installedByProfile(t)
		r.must(seen("m2", uuid2, "WEB9", mac2))
		up := up
		up.Hostname = "Web9"
		r.must(up)
		if m := r.machine("m1"); m.Name != "ser1" || m.LastBoot.CameUp == nil {
			t.Errorf("it is %s, %+v", m.Name, m.LastBoot)
		}
		if said := r.s.Audit(1)[0].What; !strings.Contains(said, "which is machine m2's name") {
			t.Errorf("the audit says %q", said)
		}
	})
}

// While an installer may be running, its profile stays, and no other boot takes the place
// of what it will report for.
func TestAProfileThatMayBeInstallingIsInUse(t *testing.T) {
	rescue := ask("rescue")
	rescue.ID, rescue.Token = "b2", "tok2"
	other := installer()
	other.Profile.Args += " quiet"
	end := map[string]func(r *rig){
		"it has reported": func(r *rig) { r.must(ReportUp{PhoneToken: "tok1", Hostname: "web9"}) },
		"the agent has":   func(r *rig) { r.must(report("boot-3", withDebian(sda()))) },
		"its time is over": func(r *rig) {
			r.at = r.at.Add(answerLife)
		},
		"it was given up": func(r *rig) {
			r.must(CancelBoot{MachineID: "m1", By: "ann"})
			r.bootsAt(BootLocal)
			r.refused(NotFound, ReportUp{PhoneToken: "tok1"})
			r.refused(Conflict, CancelBoot{MachineID: "m1", By: "ann"})
		},
	}
	for name, end := range end {
		t.Run(name, func(t *testing.T) {
			r := installedByProfile(t)
			for _, b := range []Body{rescue, other, DeleteProfile{Name: "d-i"}} {
				if err := r.refused(Conflict, b); !strings.Contains(err.Message, "lpmos machine boot ser1 --cancel") {
					t.Error(err)
				}
			}
			end(r)
			r.must(rescue, other, DeleteProfile{Name: "d-i"})
		})
	}
}

// A word for what erases is about one machine. When another has shown one of its ids it is
// void, however the question is answered; what erases nothing stands.
func TestAWishToEraseEndsWithDoubtAboutWhichMachineItIs(t *testing.T) {
	rival := seen("m2", uuid2, "SER2", mac1)
	for name, settle := range map[string]func(r *rig){
		"nobody has answered": func(*rig) {},
		"it is the other":     func(r *rig) { r.must(SettleQuestion{MachineID: "m1", Accept: true}) },
		"it is not the other": func(r *rig) { r.must(SettleQuestion{MachineID: "m1"}) },
		"and never is":        func(r *rig) { r.must(SettleQuestion{MachineID: "m1", Remember: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := reported(t)
			r.must(r.askErase("ann"), report("boot-2", withDebian(sda())))
			r.bootsAt(BootOnce)
			if _, err := r.do(rival); ErrorCode(err) != Conflict {
				t.Fatal(err)
			}
			settle(r)
			m := r.machine("m1")
			if m.NextBoot != nil || m.NotBooted == nil || !strings.Contains(m.NotBooted.Reason, uuid2) {
				t.Errorf("it is to boot %+v, and not to because of %+v", m.NextBoot, m.NotBooted)
			}
			r.refused(Conflict, TakeBoot{MAC: mac1, ID: "b1"})
		})
	}
	t.Run("somebody has said before that it is another", func(t *testing.T) {
		r := reported(t)
		_, _ = r.do(rival)
		r.must(SettleQuestion{MachineID: "m1", Remember: true}, r.askErase("ann"), report("boot-2", withDebian(sda())))
		_, _ = r.do(rival)
		r.refused(Conflict, TakeBoot{MAC: mac1, ID: "b1"})
	})
	t.Run("two machines have an id of a third", func(t *testing.T) {
		const first = "52:54:00:00:00:00" // the question is asked about its machine
		r := reported(t)
		r.must(seen("m2", uuid2, "SER2", first), r.askErase("ann"), report("boot-2", withDebian(sda())))
		_, _ = r.do(seen("m3", "", "", first, mac1))
		r.refused(Conflict, TakeBoot{MAC: mac1, ID: "b1"})
	})
	t.Run("it erases nothing", func(t *testing.T) {
		r := reported(t)
		r.must(ask("rescue"))
		_, _ = r.do(rival)
		r.must(SettleQuestion{MachineID: "m1"}, TakeBoot{MAC: mac1, ID: "b1"})
	})
	t.Run("a word for an install does not pass on either", func(t *testing.T) {
		r := reported(t)
		r.must(create("t1"))
		r.must(report("boot-2", withDebian(sda())))
		r.must(r.approve("t1"))
		_, _ = r.do(rival)
		r.must(SettleQuestion{MachineID: "m1", Accept: true})
		r.must(rival) // only who reports is told to erase, and a report makes the plan anew
		if task := r.task("t1"); task.Approval != nil || task.Status != wire.StatusNeedsReview {
			t.Errorf("the task is %s, approved by %+v", task.Status, task.Approval)
		}
	})
}

func TestATaskAndAWishToBootExcludeEachOther(t *testing.T) {
	r := reported(t)
	r.must(ask("rescue"))
	r.refused(Conflict, create("t1"))
	r.must(CancelBoot{MachineID: "m1"}, create("t1"))
	r.refused(Conflict, ask("rescue"))
}

func TestWhatErasesTakesTwoPeopleWherePolicySaysSo(t *testing.T) {
	r := reported(t)
	r.must(PutPolicy{ApprovalCap: 10, ApprovalWindow: time.Hour, SecondApprover: SecondAlways})
	r.must(r.askErase("ann"))
	if n := r.machine("m1").NextBoot; n.Approval != nil || n.FirstWord == nil {
		t.Fatalf("after one word it is %+v", n)
	}
	r.bootsAt(BootLocal)
	r.refused(Conflict, r.askErase("ann"))
	r.must(r.askErase("bob"))
	if n := r.machine("m1").NextBoot; n.Approval == nil || n.Approval.people() != "ann and bob" || n.ID != "b1" {
		t.Fatalf("after two words it is %+v", n)
	}
	r.bootsAt(BootAgent)
}

// Words for profiles count with those for installs.
func TestWhatErasesCountsForTheCap(t *testing.T) {
	r := reported(t)
	r.must(PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Hour, SecondApprover: SecondOverCap})
	r.must(r.askErase("ann"), CancelBoot{MachineID: "m1"})
	r.must(r.askErase("ann"))
	if n := r.machine("m1").NextBoot; n.Approval != nil {
		t.Errorf("beyond the cap one word is enough: %+v", n)
	}
}

func TestAProfileIsChecked(t *testing.T) {
	for name, change := range map[string]func(p *Profile){
		"name":                     func(p *Profile) { p.Name = "../x" },
		"rescue":                   func(p *Profile) { p.Name = "rescue" },
		"text":                     func(p *Profile) { p.Text = "a\nb" },
		"kind":                     func(p *Profile) { p.Kind = ProfileRescue },
		"no kernel":                func(p *Profile) { p.Kernel = nil },
		"a script, too":            func(p *Profile) { p.Script = "#!ipxe\n" },
		"a file that is no digest": func(p *Profile) { p.Kernel.Digest = "x" },
		"a file's name":            func(p *Profile) { p.Kernel.Name = "a b" },
		"two files of one name":    func(p *Profile) { p.Initrds[0].Name = "linux" },
		"a newline in args":        func(p *Profile) { p.Args = "a\nboot" },
		"iPXE's variables in args": func(p *Profile) { p.Args = "a=${net0/mac}" },
		"initrd= in args":          func(p *Profile) { p.Args = "initrd=x" },
		"args of lpmos":            func(p *Profile) { p.Args = "lpmos.node=https://10.0.0.1" },
		"an unknown variable":      func(p *Profile) { p.Answers[0].Text = "{{password}}" },
		"a variable without end":   func(p *Profile) { p.Answers[0].Text = "{{name" },
		"an unknown file":          func(p *Profile) { p.Args = "{{file:other}}" },
		"a disk without a plan":    func(p *Profile) { p.Erases = false },
		"an answer's name":         func(p *Profile) { p.Answers[0].Name = "a/b" },
		"a long answer":            func(p *Profile) { p.Answers[0].Text = strings.Repeat("x", maxTemplate+1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			b := installer()
			change(&b.Profile)
			r.refused(Invalid, b)
		})
	}
	script := Profile{Name: "chain", Kind: ProfileScript, Script: "#!ipxe\nchain {{file:other.efi}}\n", Files: []ProfileFile{{Name: "other.efi", Digest: strings.Repeat("cc", 32), SizeBytes: 1}}}
	for name, change := range map[string]func(p *Profile){
		"no #!ipxe":           func(p *Profile) { p.Script = "chain x\n" },
		"a control character": func(p *Profile) { p.Script += "\x1b" },
		"a kernel, too":       func(p *Profile) { p.Args = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			p := script
			change(&p)
			newRig(t).refused(Invalid, PutProfile{p})
		})
	}
	newRig(t).must(PutProfile{script}, PutProfile{Profile{Name: "tool", Kind: ProfileProgram, UEFI: &ProfileFile{Name: "tool.efi", Digest: strings.Repeat("cc", 32), SizeBytes: 1}}})
}

// Whatever firmware or people have written into a machine's names: it becomes a word,
// or the machine is not given the profile.
func TestNothingIsInjectedIntoATemplate(t *testing.T) {
	for _, bad := range []string{"", "a b", "a\nboot", "a\rb", "{{up}}", "a{{b", `a"b`, "a'b", "a`b`", "a;b", "a&b", "a|b", "$(x)", "${x}", "a\\", "a\x00", "a#b", "a,b", "ä", strings.Repeat("x", 257)} {
		for _, field := range []string{"name", "serial", "uuid", "disk"} {
			m := &Machine{Name: "web1", IDs: IDs{UUID: uuid1, Serial: "SER1"}}
			d := &wire.PlanDisk{DiskID: wire.DiskID{Serial: "D1", SizeBytes: 1}, Transport: "virtio"}
			switch field {
			case "name":
				m.Name = bad
			case "serial":
				m.IDs.Serial = bad
			case "uuid":
				m.IDs.UUID = bad
			case "disk":
				d.Serial = bad
			}
			p := &Profile{Name: "x", Kind: ProfileKernel, Erases: true, Args: "{{" + field + "}}"}
			if got, err := p.Expand(p.Args, m, Values{}, d); err == nil {
				t.Errorf("%s %q becomes %q", field, bad, got)
			}
			if err := p.CheckValues(m, d); ErrorCode(err) != Conflict {
				t.Errorf("%s %q may be asked for: %v", field, bad, err)
			}
		}
	}
}

func TestDiskPaths(t *testing.T) {
	for _, c := range []struct{ wwn, serial, transport, want string }{
		{"naa.5000c500a0b1c2d3", "S1", "sata", "wwn-0x5000c500a0b1c2d3"},
		{"naa.600508b1001c0123456789abcdef0123", "S1", "sas", "wwn-0x600508b1001c0123456789abcdef0123"},
		{"0x5000000000000001", "S1", "sata", "wwn-0x5000000000000001"},
		{"eui.0025385b71b0a1c2", "S1", "nvme", "nvme-eui.0025385b71b0a1c2"},
		{"uuid.12345678-1234-5678-90ab-cddeefaabbcc", "S1", "nvme", "nvme-uuid.12345678-1234-5678-90ab-cddeefaabbcc"},
		{"", "D1", "virtio", "virtio-D1"},
		{"", "D1", "sata", ""},
		{"", "../../sda", "virtio", ""},
		{"eui.00", "D1", "sas", ""},
	} {
		got, err := DiskPath(&wire.PlanDisk{DiskID: wire.DiskID{Serial: c.serial, WWN: c.wwn, SizeBytes: 1}, Transport: c.transport})
		if want := "/dev/disk/by-id/" + c.want; (err == nil) != (c.want != "") || err == nil && got != want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
}

// FuzzTemplate: what a template says is checked once, and then holds for any machine.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "{{name}}", "a{{ mac }}b{{up}}", "{{", "}}", "{{}}", "{{{{name}}}}", "{{name}", "{{file:linux}}", "{{file:}}", "{{disk}} {{disk_bytes}}", "x{{na\nme}}"} {
		f.Add(s, "web1")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		p := installer().Profile
		p.Answers[0].Text = text
		err := CheckProfile(p)
		m := &Machine{Name: name, IDs: IDs{UUID: uuid1, Serial: "S1"}}
		d := &wire.PlanDisk{DiskID: wire.DiskID{WWN: "naa.5000c500a0b1c2d3", SizeBytes: 1}}
		p.Args = ""
		got, err2 := p.Expand(text, m, Values{Node: "http://10.0.0.1:81", MAC: mac1, Addr: "10.0.0.2", Token: "t"}, d)
		if err == nil && err2 != nil && word(name) {
			t.Fatalf("%q was taken and cannot be filled in: %v", text, err2)
		}
		if err2 == nil && err != nil && len(text) <= maxTemplate {
			t.Fatalf("%q was refused (%v) and can be filled in", text, err)
		}
		if err2 == nil && strings.Count(got, "\n") > strings.Count(text, "\n") {
			t.Fatalf("%q with name %q has more lines: %q", text, name, got)
		}
		if errors.Is(err2, nil) && p.CheckValues(m, d) != nil {
			t.Fatalf("%q can be filled in and may not be asked for", text)
		}
	})
}
