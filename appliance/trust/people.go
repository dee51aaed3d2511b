package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// The files of what this node shows to browsers, beside its identity.
const (
	peopleCertFile = "people.pem"
	peopleKeyFile  = "people.key"
)

// ForPeople is the certificate this node shows to people: signed by the cluster's
// authority, for the names and addresses they reach it by. It is no node's: with
// it nobody can speak to other nodes. The one that is kept is used again as long as
// it is good for all the hosts, so that who has trusted it by hand need not do so at
// every start.
func (id *Identity) ForPeople(caDER, sealed []byte, hosts []string, now time.Time) (*tls.Certificate, error) {
	if kept, err := id.keptForPeople(); err == nil && now.After(kept.Leaf.NotBefore) && now.Before(kept.Leaf.NotBefore.Add(backdated+renewAfter)) &&
		covers(kept.Leaf, hosts) {
		return kept, nil
	}
	ca, err := OpenCA(id.Cluster, caDER, sealed, id.Secret)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key for people: %w", err)
	}
	der, err := ca.signHosts(id.Node, hosts, &key.PublicKey, now)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the key for people: %w", err)
	}
	err = errors.Join(id.disk.write(filepath.Join(id.dir, peopleKeyFile), encodePEM("PRIVATE KEY", keyDER)),
		id.disk.write(filepath.Join(id.dir, peopleCertFile), encodePEM("CERTIFICATE", der)))
	if err != nil {
		return nil, fmt.Errorf("keep the certificate for people: %w", err)
	}
	return id.keptForPeople()
}

func (id *Identity) keptForPeople() (*tls.Certificate, error) {
	der, err := readPEM(id.dir, peopleCertFile, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	keyDER, err := readPEM(id.dir, peopleKeyFile, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("read the key for people: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the key for people is of another kind")
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate for people: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) || leaf.CheckSignatureFrom(id.CA) != nil {
		return nil, errors.New("the certificate for people is not this node's")
	}
	return &tls.Certificate{Certificate: [][]byte{der, id.CA.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func covers(cert *x509.Certificate, hosts []string) bool {
	for _, h := range hosts {
		if cert.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

// signHosts certifies a key for names and addresses by which people reach a node.
func (c *CA) signHosts(node string, hosts []string, key *ecdsa.PublicKey, now time.Time) ([]byte, error) {
	ends := now.Add(nodeLife)
	if ends.After(c.cert.NotAfter) {
		ends = c.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "LPMOS dashboard of node " + node},
		NotBefore: now.Add(-backdated), NotAfter: ends,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if strings.HasSuffix(strings.ToLower(h), nameSuffix) {
			return nil, fmt.Errorf("make the certificate for people: %s is a name that nodes know each other by", h)
		}
		if ip, err := netip.ParseAddr(h); err == nil {
			template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key, c.key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate for people: %w", err)
	}
	return der, nil
}
