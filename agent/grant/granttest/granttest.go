// Package granttest is a cluster's authority with its key for grants, for the tests
// of who gives grants and who believes them.
package granttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// Authority is a cluster's.
type Authority struct {
	Pin pin.Pin
	now func() time.Time

	ca, cert []byte
	key      ed25519.PrivateKey
}

// New makes an authority whose certificates hold at the time that now gives.
func New(t testing.TB, now func() time.Time) *Authority {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	begins, ends := now().Add(-24*time.Hour), now().AddDate(10, 0, 0)
	caTemplate := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, MaxPathLenZero: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: begins, NotAfter: ends}
	ca := sign(t, caTemplate, caTemplate, caKey.Public(), caKey)
	a := &Authority{Pin: pin.Of(ca), now: now, ca: ca.Raw}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"grant." + a.Pin.Cluster() + ".lpmos.internal"},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, NotBefore: begins, NotAfter: ends}
	a.key, a.cert = key, sign(t, template, ca, pub, caKey).Raw
	return a
}

func sign(t testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Fill gives the grant what makes it one of this cluster, given now.
func (a *Authority) Fill(g wire.Grant) wire.Grant {
	g.Cluster, g.MachineID, g.InventoryHash = a.Pin.Cluster(), g.Plan.MachineID, g.Plan.InventoryHash
	g.Issued, g.Lifetime = a.now().Unix(), int64(wire.GrantLife/time.Second)
	return g
}

// Sign signs the grant as it is.
func (a *Authority) Sign(g wire.Grant) wire.SignedGrant {
	payload, err := json.Marshal(g)
	if err != nil {
		panic(err) // nothing in a grant can fail to be JSON
	}
	return wire.SignedGrant{Payload: payload, Signature: ed25519.Sign(a.key, wire.GrantMessage(payload)), Certificate: a.cert, CA: a.ca}
}

// Checker is what a machine of the cluster has, whose clock is now.
func (a *Authority) Checker() *grant.Checker { return grant.NewChecker(pin.NewVerifier(a.Pin, a.now)) }
