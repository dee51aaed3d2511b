// Package pin is how a machine knows its cluster: by the hash of the public key of
// the cluster's authority, which it was told when it booted, and by nothing else.
// There is no list of authorities in it, and no clock of the machine's own, which
// may show any year when its battery is empty.
package pin

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Pin is the SHA-256 of the public key (SubjectPublicKeyInfo) of a cluster's
// authority.
type Pin [sha256.Size]byte

// Parse reads a pin as String writes it: 64 hex digits, small ones.
func Parse(text string) (Pin, error) {
	var p Pin
	if len(text) != hex.EncodedLen(len(p)) || strings.ToLower(text) != text {
		return Pin{}, fmt.Errorf("the pin of the cluster has to be %d small hex digits", hex.EncodedLen(len(p)))
	}
	if _, err := hex.Decode(p[:], []byte(text)); err != nil {
		return Pin{}, fmt.Errorf("the pin of the cluster has to be %d small hex digits", hex.EncodedLen(len(p)))
	}
	if p == (Pin{}) {
		return Pin{}, errors.New("the pin of the cluster is all zeros, which is nobody's")
	}
	return p, nil
}

// Of takes the pin from the certificate of an authority.
func Of(ca *x509.Certificate) Pin { return sha256.Sum256(ca.RawSubjectPublicKeyInfo) }

// String is the pin as it stands on a kernel command line.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// Cluster is the id of the cluster, which is made from its authority's key.
func (p Pin) Cluster() string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(p[:16]))
}

// What a certificate may be for: the first part of its only name.
const (
	Node  = "node"  // node.NODE.CLUSTER.lpmos.internal: a node speaks with it
	Grant = "grant" // grant.CLUSTER.lpmos.internal: grants are signed with it
)

// suffix ends every name that an authority of ours certifies.
const suffix = ".lpmos.internal"

// Verifier decides whom to believe.
type Verifier struct {
	pin Pin
	now func() time.Time
}

// NewVerifier believes what the authority with this pin has signed, as far as it
// holds at the time that now gives.
func NewVerifier(p Pin, now func() time.Time) *Verifier { return &Verifier{pin: p, now: now} }

// Pin is the authority that is believed.
func (v *Verifier) Pin() Pin { return v.pin }

// Now is the time that certificates have to hold at.
func (v *Verifier) Now() time.Time { return v.now() }

// Config is for talking to a node: TLS 1.3 with a node of the pinned cluster, or
// no connection. Connections are never resumed, so that each shows its certificate.
func (v *Verifier) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The standard library would look for the address in the certificate and for
		// the authority in a list; VerifyConnection stands in for both, always.
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			return v.VerifyChain(st.PeerCertificates, Node)
		},
	}
}

// ErrUntrusted begins what is said of a peer that is not believed.
var ErrUntrusted = errors.New("it does not prove that it is of this machine's cluster")

// VerifyChain checks that the first of the certificates is for this purpose (Node,
// Grant), was signed by the pinned authority, which has to be among the others,
// and holds now.
func (v *Verifier) VerifyChain(certs []*x509.Certificate, purpose string) error {
	if err := v.verify(certs, purpose); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return nil
}

func (v *Verifier) verify(certs []*x509.Certificate, purpose string) error {
	if len(certs) == 0 {
		return errors.New("it shows no certificate")
	}
	leaf := certs[0]
	var ca *x509.Certificate
	for _, c := range certs[1:] {
		if Of(c) == v.pin {
			ca = c
		}
	}
	if ca == nil {
		return fmt.Errorf("it shows no certificate of the authority with the pin %.16s…", v.pin)
	}
	now := v.now()
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("the certificate holds from %s to %s, and it is %s by the time of the boot script",
			leaf.NotBefore.UTC().Format(time.DateTime), leaf.NotAfter.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	usage := x509.ExtKeyUsageAny // a name says what others than nodes are for
	if purpose == Node {
		usage = x509.ExtKeyUsageServerAuth
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return fmt.Errorf("the certificate is not signed by the cluster's authority: %w", err)
	}
	return v.checkName(leaf, purpose)
}

// checkName checks what a certificate is for. A certificate of another purpose,
// signed by the same authority, is as good as none.
func (v *Verifier) checkName(leaf *x509.Certificate, purpose string) error {
	var name string
	if len(leaf.DNSNames) == 1 {
		name = leaf.DNSNames[0]
	}
	what, rest, _ := strings.Cut(name, ".")
	if purpose == Node {
		var node string
		node, rest, _ = strings.Cut(rest, ".")
		if node == "" {
			what = ""
		}
	}
	if what != purpose || rest != v.pin.Cluster()+suffix {
		return fmt.Errorf("the certificate is for %.120q, which is no %s of cluster %s", leaf.DNSNames, purpose, v.pin.Cluster())
	}
	return nil
}
