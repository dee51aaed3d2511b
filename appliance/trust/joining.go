package trust

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Joining is a node that has a key and no cluster yet. The key is kept before
// anybody is asked: whenever the node dies, it comes back as the same node, for
// which its token still counts.
type Joining struct {
	Node string // id

	dataDir string
	disk    disk
	key     *ecdsa.PrivateKey
}

// BeginJoin makes the key of a node that is about to join, or takes up again
// what an earlier try left.
func BeginJoin(dataDir string) (*Joining, error) { return disk{}.beginJoin(dataDir) }

func (d disk) beginJoin(dataDir string) (*Joining, error) {
	j := &Joining{dataDir: dataDir, disk: d}
	dir := j.dir()
	fail := func(err error) (*Joining, error) {
		return nil, fmt.Errorf("keep the key of a node that joins in %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fail(err)
	}
	if !exists(filepath.Join(dir, keyFile)) {
		_, keyPEM, err := newKey()
		if err == nil {
			err = d.sync(dataDir)
		}
		if err == nil {
			err = d.write(filepath.Join(dir, keyFile), keyPEM)
		}
		if err != nil {
			return fail(err)
		}
	}
	var err error
	if j.key, err = readKey(dir); err != nil {
		return fail(fmt.Errorf("%w; remove that directory and join with a new token", err))
	}
	if j.Node, err = nodeOf(j.key); err != nil {
		return fail(err)
	}
	return j, nil
}

func (j *Joining) dir() string { return filepath.Join(j.dataDir, joiningName) }

// Unfinished says whether a data directory holds a join that did not end, and
// where.
func Unfinished(dataDir string) (dir string, is bool) {
	dir = filepath.Join(dataDir, joiningName)
	return dir, exists(dir) && !exists(filepath.Join(dataDir, dirName))
}

// Request is what the node asks its certificate with: it proves that the key is
// its own. What the name in it says does not count.
func (j *Joining) Request() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, j.key)
	if err != nil {
		return nil, fmt.Errorf("ask for a certificate: %w", err)
	}
	return der, nil
}

// Finish keeps what the cluster answered: the certificates as DER and the secret.
// From then on the node is a node of that cluster.
func (j *Joining) Finish(caDER, certDER []byte, secret Secret) (*Identity, error) {
	ca, err := parseCA(caDER)
	if err != nil {
		return nil, err
	}
	id := &Identity{CA: ca, key: j.key}
	if err := id.take(certDER); err != nil {
		return nil, fmt.Errorf("the certificate that the cluster gave: %w", err)
	}
	if id.Node != j.Node {
		return nil, fmt.Errorf("the cluster gave a certificate for node %s, and this is %s", id.Node, j.Node)
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{
		{caFile, encodePEM("CERTIFICATE", caDER)}, {secretFile, []byte(secret.Text() + "\n")}, {clusterFile, []byte(id.Cluster + "\n")},
		{certFile, encodePEM("CERTIFICATE", certDER)},
	} {
		if err := j.disk.write(filepath.Join(j.dir(), f.name), f.content); err != nil {
			return nil, fmt.Errorf("keep what the cluster gave: %w", err)
		}
	}
	if err := j.disk.rename(j.dir(), filepath.Join(j.dataDir, dirName)); err != nil {
		return nil, fmt.Errorf("keep what the cluster gave: %w", err)
	}
	return j.disk.load(j.dataDir)
}
