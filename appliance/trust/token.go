package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// tokenFormat begins every token.
const tokenFormat = "LP1"

// printAnother is the way out of every token that does not do.
const printAnother = "print a new one on a node of the cluster with: lpmos node token"

// Token lets one node into a cluster. It names the authority, so that the new
// node tells its secret to nobody else.
type Token struct {
	CA     Fingerprint
	ID     string // names the token in the cluster's state
	secret [16]byte
}

// NewToken makes one for the cluster of this authority, given as DER.
func NewToken(caDER []byte) (Token, error) {
	ca, err := parseCA(caDER)
	if err != nil {
		return Token{}, err
	}
	var id [8]byte
	rand.Read(id[:])
	t := Token{CA: FingerprintOf(ca), ID: hex.EncodeToString(id[:])}
	rand.Read(t.secret[:])
	return t, nil
}

// Text is the token as people carry it, with its secret.
func (t Token) Text() string {
	return strings.Join([]string{tokenFormat, hex.EncodeToString(t.CA[:]), t.ID, t.Secret()}, ".")
}

// String keeps the secret out of logs and messages.
func (t Token) String() string { return "join token " + t.ID }

// GoString is what %#v prints.
func (t Token) GoString() string { return t.String() }

// Secret proves that its bearer was given the token.
func (t Token) Secret() string { return hex.EncodeToString(t.secret[:]) }

// SecretHash is what the cluster keeps of the secret.
func (t Token) SecretHash() string { return HashSecret(t.Secret()) }

// HashSecret is what the cluster keeps of a token's secret.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// ParseToken reads a token as Text writes it, and in no other form. Errors do
// not repeat it.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(text, ".")
	if parts[0] != tokenFormat {
		return Token{}, errors.New("this is no join token, which begins with " + tokenFormat + ".; " + printAnother)
	}
	if len(parts) != 4 {
		return Token{}, fmt.Errorf("the join token has %d parts between its dots instead of 4; copy all of it, or %s", len(parts), printAnother)
	}
	t := Token{ID: parts[2]}
	if !unhex(t.CA[:], parts[1]) || len(t.ID) != 16 || !unhex(make([]byte, 8), t.ID) || !unhex(t.secret[:], parts[3]) {
		return Token{}, errors.New("the join token is altered or cut short; copy all of it, or " + printAnother)
	}
	return t, nil
}

// unhex fills to with exactly what small hex digits say.
func unhex(to []byte, digits string) bool {
	if len(digits) != 2*len(to) || strings.ToLower(digits) != digits {
		return false
	}
	_, err := hex.Decode(to, []byte(digits))
	return err == nil
}

// Prove checks that a node that showed these certificates is of the cluster the
// token is for, and gives that cluster's id. Nothing of the token may be told to
// a node before.
func (t Token) Prove(shown []*x509.Certificate, now time.Time) (cluster string, err error) {
	if len(shown) < 2 {
		return "", errors.New("it is no node of a cluster: it does not show the authority it is of")
	}
	var ca *x509.Certificate
	for _, cert := range shown[1:] {
		if FingerprintOf(cert) == t.CA {
			ca = cert
		}
	}
	if ca == nil {
		return "", fmt.Errorf("it is of another cluster: the token is for the one with fingerprint\n  %s\nand it shows\n  %s\nask a node of the right cluster, or %s",
			t.CA, FingerprintOf(shown[len(shown)-1]), printAnother)
	}
	leaf := shown[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return "", fmt.Errorf("its certificate holds from %s to %s, and the clock here says %s: set the clock that is wrong",
			leaf.NotBefore.UTC().Format(time.DateTime), leaf.NotAfter.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return "", fmt.Errorf("its certificate is not signed by the cluster the token is for: %w", err)
	}
	_, cluster, err = NodeOf(leaf)
	return cluster, err
}
