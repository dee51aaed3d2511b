package trust

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// Secret is known to every node of a cluster and to nobody else. What the log
// and backups may hold of keys is sealed under it.
type Secret [32]byte

// NewSecret makes one.
func NewSecret() (s Secret) {
	rand.Read(s[:])
	return s
}

// ParseSecret reads a secret as Text writes it.
func ParseSecret(text string) (s Secret, err error) {
	if !unhex(s[:], text) {
		return s, fmt.Errorf("it does not hold a secret of %d bytes", len(s))
	}
	return s, nil
}

// Text is the secret itself, for the file and for a node that joins.
func (s Secret) Text() string { return hex.EncodeToString(s[:]) }

// String keeps the secret out of logs and messages.
func (Secret) String() string { return "[redacted]" }

// GoString is what %#v prints.
func (Secret) GoString() string { return "[redacted]" }

// MarshalText is what JSON gets, in logs as in answers.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// sealFormat is the first byte of what is sealed.
const sealFormat = 1

// Seal encrypts b, which only Open with the same secret and the same purpose
// gives back.
func (s Secret) Seal(purpose string, b []byte) []byte {
	out := []byte{sealFormat}
	return s.gcm().Seal(out, nil, b, []byte(purpose))
}

// Open gives back what was sealed for this purpose.
func (s Secret) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealFormat {
		return nil, errors.New("it was not sealed by this version of lpmos")
	}
	b, err := s.gcm().Open(nil, nil, sealed[1:], []byte(purpose))
	if err != nil {
		return nil, errors.New("it does not open with this node's secret: one of them is of another cluster, or altered")
	}
	return b, nil
}

// gcm puts a random nonce before what it seals; a cluster seals a handful of keys.
func (s Secret) gcm() cipher.AEAD {
	block, err := aes.NewCipher(s[:])
	if err != nil {
		panic(err) // 32 bytes are a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block GCM wants
	}
	return aead
}
