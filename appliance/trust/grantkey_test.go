package trust

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

func newGrantKey(t *testing.T, ca *CA) *GrantKey {
	t.Helper()
	k, err := ca.NewGrantKey(now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What a node signs, a machine that knows the authority by its pin believes, for as
// long as the authority lasts.
func TestAMachineBelievesAGrantOfItsCluster(t *testing.T) {
	ca, secret := newCA(t), NewSecret()
	made := newGrantKey(t, ca)
	key, err := OpenGrantKey(ca.Cluster(), ca.Certificate(), made.Certificate(), made.Seal(secret), secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{now, now.AddDate(9, 0, 0)} {
		p := wire.Plan{MachineID: "m1", InventoryHash: "hw"}
		payload, err := json.Marshal(wire.Grant{TaskID: "t1", Generation: 1, Plan: p, PlanHash: p.Hash(), Cluster: ca.Cluster(), MachineID: "m1",
			InventoryHash: "hw", Issued: at.Unix(), Lifetime: 60})
		if err != nil {
			t.Fatal(err)
		}
		signed := key.Sign(payload)
		machine := grant.NewChecker(pin.NewVerifier(pin.Of(ca.cert), func() time.Time { return at }))
		if _, _, err := machine.Open(&signed, "m1"); err != nil {
			t.Errorf("in %d: %v", at.Year(), err)
		}
	}
	if _, _, err := NodeOf(made.cert); err == nil {
		t.Error("the certificate for grants is taken for a node's")
	}
}

func TestASealedGrantKeyOpensWithItsSecretAlone(t *testing.T) {
	ca, other, secret := newCA(t), newCA(t), NewSecret()
	key, second := newGrantKey(t, ca), newGrantKey(t, ca)
	sealed := key.Seal(secret)
	altered := append([]byte(nil), sealed...)
	altered[len(altered)/2] ^= 1
	for name, open := range map[string]func() (*GrantKey, error){
		"another secret": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), ca.Certificate(), key.Certificate(), sealed, NewSecret())
		},
		"altered": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), ca.Certificate(), key.Certificate(), altered, secret)
		},
		"empty": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), ca.Certificate(), key.Certificate(), nil, secret)
		},
		"another key's certificate": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), ca.Certificate(), second.Certificate(), sealed, secret)
		},
		"another authority": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), other.Certificate(), key.Certificate(), sealed, secret)
		},
		"another cluster": func() (*GrantKey, error) {
			return OpenGrantKey(other.Cluster(), ca.Certificate(), key.Certificate(), sealed, secret)
		},
		"a node's certificate": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), ca.Certificate(), certify(t, ca).Raw, sealed, secret)
		},
		"sealed for the authority": func() (*GrantKey, error) {
			return OpenGrantKey(ca.Cluster(), ca.Certificate(), key.Certificate(), secret.Seal(caPurpose+ca.Cluster(), key.key.Seed()), secret)
		},
	} {
		if _, err := open(); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
