// Package pintest gives tests a cluster's authority: nodes that agents believe, and
// what agents need to believe them.
package pintest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/firstbyte"
	"github.com/lpmos/lpmos/agent/http1"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// Cluster is an authority with its key.
type Cluster struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	CA  *x509.Certificate
}

// New makes the authority of a cluster.
func New(t testing.TB) *Cluster {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, key: key}
	c.CA = c.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "LPMOS cluster"}, KeyUsage: x509.KeyUsageCertSign, IsCA: true, MaxPathLenZero: true}, nil, &key.PublicKey)
	return c
}

func (c *Cluster) sign(template, parent *x509.Certificate, public any) *x509.Certificate {
	c.t.Helper()
	template.SerialNumber, template.BasicConstraintsValid = big.NewInt(time.Now().UnixNano()), true
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().AddDate(0, 0, 90)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// Pin is the cluster's.
func (c *Cluster) Pin() pin.Pin { return pin.Of(c.CA) }

// Verifier believes the cluster, by this host's clock.
func (c *Cluster) Verifier() *pin.Verifier { return pin.NewVerifier(c.Pin(), time.Now) }

// Certificate is a node's. change may spoil it before it is signed.
func (c *Cluster) Certificate(change func(*x509.Certificate)) tls.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "LPMOS node"}, DNSNames: []string{"node.n1." + c.Pin().Cluster() + ".lpmos.internal"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(template)
	}
	return tls.Certificate{Certificate: [][]byte{c.sign(template, c.CA, &key.PublicKey).Raw, c.CA.Raw}, PrivateKey: key}
}

// Server is a node of the cluster that speaks TLS and plain HTTP on one port, as
// nodes do. Its URL is that with TLS.
func (c *Cluster) Server(h http.Handler) *httptest.Server {
	c.t.Helper()
	s := httptest.NewUnstartedServer(h)
	c.Start(s)
	c.t.Cleanup(s.Close)
	return s
}

// Start starts a server as one of the cluster's nodes.
func (c *Cluster) Start(s *httptest.Server) {
	s.Listener = firstbyte.New(s.Listener, firstbyte.Config{TLS: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.Certificate(nil)}}})
	s.Start()
	s.URL = "https://" + s.Listener.Addr().String()
}

// Caller makes requests as an agent does: over pinned TLS, signed with its key.
type Caller struct {
	Key  ed25519.PrivateKey // nil: requests are not signed
	http http1.Client
}

// Caller is an agent with a key of its own.
func (c *Cluster) Caller() *Caller {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	a := &Caller{Key: key, http: http1.Client{TLS: c.Verifier().Config()}}
	c.t.Cleanup(a.http.Close)
	return a
}

// Session is what the agent's key is known by.
func (a *Caller) Session() string { return wire.SessionOf(a.Key.Public().(ed25519.PublicKey)) }

// Do sends a request. The caller closes the body.
func (a *Caller) Do(ctx context.Context, method, url string, body []byte) (*http1.Response, error) {
	req := http1.Request{Method: method, URL: url, Body: body}
	if a.Key != nil {
		req.Sign = func(on tls.ConnectionState, uri string) ([]http1.Field, error) {
			exported, err := on.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterBytes)
			if err != nil {
				return nil, err
			}
			public, signature := wire.SignRequest(a.Key, exported, method, uri, body)
			return []http1.Field{{Name: wire.HeaderKey, Value: public}, {Name: wire.HeaderSignature, Value: signature}}, nil
		}
	}
	return a.http.Do(ctx, req)
}
