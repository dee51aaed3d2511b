// Package grant is the permission to erase, as a machine checks it before it
// believes it. A node sends it signed by a key that the cluster's authority has
// certified for this alone; the machine knows that authority by its pin. So what a
// disk is erased on is the cluster's word, whoever carries it: neither a node's
// certificate nor what was overheard an hour ago makes a grant.
package grant

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

const (
	// ahead is how far the clock of the node that signed may be before the machine's,
	// which it has from the node that it booted from.
	ahead = 15 * time.Minute
	// maxLife is more than any node gives.
	maxLife = time.Hour
)

// ErrEnded says that a grant was good and is not any more. Nothing is lost by it: the
// node gives another for as long as the approval stands.
var ErrEnded = errors.New("the grant has ended")

// Checker opens the grants for one machine.
type Checker struct {
	verify *pin.Verifier

	mu    sync.Mutex
	epoch uint64 // the newest that a good grant was of
}

// NewChecker believes what the authority of the verifier stands for.
func NewChecker(v *pin.Verifier) *Checker { return &Checker{verify: v} }

// Open gives the grant, if it is one for this machine at this time. Whoever is
// about to write the first byte asks allowed, which says when the grant has ended
// since: time goes on while an image is waited for. It goes by the clock that
// nobody can set.
func (c *Checker) Open(signed *wire.SignedGrant, machineID string) (g wire.Grant, allowed func() error, err error) {
	received := c.verify.Now()
	if signed == nil {
		return g, nil, errors.New("the grant is not signed")
	}
	if err := c.checkSignature(*signed); err != nil {
		return g, nil, err
	}
	if err := json.Unmarshal(signed.Payload, &g); err != nil {
		return g, nil, fmt.Errorf("the grant cannot be read: %w", err)
	}
	if err := c.check(g, machineID, received); err != nil {
		return g, nil, err
	}
	ends := time.Unix(g.Issued, 0).Add(time.Duration(g.Lifetime) * time.Second).Sub(received)
	return g, func() error {
		if gone := c.verify.Now().Sub(received); gone < 0 || gone >= ends {
			return fmt.Errorf("%w %s after it was received", ErrEnded, gone.Round(time.Second))
		}
		return nil
	}, nil
}

func (c *Checker) checkSignature(s wire.SignedGrant) error {
	leaf, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		return fmt.Errorf("the certificate of the grant's key cannot be read: %w", err)
	}
	ca, err := x509.ParseCertificate(s.CA)
	if err != nil {
		return fmt.Errorf("the certificate of the grant's authority cannot be read: %w", err)
	}
	if err := c.verify.VerifyChain([]*x509.Certificate{leaf, ca}, pin.Grant); err != nil {
		return fmt.Errorf("the grant's key is not the cluster's: %w", err)
	}
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || !ed25519.Verify(key, wire.GrantMessage(s.Payload), s.Signature) {
		return errors.New("the grant is not what the cluster has signed: it was altered on its way")
	}
	return nil
}

// check compares a grant that is the cluster's with this machine and this time.
func (c *Checker) check(g wire.Grant, machineID string, now time.Time) error {
	issued, life := time.Unix(g.Issued, 0), time.Duration(g.Lifetime)*time.Second
	switch {
	case g.Cluster != c.verify.Pin().Cluster():
		return fmt.Errorf("the grant is for cluster %.40q, and this machine was booted for %s", g.Cluster, c.verify.Pin().Cluster())
	case machineID == "" || g.MachineID != machineID || g.Plan.MachineID != machineID:
		return fmt.Errorf("the grant is for machine %.40q, and this is %.40q", g.MachineID, machineID)
	case g.InventoryHash == "" || g.InventoryHash != g.Plan.InventoryHash:
		return errors.New("the grant names other hardware than its plan")
	case g.TaskID == "" || g.Generation == 0 || g.PlanHash != g.Plan.Hash():
		return errors.New("the grant does not fit its plan")
	case life <= 0 || life > maxLife:
		return fmt.Errorf("the grant says that it is good for %s", life)
	case issued.After(now.Add(ahead)):
		return fmt.Errorf("the grant is of %s, which is still to come: the clocks of two nodes differ too much", issued.UTC().Format(time.DateTime))
	case !now.Before(issued.Add(life)):
		return fmt.Errorf("the grant of %s has ended", issued.UTC().Format(time.DateTime))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.Epoch < c.epoch {
		return fmt.Errorf("the grant is of epoch %d, and the cluster has begun epoch %d since", g.Epoch, c.epoch)
	}
	c.epoch = g.Epoch
	return nil
}
