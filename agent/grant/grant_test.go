package grant_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/grant/granttest"
	"github.com/lpmos/lpmos/agent/wire"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func good() wire.Grant {
	p := wire.Plan{MachineID: "m1", InventoryHash: "hw", Erase: wire.PlanDisk{DiskID: wire.DiskID{Serial: "D1", SizeBytes: 1 << 30}}}
	return wire.Grant{TaskID: "t1", Generation: 1, Plan: p, PlanHash: p.Hash(), Epoch: 3}
}

// S33: whatever is wrong with a grant, it opens nothing.
func TestS33_NoGrantButTheClustersOpens(t *testing.T) {
	at := &clock{noon}
	ours, foreign := granttest.New(t, at.now), granttest.New(t, at.now)
	replan := func(g *wire.Grant, change func(*wire.Plan)) {
		change(&g.Plan)
		g.PlanHash = g.Plan.Hash()
	}
	for _, c := range []struct {
		name    string
		change  func(*wire.Grant)
		spoil   func(*wire.SignedGrant)
		machine string
		refused string // part of the reason; "" opens
	}{
		{name: "as it was given"},
		{name: "a second before its end", change: func(g *wire.Grant) { g.Issued = noon.Add(time.Second - wire.GrantLife).Unix() }},
		{name: "signed by a node whose clock is ahead", change: func(g *wire.Grant) { g.Issued = noon.Add(10 * time.Minute).Unix() }},

		{name: "expired", change: func(g *wire.Grant) { g.Issued = noon.Add(-wire.GrantLife).Unix() }, refused: "has ended"},
		{name: "of tomorrow", change: func(g *wire.Grant) { g.Issued = noon.AddDate(0, 0, 1).Unix() }, refused: "still to come"},
		{name: "for ever", change: func(g *wire.Grant) { g.Lifetime = 1 << 60 }, refused: "good for"},
		{name: "for years", change: func(g *wire.Grant) { g.Lifetime = 1 << 30 }, refused: "good for"},
		{name: "for no time", change: func(g *wire.Grant) { g.Lifetime = 0 }, refused: "good for"},
		{name: "for another machine", machine: "m2", refused: `this is "m2"`},
		{name: "before the machine was told who it is", machine: "-", refused: "this is"},
		{name: "another machine's plan", change: func(g *wire.Grant) { replan(g, func(p *wire.Plan) { p.MachineID = "m2" }) }, refused: "is for machine"},
		{name: "for another cluster", change: func(g *wire.Grant) { g.Cluster = foreign.Pin.Cluster() }, refused: "is for cluster"},
		{name: "for no cluster", change: func(g *wire.Grant) { g.Cluster = "" }, refused: "is for cluster"},
		{name: "other hardware", change: func(g *wire.Grant) { g.InventoryHash = "x" }, refused: "other hardware"},
		{name: "another disk than planned", change: func(g *wire.Grant) { g.Plan.Erase.Serial = "D2" }, refused: "fit its plan"},
		{name: "no task", change: func(g *wire.Grant) { g.TaskID = "" }, refused: "fit its plan"},
		{name: "no generation", change: func(g *wire.Grant) { g.Generation = 0 }, refused: "fit its plan"},

		{name: "not signed", spoil: func(s *wire.SignedGrant) { s.Signature = nil }, refused: "altered"},
		{name: "altered", spoil: func(s *wire.SignedGrant) {
			s.Payload = []byte(strings.Replace(string(s.Payload), "D1", "D2", 1))
		}, refused: "altered"},
		{name: "another signature", spoil: func(s *wire.SignedGrant) { s.Signature[0] ^= 1 }, refused: "altered"},
		{name: "signed by another cluster", spoil: func(s *wire.SignedGrant) { *s = foreign.Sign(ours.Fill(good())) }, refused: "not the cluster"},
		{name: "another's key beside our authority", spoil: func(s *wire.SignedGrant) {
			ca := s.CA
			*s = foreign.Sign(ours.Fill(good()))
			s.CA = ca
		}, refused: "not signed by the cluster's authority"},
		{name: "the authority's own certificate", spoil: func(s *wire.SignedGrant) { s.Certificate = s.CA }, refused: "not the cluster's"},
		{name: "no certificate", spoil: func(s *wire.SignedGrant) { s.Certificate = nil }, refused: "cannot be read"},
		{name: "no authority", spoil: func(s *wire.SignedGrant) { s.CA = nil }, refused: "cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := ours.Fill(good())
			if c.change != nil {
				c.change(&g)
			}
			signed := ours.Sign(g)
			if c.spoil != nil {
				c.spoil(&signed)
			}
			machine := strings.TrimPrefix(c.machine, "-")
			if c.machine == "" {
				machine = "m1"
			}
			got, allowed, err := ours.Checker().Open(&signed, machine)
			switch {
			case c.refused == "" && (err != nil || got.TaskID != "t1" || allowed() != nil):
				t.Errorf("refused: %v", err)
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("got %v, want a refusal with %q", err, c.refused)
			}
		})
	}
	if _, _, err := ours.Checker().Open(nil, "m1"); err == nil {
		t.Error("no grant at all opened")
	}
}

func TestAGrantEndsWhileItIsWaitedFor(t *testing.T) {
	at := &clock{noon}
	ours := granttest.New(t, at.now)
	signed := ours.Sign(ours.Fill(good()))
	at.t = noon.Add(time.Minute)
	_, allowed, err := ours.Checker().Open(&signed, "m1")
	if err != nil {
		t.Fatal(err)
	}
	for after, ok := range map[time.Duration]bool{time.Minute: true, wire.GrantLife - time.Second: true, wire.GrantLife: false, 24 * time.Hour: false, -time.Hour: false} {
		at.t = noon.Add(after)
		if err := allowed(); (err == nil) != ok {
			t.Errorf("after %s: %v", after, err)
		}
	}
}

func TestAGrantOfAnOlderEpochIsNotTakenBack(t *testing.T) {
	at := &clock{noon}
	ours := granttest.New(t, at.now)
	check := ours.Checker()
	open := func(epoch uint64) error {
		g := ours.Fill(good())
		g.Epoch = epoch
		signed := ours.Sign(g)
		_, _, err := check.Open(&signed, "m1")
		return err
	}
	if err := open(3); err != nil {
		t.Fatal(err)
	}
	if err := open(4); err != nil {
		t.Fatal(err)
	}
	if err := open(3); err == nil || !strings.Contains(err.Error(), "epoch 4") {
		t.Errorf("epoch 3 after 4: %v", err)
	}
}

// FuzzOpen: what is not exactly what was signed opens nothing, and nothing panics.
func FuzzOpen(f *testing.F) {
	at := &clock{noon}
	ours := granttest.New(f, at.now)
	signed := ours.Sign(ours.Fill(good()))
	raw, err := json.Marshal(signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"payload":"e30="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s wire.SignedGrant
		if json.Unmarshal(b, &s) != nil {
			return
		}
		if _, _, err := ours.Checker().Open(&s, "m1"); err == nil && string(s.Payload) != string(signed.Payload) {
			t.Errorf("%s opened", s.Payload)
		}
	})
}
