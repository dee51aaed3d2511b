package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// Identity is who a node is, and by what it proves it.
type Identity struct {
	Node    string // id
	Cluster string // id
	CA      *x509.Certificate
	Secret  Secret

	dir    string
	disk   disk
	key    *ecdsa.PrivateKey
	cert   atomic.Pointer[tls.Certificate]
	sealed []byte // of a cluster that is being made
}

// ErrDamaged says that an identity on disk cannot be used as it is.
var ErrDamaged = errors.New("the keys of this node cannot be used; put its directory trust back as it was, or give it an empty data directory and let it join anew")

// Load reads the identity in a data directory. It is fs.ErrNotExist if there is
// none; one that is not whole, or not this node's alone, is refused.
func Load(dataDir string) (*Identity, error) { return disk{}.load(dataDir) }

func (d disk) load(dataDir string) (*Identity, error) {
	dir := filepath.Join(dataDir, dirName)
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the keys of this node: %w", err)
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s is open to other users of this host (mode %04o): close it with chmod 700, and think about who may have read it", dir, info.Mode().Perm())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	id, err := d.parse(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return id, nil
}

func (d disk) parse(dir string) (*Identity, error) {
	id := &Identity{dir: dir, disk: d}
	cluster, err := readText(dir, clusterFile)
	if err != nil {
		return nil, err
	}
	secret, err := readText(dir, secretFile)
	if err != nil {
		return nil, err
	}
	if id.Secret, err = ParseSecret(secret); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, secretFile), err)
	}
	caDER, err := readPEM(dir, caFile, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	if id.CA, err = parseCA(caDER); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, caFile), err)
	}
	if id.key, err = readKey(dir); err != nil {
		return nil, err
	}
	der, err := readPEM(dir, certFile, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	if err := id.take(der); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, certFile), err)
	}
	if id.Cluster != cluster {
		return nil, fmt.Errorf("%s says cluster %.80q, the certificate beside it %s", filepath.Join(dir, clusterFile), cluster, id.Cluster)
	}
	if exists(filepath.Join(dir, sealedFile)) {
		if id.sealed, err = read(filepath.Join(dir, sealedFile)); err != nil {
			return nil, err
		}
	}
	return id, nil
}

// take makes a certificate the node's, if it is of its key and its cluster. One
// that has ended is taken: the node can renew it.
func (id *Identity) take(der []byte) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	node, cluster, err := NodeOf(leaf)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(id.CA)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: leaf.NotBefore.Add(backdated), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return err
	}
	if !id.key.PublicKey.Equal(leaf.PublicKey) {
		return fmt.Errorf("the certificate of node %s is not for this node's key", node)
	}
	if id.Node == "" {
		id.Node, id.Cluster = node, cluster
	}
	if node != id.Node || cluster != id.Cluster {
		return fmt.Errorf("the certificate is of node %s in cluster %s, and this is node %s in cluster %s", node, cluster, id.Node, id.Cluster)
	}
	id.cert.Store(&tls.Certificate{Certificate: [][]byte{der, id.CA.Raw}, PrivateKey: id.key, Leaf: leaf})
	return nil
}

// Certificate is the node's, and behind it that of the cluster's authority. It
// changes when it is renewed.
func (id *Identity) Certificate() *tls.Certificate { return id.cert.Load() }

// Due says whether it is time to renew the certificate.
func (id *Identity) Due(now time.Time) bool {
	leaf := id.Certificate().Leaf
	return now.After(leaf.NotBefore.Add(backdated+renewAfter)) || now.After(leaf.NotAfter)
}

// Renew gives the node a certificate that holds from now on. Any node can: it
// has the secret, and the log has the authority's certificate and sealed key.
// The key stays what it is, since the node's id is made from it.
func (id *Identity) Renew(caDER, sealed []byte, now time.Time) error {
	if !bytes.Equal(caDER, id.CA.Raw) {
		return errors.New("renew the certificate: the log is of a cluster with another authority than this node's")
	}
	ca, err := OpenCA(id.Cluster, caDER, sealed, id.Secret)
	if err != nil {
		return err
	}
	der, err := ca.sign(id.Node, &id.key.PublicKey, now)
	if err != nil {
		return err
	}
	if err := id.disk.write(filepath.Join(id.dir, certFile), encodePEM("CERTIFICATE", der)); err != nil {
		return fmt.Errorf("keep the new certificate: %w", err)
	}
	return id.take(der)
}

func readText(dir, name string) (string, error) {
	b, err := read(filepath.Join(dir, name))
	return strings.TrimSuffix(string(b), "\n"), err
}

func readPEM(dir, name, kind string) ([]byte, error) {
	b, err := read(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	der, err := decodePEM(kind, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
	}
	return der, nil
}

func readKey(dir string) (*ecdsa.PrivateKey, error) {
	der, err := readPEM(dir, keyFile, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, keyFile), err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no ECDSA key", filepath.Join(dir, keyFile))
	}
	return key, nil
}
