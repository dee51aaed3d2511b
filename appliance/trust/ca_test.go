package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newCA(t testing.TB) *CA {
	t.Helper()
	ca, err := NewCA(now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// certify gives the certificate of a node with a new key.
func certify(t testing.TB, ca *CA) *x509.Certificate {
	t.Helper()
	j, err := BeginJoin(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(answer(t, ca, j))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// answer gives a node that joins the certificate it asks for, as DER.
func answer(t testing.TB, ca *CA, j *Joining) []byte {
	t.Helper()
	der, err := j.Request()
	if err != nil {
		t.Fatal(err)
	}
	request, err := ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	if request.Node != j.Node {
		t.Fatalf("the request is for %s, want %s", request.Node, j.Node)
	}
	if der, err = ca.Certify(request, now); err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAnAuthoritySignsNodesAndNothingElse(t *testing.T) {
	ca := newCA(t)
	cert := certify(t, ca)
	if !ca.cert.IsCA || !ca.cert.MaxPathLenZero || ca.cert.KeyUsage != x509.KeyUsageCertSign {
		t.Error("the authority may do more than sign nodes, or less")
	}
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 2 {
		t.Errorf("a node's certificate is good for %v %v", cert.KeyUsage, cert.ExtKeyUsage)
	}
	if want := now.Add(-24 * time.Hour); !cert.NotBefore.Equal(want) {
		t.Errorf("it begins %s, want %s", cert.NotBefore, want)
	}
	if want := now.Add(90 * 24 * time.Hour); !cert.NotAfter.Equal(want) {
		t.Errorf("it ends %s, want %s", cert.NotAfter, want)
	}
	node, cluster, err := NodeOf(cert)
	if err != nil || cluster != ca.Cluster() || cert.DNSNames[0] != "node."+node+"."+ca.Cluster()+".lpmos.internal" {
		t.Errorf("it is for %v (%s in %s, %v)", cert.DNSNames, node, cluster, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Error(err)
		}
	}
}

func TestNoCertificateOutlivesItsAuthority(t *testing.T) {
	ca := newCA(t)
	key, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.sign("n1", &key.PublicKey, ca.cert.NotAfter.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if cert, err := x509.ParseCertificate(der); err != nil || !cert.NotAfter.Equal(ca.cert.NotAfter) {
		t.Errorf("it ends %v, the authority %s (%v)", cert.NotAfter, ca.cert.NotAfter, err)
	}
}

func TestBadRequestsForACertificate(t *testing.T) {
	ca := newCA(t)
	request := func(key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, _, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	forged := request(p256)
	forged[len(forged)-1] ^= 1
	for _, c := range []struct {
		name    string
		request []byte
		want    string
	}{
		{"nothing", nil, "cannot be read"},
		{"another curve", request(p384), "not for an ECDSA key on P-256"},
		{"RSA", request(rsaKey), "not for an ECDSA key on P-256"},
		{"somebody else's key", forged, "not signed with its own key"},
	} {
		if _, err := ParseRequest(c.request); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := ca.sign("N 1", &p256.PublicKey, now); err == nil {
		t.Error("an id that is no part of a name was signed")
	}
}

func TestASealedAuthorityOpensWithItsSecretAlone(t *testing.T) {
	ca, secret := newCA(t), NewSecret()
	sealed, err := ca.Seal(secret)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenCA(ca.Cluster(), ca.Certificate(), sealed, secret)
	if err != nil || !opened.key.Equal(ca.key) {
		t.Fatalf("it does not open: %v", err)
	}
	certify(t, opened)

	altered := append([]byte(nil), sealed...)
	altered[len(altered)/2] ^= 1
	other := newCA(t)
	for name, open := range map[string]func() error{
		"another secret": func() error {
			_, err := OpenCA(ca.Cluster(), ca.Certificate(), sealed, NewSecret())
			return err
		},
		"altered": func() error { _, err := OpenCA(ca.Cluster(), ca.Certificate(), altered, secret); return err },
		"cut":     func() error { _, err := OpenCA(ca.Cluster(), ca.Certificate(), sealed[:9], secret); return err },
		"empty":   func() error { _, err := OpenCA(ca.Cluster(), ca.Certificate(), nil, secret); return err },
		"another cluster": func() error {
			_, err := OpenCA(other.Cluster(), ca.Certificate(), sealed, secret)
			return err
		},
		"another certificate": func() error {
			_, err := OpenCA(ca.Cluster(), other.Certificate(), sealed, secret)
			return err
		},
		"no certificate": func() error { _, err := OpenCA(ca.Cluster(), nil, sealed, secret); return err },
		"a node's certificate": func() error {
			_, err := OpenCA(ca.Cluster(), certify(t, ca).Raw, sealed, secret)
			return err
		},
	} {
		if open() == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestSecretsStayOutOfMessages(t *testing.T) {
	secret := NewSecret()
	token, err := NewToken(newCA(t).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(map[string]any{"secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprintf("%v %+v %#v %s %v %+v %#v %s", secret, secret, secret, asJSON, token, token, token, token)
	for _, hidden := range []string{secret.Text(), secret.Text()[:8], token.Secret(), fmt.Sprint([32]byte(secret))} {
		if strings.Contains(said, hidden) {
			t.Errorf("%q is in %s", hidden, said)
		}
	}
	if back, err := ParseSecret(secret.Text()); err != nil || back != secret {
		t.Errorf("the secret does not come back: %v", err)
	}
}

func FuzzName(f *testing.F) {
	for _, name := range []string{"node.a.b.lpmos.internal", "node..b.lpmos.internal", "node.a.b.c.lpmos.internal", "any.b.lpmos.internal", "node.-a.b.lpmos.internal", "node.lpmos.internal"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		node, cluster, ok := parseName(name)
		if ok && nodeName(node, cluster) != name {
			t.Errorf("%q was read as %q of %q", name, node, cluster)
		}
		if ok && (strings.Contains(node, ".") || strings.Contains(cluster, ".")) {
			t.Errorf("%q of %q", node, cluster)
		}
	})
}
