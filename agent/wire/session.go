package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

// A session is a key that the agent makes when it starts and that never leaves its
// machine. Every request is signed with it, over what the connection it travels on
// alone has: overheard, or sent on by somebody in between, it is of no use.
const (
	HeaderKey       = "Lpmos-Key"       // the public key, base64url without padding
	HeaderSignature = "Lpmos-Signature" // over SignedBytes, likewise

	// ExporterLabel and ExporterBytes are how both ends take from a TLS connection
	// what only it has (RFC 5705, RFC 8446 section 7.5).
	ExporterLabel = "EXPORTER-lpmos-agent"
	ExporterBytes = 32
)

// SignedBytes is what a request is signed over: what the connection alone has, the
// method, the path with its query as it stands in the request line, and the body.
func SignedBytes(exported []byte, method, uri string, body []byte) []byte {
	sum := sha256.Sum256(body)
	var b strings.Builder
	b.WriteString("lpmos agent 1\n")
	b.Write(exported)
	b.WriteString("\n" + method + " " + uri + "\n")
	b.Write(sum[:])
	return []byte(b.String())
}

// SignRequest gives the values of both headers.
func SignRequest(key ed25519.PrivateKey, exported []byte, method, uri string, body []byte) (public, signature string) {
	pub := key.Public().(ed25519.PublicKey)
	return base64.RawURLEncoding.EncodeToString(pub),
		base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, SignedBytes(exported, method, uri, body)))
}

// ErrSignature says that a request does not prove whose it is. Which part of it is
// wrong is nobody's business.
var ErrSignature = errors.New("the request is not signed, or not with the key it names, on this connection")

// CheckRequest checks the values of both headers and gives the session they prove.
func CheckRequest(public, signature string, exported []byte, method, uri string, body []byte) (session string, err error) {
	pub, ok := unbase64(public, ed25519.PublicKeySize)
	sig, ok2 := unbase64(signature, ed25519.SignatureSize)
	if !ok || !ok2 || len(exported) != ExporterBytes || !ed25519.Verify(pub, SignedBytes(exported, method, uri, body), sig) {
		return "", ErrSignature
	}
	return SessionOf(pub), nil
}

// unbase64 reads exactly n bytes in the one way they can be written.
func unbase64(text string, n int) ([]byte, bool) {
	if len(text) != base64.RawURLEncoding.EncodedLen(n) {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return b, err == nil && len(b) == n
}

// SessionOf is what a session is known by: the hash of its public key.
func SessionOf(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:])
}

// crockford are digits and letters that people do not take for each other.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// PairingCode is short enough to be compared by a person, who sees it on the
// machine's console and on the screen they approve at: the first 30 bits of the
// session. It is "" for what is no session.
func PairingCode(session string) string {
	b, err := hex.DecodeString(session)
	if err != nil || len(b) != sha256.Size {
		return ""
	}
	bits := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	var code [6]byte
	for i := range code {
		code[i] = crockford[bits>>(27-5*i)&31]
	}
	return string(code[:])
}
