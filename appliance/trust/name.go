package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// A node's certificate names it node.<node>.<cluster>.lpmos.internal.
const (
	namePrefix = "node."
	nameSuffix = ".lpmos.internal"
)

func nodeName(node, cluster string) string { return namePrefix + node + "." + cluster + nameSuffix }

// NodeOf says whose certificate this is: which node of which cluster. It judges
// neither who signed it nor for how long.
func NodeOf(cert *x509.Certificate) (node, cluster string, err error) {
	if len(cert.DNSNames) != 1 {
		return "", "", fmt.Errorf("it is no certificate of a node: it has %d names", len(cert.DNSNames))
	}
	node, cluster, ok := parseName(cert.DNSNames[0])
	if !ok {
		return "", "", fmt.Errorf("it is no certificate of a node: it is for %.80q", cert.DNSNames[0])
	}
	return node, cluster, nil
}

func parseName(name string) (node, cluster string, ok bool) {
	rest, begins := strings.CutPrefix(name, namePrefix)
	rest, ends := strings.CutSuffix(rest, nameSuffix)
	node, cluster, two := strings.Cut(rest, ".")
	ok = begins && ends && two && ValidID(node) && ValidID(cluster)
	return node, cluster, ok
}

// ValidID says whether id can name a node or a cluster: small letters, digits
// and dashes inside, 63 at most, as a part of a DNS name.
func ValidID(id string) bool {
	if id == "" || len(id) > 63 || id[0] == '-' || id[len(id)-1] == '-' {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// idOf makes an id that is this public key's alone.
func idOf(spki []byte) string {
	sum := sha256.Sum256(spki)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// Fingerprint is what people compare and tokens carry: the hash of the public
// key of a certificate.
type Fingerprint [sha256.Size]byte

// FingerprintOf takes it from a certificate.
func FingerprintOf(cert *x509.Certificate) Fingerprint {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// String is in groups that people can compare.
func (f Fingerprint) String() string {
	var groups []string
	for i := 0; i < len(f); i += 4 {
		groups = append(groups, fmt.Sprintf("%x", f[i:i+4]))
	}
	return strings.Join(groups, " ")
}

func checkID(what, id string) error {
	if !ValidID(id) {
		return errors.New(what + " id " + fmt.Sprintf("%.80q", id) + " cannot stand in a certificate: it takes small letters, digits and dashes, 63 at most")
	}
	return nil
}
