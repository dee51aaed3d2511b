package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	nodeLife = 90 * 24 * time.Hour
	// renewAfter leaves a node that is off or cut off a month to come back.
	renewAfter = 60 * 24 * time.Hour
	// backdated is how far a clock may be behind that is shown a new certificate.
	backdated = 24 * time.Hour
)

// caPurpose is what the authority's key is sealed for.
const caPurpose = "lpmos cluster authority 1 "

// CA is the authority of one cluster with its key. It exists in memory only
// while something is signed; the key lies sealed in the log.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// NewCA makes the authority of a new cluster. The cluster's id is made from its
// key.
func NewCA(now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's key: %w", err)
	}
	cluster := idOf(spki)
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "LPMOS cluster " + cluster},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's certificate: %w", err)
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// OpenCA unseals the authority that the log holds: the cluster's id, the
// certificate as DER and what Seal gave.
func OpenCA(cluster string, certDER, sealed []byte, s Secret) (*CA, error) {
	cert, err := parseCA(certDER)
	if err != nil {
		return nil, err
	}
	der, err := s.Open(caPurpose+cluster, sealed)
	if err != nil {
		return nil, fmt.Errorf("open the cluster's key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("open the cluster's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("open the cluster's key: it is not the key of the cluster's certificate")
	}
	return &CA{cluster: cluster, cert: cert, key: key}, nil
}

// Cluster is the id of the cluster.
func (c *CA) Cluster() string { return c.cluster }

// Certificate is the authority's own, as DER.
func (c *CA) Certificate() []byte { return c.cert.Raw }

// Seal gives the key as it may stand in the log and in backups.
func (c *CA) Seal(s Secret) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return nil, fmt.Errorf("seal the cluster's key: %w", err)
	}
	return s.Seal(caPurpose+c.cluster, der), nil
}

// Request is what a node asks its certificate with, checked.
type Request struct {
	Node string // id
	key  *ecdsa.PublicKey
}

// ParseRequest reads and checks a request for a certificate, as DER. Of what it
// says only the key counts, and the id is made from the key: a node can ask for
// itself alone.
func ParseRequest(der []byte) (Request, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, fmt.Errorf("the certificate request cannot be read: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return Request{}, errors.New("the certificate request is not for an ECDSA key on P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fmt.Errorf("the certificate request is not signed with its own key: %w", err)
	}
	return Request{Node: idOf(csr.RawSubjectPublicKeyInfo), key: key}, nil
}

// Certify gives the certificate that was asked for, as DER.
func (c *CA) Certify(r Request, now time.Time) ([]byte, error) { return c.sign(r.Node, r.key, now) }

func (c *CA) sign(node string, key *ecdsa.PublicKey, now time.Time) ([]byte, error) {
	if err := errors.Join(checkID("node", node), checkID("cluster", c.cluster)); err != nil {
		return nil, err
	}
	ends := now.Add(nodeLife)
	if ends.After(c.cert.NotAfter) {
		ends = c.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "LPMOS node " + node},
		DNSNames:  []string{nodeName(node, c.cluster)},
		NotBefore: now.Add(-backdated), NotAfter: ends,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of node %s: %w", node, err)
	}
	return der, nil
}

func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // a serial is no negative number
	b[15] |= 1   // nor zero
	return new(big.Int).SetBytes(b[:])
}

func parseCA(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate: %w", err)
	}
	if !cert.IsCA || !cert.MaxPathLenZero || !bytes.Equal(cert.RawIssuer, cert.RawSubject) {
		return nil, errors.New("read the cluster's certificate: it is none of a cluster's authority")
	}
	return cert, nil
}
