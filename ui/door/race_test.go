package door_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/door"
)

// counted is a cluster that counts what is proposed, and lets something happen before.
type counted struct {
	*apitest.Cluster
	before   func(fleet.Body)
	proposed int
}

func (c *counted) Propose(ctx context.Context, body fleet.Body) (any, error) {
	c.proposed++
	if c.before != nil {
		c.before(body)
	}
	return c.Cluster.Propose(ctx, body)
}

func newDoor(t *testing.T) (*counted, *door.Door) {
	t.Helper()
	node := apitest.NewNode()
	c := &counted{Cluster: node.Cluster}
	d := door.New(door.Config{Cluster: c, Now: node.Clock.Now, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(d.Close)
	return c, d
}

// Who tries codes writes nothing into the log, and keeps nobody out who has a good one.
func TestACodeThatIsNotKnownIsNotProposed(t *testing.T) {
	c, d := newDoor(t)
	const from = "192.0.2.7"
	code, _, err := d.NewLoginCode(t.Context(), "", "local")
	if err != nil {
		t.Fatal(err)
	}
	before, waits := c.proposed, 0
	var refused *door.Refused
	for range 100 {
		if _, _, err := d.Redeem(t.Context(), from, "AAAAA-BBBBB-CCCCC-DDDDD"); !errors.As(err, &refused) {
			t.Fatalf("a wrong code: %v", err)
		}
		if refused.Wait > 0 {
			waits++
		}
	}
	if c.proposed != before || waits == 0 {
		t.Errorf("100 wrong codes: %d were proposed and %d told to wait", c.proposed-before, waits)
	}
	if _, s, err := d.Redeem(t.Context(), from, code); err != nil || s == nil {
		t.Errorf("the good code from there: %v", err)
	}
	if _, _, err := d.Redeem(t.Context(), "192.0.2.8", code); !errors.As(err, &refused) {
		t.Errorf("the good code again: %v", err)
	}
}

// A password that is changed while it is checked begins no session.
func TestAPasswordOfBeforeBeginsNoSession(t *testing.T) {
	c, d := newDoor(t)
	phc, err := d.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Propose(t.Context(), fleet.PutUser{ID: "u-ann", Name: "ann", Role: fleet.Admin, PasswordHash: phc}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Login(t.Context(), "192.0.2.7", "ann", "correct horse battery"); err != nil {
		t.Fatalf("the password as it is: %v", err)
	}
	other, err := d.Hash(t.Context(), "another horse battery")
	if err != nil {
		t.Fatal(err)
	}
	c.before = func(body fleet.Body) {
		if _, session := body.(fleet.CreateSession); session {
			if _, err := c.Cluster.Propose(t.Context(), fleet.ChangeUser{ID: "u-ann", PasswordHash: &other}); err != nil {
				t.Error(err)
			}
		}
	}
	var refused *door.Refused
	if _, _, err := d.Login(t.Context(), "192.0.2.7", "ann", "correct horse battery"); !errors.As(err, &refused) {
		t.Errorf("the password of before: %v", err)
	}
}
