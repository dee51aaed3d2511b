package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// grantPurpose is what the key for grants is sealed for.
const grantPurpose = "lpmos grant key 1 "

// grantName is the only name in the certificate of the key for grants. It is no
// node's, so that neither can stand in for the other.
func grantName(cluster string) string { return "grant." + cluster + nameSuffix }

// GrantKey signs the permission to erase. A cluster has one, which every node can
// open: a machine believes the cluster, not the node that it happens to talk to.
type GrantKey struct {
	cluster  string
	ca, cert *x509.Certificate
	key      ed25519.PrivateKey
}

// NewGrantKey makes the key of the authority's cluster. Its certificate lasts as
// long as the authority's: machines keep no list of what was replaced.
func (c *CA) NewGrantKey(now time.Time) (*GrantKey, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key for grants: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "LPMOS grants of cluster " + c.cluster},
		DNSNames:  []string{grantName(c.cluster)},
		NotBefore: now.Add(-backdated), NotAfter: c.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, pub, c.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for grants: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for grants: %w", err)
	}
	return &GrantKey{cluster: c.cluster, ca: c.cert, cert: cert, key: key}, nil
}

// OpenGrantKey unseals the key that the log holds.
func OpenGrantKey(cluster string, caDER, certDER, sealed []byte, s Secret) (*GrantKey, error) {
	ca, err := parseCA(caDER)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("read the certificate for grants: %w", err)
	}
	if err := cert.CheckSignatureFrom(ca); err != nil || len(cert.DNSNames) != 1 || cert.DNSNames[0] != grantName(cluster) {
		return nil, errors.Join(fmt.Errorf("read the certificate for grants: it is none of cluster %s", cluster), err)
	}
	seed, err := s.Open(grantPurpose+cluster, sealed)
	if err != nil {
		return nil, fmt.Errorf("open the key for grants: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, errors.New("open the key for grants: it is no such key")
	}
	key := ed25519.NewKeyFromSeed(seed)
	if !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return nil, errors.New("open the key for grants: it is not the key of its certificate")
	}
	return &GrantKey{cluster: cluster, ca: ca, cert: cert, key: key}, nil
}

// Certificate is the key's, as DER.
func (k *GrantKey) Certificate() []byte { return k.cert.Raw }

// Seal gives the key as it may stand in the log and in backups.
func (k *GrantKey) Seal(s Secret) []byte { return s.Seal(grantPurpose+k.cluster, k.key.Seed()) }

// Sign signs a grant, which is given as the JSON that travels.
func (k *GrantKey) Sign(payload []byte) wire.SignedGrant {
	return wire.SignedGrant{Payload: payload, Signature: ed25519.Sign(k.key, wire.GrantMessage(payload)), Certificate: k.cert.Raw, CA: k.ca.Raw}
}
