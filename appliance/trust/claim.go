package trust

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ClaimLife is how long a claim code may be shown: a slow machine has to fetch the
// agent and start it.
const ClaimLife = 10 * time.Minute

// Claim is what a node says to a machine that boots the agent: that it was this
// machine, here, and when. With it the agent begins its session. Any node can check
// it, and making one costs the log nothing.
type Claim struct {
	ID      string // 128 random bits in hex
	MAC     [6]byte
	IP      netip.Addr // IPv4
	Node    [4]byte    // the beginning of the hash of the node's id: who made it
	Expires time.Time
}

// A code is, in base64url: the id, the end in seconds since 1970, MAC, IP and node,
// and the first 16 bytes of an HMAC over all of them.
const (
	claimIDBytes  = 16
	claimMACBytes = 16
	claimBytes    = claimIDBytes + 8 + 6 + 4 + 4
)

// Derive makes a key for one purpose out of the cluster's secret, the same at every
// node. Purposes do not give each other away.
func (s Secret) Derive(purpose string) (key [32]byte) {
	b, err := hkdf.Key(sha256.New, s[:], nil, purpose, len(key))
	if err != nil {
		panic(err) // 32 bytes can always be had
	}
	copy(key[:], b)
	return key
}

// Claims makes and checks the claim codes of a cluster.
type Claims struct {
	key  [32]byte
	node [4]byte
}

// Claims are those of the node's cluster.
func (id *Identity) Claims() Claims {
	sum := sha256.Sum256([]byte(id.Node))
	return Claims{key: id.Secret.Derive("lpmos claim"), node: [4]byte(sum[:4])}
}

// New makes a code for the machine with the MAC at the address.
func (c Claims) New(mac [6]byte, ip netip.Addr, now time.Time) (code string, err error) {
	if !ip.Is4() {
		return "", fmt.Errorf("no claim code can be given to %s: machines boot over IPv4", ip)
	}
	b := make([]byte, claimIDBytes, claimBytes+claimMACBytes)
	rand.Read(b)
	b = binary.BigEndian.AppendUint64(b, uint64(now.Add(ClaimLife).Unix()))
	b = append(b, mac[:]...)
	b = append(b, ip.AsSlice()...)
	b = append(b, c.node[:]...)
	return base64.RawURLEncoding.EncodeToString(append(b, c.mac(b)...)), nil
}

// mac is what only who knows the cluster's secret can make.
func (c Claims) mac(b []byte) []byte {
	h := hmac.New(sha256.New, c.key[:])
	h.Write(b)
	return h.Sum(nil)[:claimMACBytes]
}

// ErrClaim says that a code was not made by a node of the cluster.
var ErrClaim = errors.New("its claim code is none of this cluster's; start the machine anew")

// Parse reads a code and checks who made it. Whether it still may be used, and by
// whom, is for others to say.
func (c Claims) Parse(code string) (Claim, error) {
	if len(code) != base64.RawURLEncoding.EncodedLen(claimBytes+claimMACBytes) {
		return Claim{}, ErrClaim
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil || len(b) != claimBytes+claimMACBytes || !hmac.Equal(b[claimBytes:], c.mac(b[:claimBytes])) {
		return Claim{}, ErrClaim
	}
	rest := b[claimIDBytes:]
	return Claim{
		ID:      hex.EncodeToString(b[:claimIDBytes]),
		Expires: time.Unix(int64(binary.BigEndian.Uint64(rest)), 0),
		MAC:     [6]byte(rest[8:14]),
		IP:      netip.AddrFrom4([4]byte(rest[14:18])),
		Node:    [4]byte(rest[18:22]),
	}, nil
}
