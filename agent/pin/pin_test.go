package pin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// authority signs certificates as a cluster's does.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, MaxPathLenZero: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: noon.Add(-24 * time.Hour), NotAfter: noon.AddDate(10, 0, 0)}
	return authority{t, key, sign(t, template, template, key.Public(), key)}
}

func sign(t *testing.T, template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
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

// leaf is a certificate for names, which holds for 90 days around noon.
func (a authority) leaf(change func(*x509.Certificate), names ...string) (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: noon.Add(-24 * time.Hour), NotAfter: noon.AddDate(0, 0, 89)}
	if change != nil {
		change(template)
	}
	return sign(a.t, template, a.cert, pub, a.key), key
}

func (a authority) name(parts string) string { return parts + "." + Of(a.cert).Cluster() + suffix }

func at(now time.Time) func() time.Time { return func() time.Time { return now } }

func TestVerifyChain(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	node := ours.name("node.abc")
	cases := []struct {
		name    string
		certs   func() []*x509.Certificate
		purpose string
		now     time.Time
		refused string // part of the reason; "" is believed
	}{
		{name: "a node", certs: chain(ours, nil, node)},
		{name: "its last day", certs: chain(ours, nil, node), now: noon.AddDate(0, 0, 88)},
		{name: "a grant key", certs: chain(ours, nil, ours.name("grant")), purpose: Grant},
		{name: "nothing", certs: func() []*x509.Certificate { return nil }, refused: "shows no certificate"},
		{name: "without its authority", certs: func() []*x509.Certificate { return chain(ours, nil, node)()[:1] }, refused: "authority with the pin"},
		{name: "the authority itself", certs: func() []*x509.Certificate { return []*x509.Certificate{ours.cert, ours.cert} }, refused: "certificate"},
		{name: "another authority", certs: chain(foreign, nil, node), refused: "authority with the pin"},
		{name: "another's leaf beside our authority", certs: func() []*x509.Certificate {
			return append(chain(foreign, nil, node)(), ours.cert)
		}, refused: "not signed"},
		{name: "has ended", certs: chain(ours, nil, node), now: noon.AddDate(0, 0, 90), refused: "holds from"},
		{name: "not yet", certs: chain(ours, nil, node), now: noon.AddDate(0, 0, -2), refused: "holds from"},
		{name: "1970", certs: chain(ours, nil, node), now: time.Unix(0, 0), refused: "holds from"},
		{name: "of another cluster", certs: chain(ours, nil, "node.abc."+Of(foreign.cert).Cluster()+suffix), refused: "no node of cluster"},
		{name: "a grant key as a node", certs: chain(ours, nil, ours.name("grant")), refused: "no node of cluster"},
		{name: "a node as a grant key", certs: chain(ours, nil, node), purpose: Grant, refused: "no grant of cluster"},
		{name: "two names", certs: chain(ours, nil, node, "node.abc.example.com"), refused: "no node of cluster"},
		{name: "no name", certs: chain(ours, nil), refused: "no node of cluster"},
		{name: "a node without its id", certs: chain(ours, nil, ours.name("node")), refused: "no node of cluster"},
		{name: "name goes on", certs: chain(ours, nil, node+".example.com"), refused: "no node of cluster"},
		{name: "for clients alone", certs: chain(ours, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}, node), refused: "not signed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now, purpose := c.now, c.purpose
			if now.IsZero() {
				now = noon
			}
			if purpose == "" {
				purpose = Node
			}
			err := NewVerifier(Of(ours.cert), at(now)).VerifyChain(c.certs(), purpose)
			switch {
			case c.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("got %v, want a refusal with %q", err, c.refused)
			}
		})
	}
}

func chain(a authority, change func(*x509.Certificate), names ...string) func() []*x509.Certificate {
	return func() []*x509.Certificate {
		leaf, _ := a.leaf(change, names...)
		return []*x509.Certificate{leaf, a.cert}
	}
}

func TestConfigTakesTLS13WithThePinnedClusterAlone(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	for _, c := range []struct {
		name string
		of   authority
		max  uint16
		good bool
	}{
		{"ours", ours, tls.VersionTLS13, true},
		{"foreign", foreign, tls.VersionTLS13, false},
		{"TLS 1.2", ours, tls.VersionTLS12, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf, key := c.of.leaf(nil, c.of.name("node.abc"))
			near, far := net.Pipe()
			defer near.Close()
			served := make(chan error, 1)
			go func() {
				defer far.Close()
				served <- tls.Server(far, &tls.Config{MaxVersion: c.max, Certificates: []tls.Certificate{
					{Certificate: [][]byte{leaf.Raw, c.of.cert.Raw}, PrivateKey: key}}}).Handshake()
			}()
			err := tls.Client(near, NewVerifier(Of(ours.cert), at(noon)).Config()).Handshake()
			if near.Close(); (err == nil) != c.good {
				t.Errorf("the handshake ended with %v", err)
			}
			<-served
		})
	}
}

func TestParse(t *testing.T) {
	p := Pin{1, 0xab}
	if got, err := Parse(p.String()); err != nil || got != p {
		t.Errorf("a pin does not come back: %v, %v", got, err)
	}
	for _, bad := range []string{"", "00", p.String() + "0", strings.ToUpper(p.String()), strings.Repeat("g", 64), strings.Repeat("0", 64), " " + p.String()[1:]} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("%q was taken for the pin %s", bad, got)
		}
	}
}
