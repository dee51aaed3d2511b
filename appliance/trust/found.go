package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"
)

// Found makes a cluster with this node in it, and keeps the node's identity in
// the data directory. node is the id of one that had no cluster until now;
// empty, the id is made from the key.
//
// The identity is there whole or not at all: whatever a crash leaves, the next
// Found begins anew. The sealed key of the authority lies beside it until the
// log holds it and Founded is called.
func Found(dataDir, node string, now time.Time) (*Identity, error) {
	return disk{}.found(dataDir, node, now)
}

func (d disk) found(dataDir, node string, now time.Time) (*Identity, error) {
	ca, err := NewCA(now)
	if err != nil {
		return nil, err
	}
	secret := NewSecret()
	sealed, err := ca.Seal(secret)
	if err != nil {
		return nil, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	if node == "" {
		if node, err = nodeOf(key); err != nil {
			return nil, err
		}
	}
	cert, err := ca.sign(node, &key.PublicKey, now)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(dataDir, foundName)
	if err = d.remove(dir); err == nil {
		err = d.mkdir(dir)
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{caFile, encodePEM("CERTIFICATE", ca.Certificate())}, {secretFile, []byte(secret.Text() + "\n")}, {clusterFile, []byte(ca.Cluster() + "\n")},
		{keyFile, keyPEM}, {certFile, encodePEM("CERTIFICATE", cert)}, {sealedFile, sealed},
	} {
		if err == nil {
			err = d.write(filepath.Join(dir, f.name), f.content)
		}
	}
	if err == nil {
		err = d.rename(dir, filepath.Join(dataDir, dirName))
	}
	if err != nil {
		return nil, fmt.Errorf("keep the keys of a new cluster: %w", err)
	}
	return d.load(dataDir)
}

// Founding gives the sealed key of a cluster whose log does not hold it yet, or
// nil. Only a node that still has it may begin a log of its own: any other waits
// until the members let it in.
func (id *Identity) Founding() []byte { return id.sealed }

// Founded is told once the log holds the sealed key.
func (id *Identity) Founded() error {
	if err := id.disk.remove(filepath.Join(id.dir, sealedFile)); err != nil {
		return fmt.Errorf("end the making of the cluster: %w", err)
	}
	id.sealed = nil
	return nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the node's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the node's key: %w", err)
	}
	return key, encodePEM("PRIVATE KEY", der), nil
}

func nodeOf(key *ecdsa.PrivateKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("name the node: %w", err)
	}
	return idOf(spki), nil
}
