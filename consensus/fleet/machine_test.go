package fleet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// seen is a report of a machine with these ids.
func seen(id, uuid, serial string, macs ...string) ReportMachine {
	return ReportMachine{NewID: id, BootID: "boot-" + id, SessionHash: "s-" + id, MAC: macs[0], Inventory: inventory(uuid, serial, macs, sda())}
}

func TestWhichMachineReports(t *testing.T) {
	const mac3 = "52:54:00:00:00:03"
	cases := []struct {
		name     string
		known    []ReportMachine
		report   ReportMachine
		want     string // the machine it is, "" for a question
		question string // on which machine
	}{
		{"nobody is known", nil, seen("m9", uuid1, "A", mac1), "m9", ""},
		{"all is the same", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid1, "A", mac1), "m1", ""},
		{"upper-case MAC and UUID", []ReportMachine{seen("m1", uuid1, "A", mac1)},
			seen("m9", strings.ToUpper(uuid1), "A", strings.ToUpper(mac1)), "m1", ""},
		{"a card was added", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid1, "A", mac1, mac2), "m1", ""},
		{"all cards were changed", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid1, "A", mac2), "m1", ""},
		{"another machine", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid2, "B", mac2), "m9", ""},
		{"a placeholder UUID on two machines", []ReportMachine{seen("m1", "03000200-0400-0500-0006-000700080009", "A", mac1)},
			seen("m9", "03000200-0400-0500-0006-000700080009", "B", mac2), "m9", ""},
		{"a placeholder serial on two machines", []ReportMachine{seen("m1", uuid1, "To be filled by O.E.M.", mac1)},
			seen("m9", uuid2, "To be filled by O.E.M.", mac2), "m9", ""},
		{"no ids but the MAC", []ReportMachine{seen("m1", "", "", mac1)}, seen("m9", "", "", mac1), "m1", ""},
		{"ids appear where none were", []ReportMachine{seen("m1", "", "", mac1)}, seen("m9", uuid1, "A", mac1), "m1", ""},
		{"a MAC of a machine with another UUID", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid2, "B", mac1), "", "m1"},
		{"a MAC of a machine with another serial, where UUIDs say nothing", []ReportMachine{seen("m1", "", "A", mac1)}, seen("m9", "", "B", mac1), "", "m1"},
		{"no UUID any more", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", "", "A", mac1), "", "m1"},
		{"no serial any more", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid1, "", mac1), "", "m1"},
		{"a UUID of a machine with other MACs and serial", []ReportMachine{seen("m1", uuid1, "A", mac1)}, seen("m9", uuid1, "B", mac2), "", "m1"},
		{"a UUID of a machine with other MACs and no serial", []ReportMachine{seen("m1", uuid1, "", mac1)}, seen("m9", uuid1, "", mac2), "", "m1"},
		{"MACs of two machines", []ReportMachine{seen("m1", "", "", mac1), seen("m2", "", "", mac2)}, seen("m9", "", "", mac1, mac2, mac3), "", "m1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			for _, k := range c.known {
				r.must(k)
			}
			result, err := r.do(c.report)
			if c.want != "" {
				if err != nil || result.(*Machine).ID != c.want {
					t.Fatalf("it is %+v (%v), want %s", result, err, c.want)
				}
				return
			}
			if ErrorCode(err) != Conflict {
				t.Fatalf("it is %+v (%v), want a question", result, err)
			}
			m := r.machine(c.question)
			if m.Question == "" || m.Rival == nil || m.SessionHash != "s-"+c.question {
				t.Errorf("machine %s is overwritten or has no question: %+v", m.ID, m)
			}
			if len(r.events) != 1 || r.events[0].Machine != m || r.events[0].Index == 0 {
				t.Errorf("the question was told as %+v", r.events)
			}
			r.refused(Conflict, c.report) // asked again it is not raised again
		})
	}
}

func TestAReportNeedsAMACAndANewID(t *testing.T) {
	r := newRig(t)
	r.refused(Invalid, ReportMachine{NewID: "m1", Inventory: inventory(uuid1, "A", nil)})
	r.refused(Invalid, ReportMachine{MAC: mac1})
	r.must(seen("m1", uuid1, "A", mac1))
	r.refused(Invalid, seen("m1", uuid2, "B", mac2))
}

func TestStrangersCannotMakeAnyNumberOfMachines(t *testing.T) {
	r := newRig(t)
	r.must(seen("m1", uuid1, "A", mac1))
	for i := len(r.s.machines); i < maxMachines; i++ {
		id := fmt.Sprint("stranger-", i)
		r.s.machines[id] = &Machine{ID: id}
	}
	if _, err := r.do(seen("m9", uuid2, "B", mac2)); ErrorCode(err) != Conflict || !strings.Contains(err.Error(), "no room") {
		t.Errorf("one more is answered %v", err)
	}
	r.must(seen("", uuid1, "A", mac1)) // who is known is heard
	r.must(DeleteMachine{MachineID: "stranger-7"}, seen("m9", uuid2, "B", mac2))
}

func TestAQuestionIsSettled(t *testing.T) {
	clash := func(t *testing.T) *rig {
		r := newRig(t)
		r.must(seen("m1", uuid1, "A", mac1))
		if _, err := r.do(seen("m9", uuid2, "B", mac1)); err == nil {
			t.Fatal("no question was raised")
		}
		return r
	}
	t.Run("the machine takes the new ids", func(t *testing.T) {
		r := clash(t)
		r.must(SettleQuestion{MachineID: "m1", Accept: true}, seen("m9", uuid2, "B", mac1))
		if m := r.machine("m1"); m.IDs.UUID != uuid2 || m.Question != "" || m.Rival != nil {
			t.Errorf("the machine is %+v", m)
		}
	})
	t.Run("the rival is forgotten", func(t *testing.T) {
		r := clash(t)
		r.must(SettleQuestion{MachineID: "m1"}, seen("m9", uuid1, "A", mac1))
		if m := r.machine("m1"); m.IDs.UUID != uuid1 || m.Question != "" || m.Rival != nil {
			t.Errorf("the machine is %+v", m)
		}
		r.refused(Conflict, SettleQuestion{MachineID: "m1"})
	})
	t.Run("a rival that was forgotten is not asked about again, another is", func(t *testing.T) {
		r := clash(t)
		r.must(SettleQuestion{MachineID: "m1", Remember: true})
		if err := r.refused(Conflict, seen("m9", uuid2, "B", mac1)); !strings.Contains(err.Message, "two machines") {
			t.Errorf("the rival is told %q", err.Message)
		}
		r.must(seen("m1", uuid1, "A", mac1)) // the machine itself goes on
		const uuid3 = "11111111-2222-3333-4444-555555555503"
		if _, err := r.do(seen("m9", uuid3, "C", mac1)); err == nil || r.machine("m1").Question == "" {
			t.Errorf("a third machine with the same MAC raises %q (%v)", r.machine("m1").Question, err)
		}
		r.must(SettleQuestion{MachineID: "m1", Accept: true})
		if _, err := r.do(seen("m9", uuid2, "B", mac1)); err == nil || r.machine("m1").Question == "" {
			t.Errorf("after another answer the first rival raises %q (%v)", r.machine("m1").Question, err)
		}
	})
	t.Run("not with the MAC of a third", func(t *testing.T) {
		r := newRig(t)
		r.must(seen("m1", "", "", mac1), seen("m2", "", "", mac2))
		if _, err := r.do(seen("m9", "", "", mac1, mac2)); err == nil {
			t.Fatal("no question was raised")
		}
		r.refused(Conflict, SettleQuestion{MachineID: "m1", Accept: true})
		r.must(DeleteMachine{MachineID: "m2"}, SettleQuestion{MachineID: "m1", Accept: true})
	})
	t.Run("not with the UUID of a third", func(t *testing.T) {
		r := clash(t)
		r.must(seen("m2", uuid2, "B", mac2))
		r.refused(Conflict, SettleQuestion{MachineID: "m1", Accept: true})
	})
}

func TestAMachineKeepsItsAddressesAndNoOther(t *testing.T) {
	r := newRig(t)
	first := report("b1")
	r.must(first)
	second := seen("m2", uuid2, "B", mac2)
	second.IP = first.IP
	r.must(second)
	if r.s.MachineByAddress(first.IP).ID != "m1" || len(r.machine("m2").Addresses) != 0 {
		t.Errorf("address %s was taken from its machine", first.IP)
	}
	for _, ip := range []string{"", "no address", "::1", "fe80::1"} {
		odd := first
		odd.IP = ip
		r.must(odd)
	}
	if got := r.machine("m1").Addresses; len(got) != 1 || got[mac1] != first.IP {
		t.Errorf("m1 keeps %v", got)
	}
	moved := first
	moved.IP = "10.0.0.99"
	r.must(moved)
	if r.s.MachineByAddress(first.IP) != nil || r.s.MachineByAddress("10.0.0.99").ID != "m1" {
		t.Error("the address did not move with the machine")
	}
}

func TestPlaceholdersIdentifyNothing(t *testing.T) {
	for _, uuid := range []string{"", "x", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
		"03000200-0400-0500-0006-000700080009", " 12345678-1234-1234-1234-123456789ABC ", strings.Repeat("é", 16)} {
		if !PlaceholderUUID(uuid) {
			t.Errorf("UUID %q is taken for a machine's own", uuid)
		}
	}
	if PlaceholderUUID(uuid1) {
		t.Errorf("UUID %s is taken for a placeholder", uuid1)
	}
	ids := IDsOf(wire.Inventory{System: wire.System{UUID: strings.ToUpper(uuid1), Serial: " Default String "}})
	if ids.UUID != uuid1 || ids.Serial != "" {
		t.Errorf("ids are %+v", ids)
	}
}

func TestEveryMachineHasANameThatMayBeAHostname(t *testing.T) {
	for serial, want := range map[string]string{
		"ABC123":                   "abc123",
		"VMware-56 4d/8a":          "vmware-56-4d-8a",
		"":                         "m-525400000001",
		"///":                      "m-525400000001",
		"Ω":                        "m-525400000001",
		strings.Repeat("long", 20): "m-525400000001",
	} {
		r := newRig(t)
		r.must(seen("m1", uuid1, serial, mac1))
		if got := r.machine("m1").Name; got != want || !ValidHostname(got) {
			t.Errorf("serial %q gives name %q, want %q", serial, got, want)
		}
	}
}

func TestTasksForTwoCardsOfOneMachineBecomeOne(t *testing.T) {
	r := newRig(t)
	other := create("t2")
	other.TargetMAC = mac2
	r.must(debian(), create("t1"), other, seen("m1", uuid1, "A", mac1, mac2))
	if a, b := r.task("t1").Status, r.task("t2").Status; a != wire.StatusPendingApproval || b != wire.StatusCancelled {
		t.Errorf("the first task is %s and the second %s", a, b)
	}
	r.must(CancelTask{TaskID: "t1"})
	if got := r.s.TaskForMAC(mac2); got != nil {
		t.Errorf("task %s is still asked of the machine", got.ID)
	}
}
