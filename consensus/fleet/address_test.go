package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// assignRig has node n1 lending 10.0.0.100-199, machine m1, and m2 with two cards.
func assignRig(t *testing.T) *rig {
	r := newRig(t)
	two := seen("m2", uuid2, "SER2", mac2, "52:54:00:00:00:03")
	two.IP = "10.0.0.120"
	one := report("boot-1")
	one.IP = "10.0.0.110"
	r.must(PutNode{Node{ID: "n1", Name: "first", BootURLs: []string{"http://10.0.0.1:8081"}, Networks: []string{lan}}}, claim("n1", "100", "199"), one, two)
	return r
}

func TestAPersonGivesAMachineAnAddress(t *testing.T) {
	r := assignRig(t)
	give := func(address string) AssignAddress {
		return AssignAddress{MachineID: "m1", Address: address, By: "ann"}
	}
	r.must(give("10.0.0.20"))
	if m := r.machine("m1"); m.AddressOf(mac1) != "10.0.0.20" || m.Addresses[mac1] != "10.0.0.110" || r.s.MachineByAddress("10.0.0.20").ID != "m1" {
		t.Errorf("it has %v and keeps %v", m.Assigned, m.Addresses)
	}
	if all := r.s.audit; !strings.Contains(all[len(all)-1].What, "ann gave machine ser1 the address 10.0.0.20 on card "+mac1) || all[len(all)-1].Machine != "m1" {
		t.Errorf("the audit says %+v", all[len(all)-1])
	}
	n := len(r.s.audit)
	r.must(give("10.0.0.20"))
	if len(r.s.audit) != n || len(r.events) != 0 {
		t.Error("the same again is told again")
	}
	// It boots with it, or from elsewhere: it has what it was given, and what it had stays
	// its own, for a node that has not heard of that.
	for i, ip := range []string{"10.0.0.20", "10.0.0.130"} {
		again := report(fmt.Sprintf("boot-%d", i+2))
		again.IP = ip
		r.must(again)
		if m := r.machine("m1"); m.AddressOf(mac1) != "10.0.0.20" || r.s.MachineByAddress("10.0.0.110") == nil || r.s.MachineByAddress("10.0.0.130") != nil {
			t.Errorf("seen with %s it has %v and keeps %v", ip, m.Assigned, m.Addresses)
		}
	}
	// What is taken back it may use until its lease is over: nobody else gets it before.
	r.must(give("10.0.0.21"), give(""))
	if m := r.machine("m1"); m.Assigned != nil || m.AddressOf(mac1) != "10.0.0.110" || r.s.MachineByAddress("10.0.0.21") != nil {
		t.Errorf("what was taken back is still there: %v, %v", m.Assigned, m.Addresses)
	}
	take := AssignAddress{MachineID: "m2", MAC: mac2, Address: "10.0.0.21"}
	if err := r.refused(Conflict, take); !strings.Contains(err.Message, "was taken back from machine ser1, which may use it until 14:00 UTC") {
		t.Error(err)
	}
	r.refused(Conflict, AssignAddress{MachineID: "m2", MAC: mac2, Address: "10.0.0.20"})
	r.must(give("10.0.0.21"), give(""), give("")) // the machine itself may have it back
	r.at = r.at.Add(leaseRest)
	r.must(take, AssignAddress{MachineID: "m2"}, give("10.0.0.22"))
	if left := r.machine("m1").Left; left != nil {
		t.Errorf("what is over is remembered: %v", left)
	}
	r.refused(Conflict, AssignAddress{MachineID: "m1", Address: "10.0.0.21"})
	r.must(DeleteMachine{MachineID: "m2"}, AssignAddress{MachineID: "m1", Address: "10.0.0.21"}) // it is gone
}

// An agent that still has what was taken back from its machine does not make that its own.
func TestAnAddressThatWasTakenBackDoesNotComeBack(t *testing.T) {
	r := assignRig(t)
	kept := r.machine("m1").AddressOf(mac1)
	r.must(AssignAddress{MachineID: "m1", Address: "10.0.0.20"})
	still := report("boot-2")
	still.IP = "10.0.0.20"
	r.must(still, AssignAddress{MachineID: "m1"}, still)
	if got := r.machine("m1").AddressOf(mac1); got != kept || kept == "10.0.0.20" {
		t.Errorf("it has %s, and kept %s before", got, kept)
	}
	r.at = r.at.Add(leaseRest)
	r.must(still) // by now it was lent it, or set up with it
	if got := r.machine("m1").AddressOf(mac1); got != "10.0.0.20" {
		t.Errorf("it has %s", got)
	}
}

// What the card has out of the pool may be made its own, and stays when that is taken back.
func TestAnAddressThatACardKeepsMayBeGivenToIt(t *testing.T) {
	r := assignRig(t)
	r.must(AssignAddress{MachineID: "m1", Address: "10.0.0.110"})
	moved := report("boot-2")
	moved.IP = "10.0.0.111"
	r.must(moved)
	if m := r.machine("m1"); m.AddressOf(mac1) != "10.0.0.110" || r.s.MachineByAddress("10.0.0.110") == nil {
		t.Errorf("it has %s", m.AddressOf(mac1))
	}
	r.must(AssignAddress{MachineID: "m1"})
	if m := r.machine("m1"); m.AddressOf(mac1) != "10.0.0.110" {
		t.Errorf("it has %q", m.AddressOf(mac1))
	}
}

func TestWhichAddressesCannotBeGiven(t *testing.T) {
	for _, c := range []struct {
		name string
		b    AssignAddress
		code Code
		says string
	}{
		{"to nobody", AssignAddress{MachineID: "m9", Address: "10.0.0.20"}, NotFound, "there is no machine m9"},
		{"to another's card", AssignAddress{MachineID: "m1", MAC: mac2, Address: "10.0.0.20"}, Invalid, "has no card " + mac2},
		{"a word", AssignAddress{MachineID: "m1", Address: "ten"}, Invalid, `"ten" is no IPv4 address`},
		{"of IPv6", AssignAddress{MachineID: "m1", Address: "::ffff:10.0.0.20"}, Invalid, "is no IPv4 address"},
		{"written in another way", AssignAddress{MachineID: "m1", Address: "10.0.0.020"}, Invalid, "is no IPv4 address"},
		{"of no network", AssignAddress{MachineID: "m1", Address: "10.9.0.20"}, Invalid, "10.9.0.20 is of no network on which nodes lend addresses (10.0.0.0/24)"},
		{"the network", AssignAddress{MachineID: "m1", Address: "10.0.0.0"}, Invalid, "itself, or everybody in it"},
		{"everybody", AssignAddress{MachineID: "m1", Address: "10.0.0.255"}, Invalid, "itself, or everybody in it"},
		{"a node's", AssignAddress{MachineID: "m1", Address: "10.0.0.1"}, Conflict, "10.0.0.1 is node first's"},
		{"out of the pool", AssignAddress{MachineID: "m1", Address: "10.0.0.150"}, Conflict, "may be lent to another machine: new ones draw from 10.0.0.100-10.0.0.199"},
		{"that another keeps", AssignAddress{MachineID: "m1", Address: "10.0.0.120"}, Conflict, "10.0.0.120 is machine ser2's"},
		{"that another was given", AssignAddress{MachineID: "m1", Address: "10.0.0.30"}, Conflict, "10.0.0.30 is machine ser2's"},
		{"that another card was given", AssignAddress{MachineID: "m2", MAC: "52:54:00:00:00:03", Address: "10.0.0.30"}, Conflict, "is given to another card of the machine, " + mac2},
	} {
		r := assignRig(t)
		r.must(AssignAddress{MachineID: "m2", MAC: mac2, Address: "10.0.0.30"})
		if err := r.refused(c.code, c.b); !strings.Contains(err.Message, c.says) {
			t.Errorf("%s: %s, want %q", c.name, err.Message, c.says)
		}
	}
	r := newRig(t)
	r.must(report("boot-1"))
	if err := r.refused(Conflict, AssignAddress{MachineID: "m1", Address: "10.0.0.20"}); !strings.Contains(err.Message, "no node lends addresses") {
		t.Error(err)
	}
}

// Without a MAC it is the card that the agent speaks from.
func TestAnAddressIsForTheCardThatBoots(t *testing.T) {
	r := assignRig(t)
	r.must(AssignAddress{MachineID: "m2", Address: "10.0.0.30"})
	if got := r.machine("m2").Assigned; got[mac2] != "10.0.0.30" {
		t.Errorf("it is %v", got)
	}
	r.must(AssignAddress{MachineID: "m2", MAC: "52:54:00:00:00:03", Address: "10.0.0.31"}, AssignAddress{MachineID: "m2", MAC: mac2})
	if got := r.machine("m2").Assigned; len(got) != 1 || got["52:54:00:00:00:03"] != "10.0.0.31" {
		t.Errorf("one was taken back and %v is left", got)
	}
}

// It makes the log of what is about addresses alone, if -update is given.
func TestTheLogOfAddresses(t *testing.T) {
	if !*update {
		t.Skip("written with -update")
	}
	r := newRig(t)
	var out bytes.Buffer
	for _, b := range []Body{
		PutNode{Node{ID: "n1", Name: "first", BootURLs: []string{"http://10.0.0.1:8081"}, Networks: []string{lan}}}, claim("n1", "100", "199"),
		report("boot-1"), seen("m2", uuid2, "SER2", mac2),
		AssignAddress{MachineID: "m1", Address: "10.0.0.20", By: "ann"},
		AssignAddress{MachineID: "m2", MAC: mac2, Address: "10.0.0.20", By: "ann"}, // refused
		AssignAddress{MachineID: "m2", MAC: mac2, Address: "10.0.0.21", By: "ann"},
		AssignAddress{MachineID: "m2", MAC: mac2, By: "bob"},
	} {
		c := r.command(b)
		raw, err := EncodeEntry([]Command{c})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(raw, '\n'))
		r.s.Apply(r.index, c) //nolint:errcheck // refusals belong to a log
	}
	name := "testdata/log-v3-addresses"
	if err := errors.Join(os.WriteFile(name+".jsonl", out.Bytes(), 0o644), os.WriteFile(name+".snapshot", snapshotOf(t, r.s), 0o644)); err != nil {
		t.Fatal(err)
	}
}
