package trust

import (
	"encoding/base64"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var (
	claimMAC = [6]byte{0x52, 0x54, 0, 0xaa, 0xbb, 1}
	claimIP  = netip.MustParseAddr("10.77.0.100")
	claimAt  = time.Unix(1_800_000_000, 0)
)

func claimsOf(t testing.TB, node string, secret Secret) (Claims, string) {
	t.Helper()
	c := (&Identity{Node: node, Secret: secret}).Claims()
	code, err := c.New(claimMAC, claimIP, claimAt)
	if err != nil {
		t.Fatal(err)
	}
	return c, code
}

func TestAClaimCodeIsGoodAtEveryNodeOfItsCluster(t *testing.T) {
	secret := NewSecret()
	one, code := claimsOf(t, "one", secret)
	two, code2 := claimsOf(t, "two", secret)
	for _, c := range []Claims{one, two} {
		got, err := c.Parse(code)
		if err != nil || got.MAC != claimMAC || got.IP != claimIP || !got.Expires.Equal(claimAt.Add(10*time.Minute)) || got.Node != one.node || len(got.ID) != 32 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	a, _ := one.Parse(code)
	if b, _ := one.Parse(code2); a.ID == b.ID || a.Node == b.Node {
		t.Error("two codes have one id")
	}
	if strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" || len(code) > 100 {
		t.Errorf("%q cannot stand on a kernel command line", code)
	}
	if _, err := one.New(claimMAC, netip.MustParseAddr("fd00::1"), claimAt); err == nil {
		t.Error("a code for an IPv6 address")
	}
}

func TestS31_AClaimCodeThatIsAlteredOrOfAnotherClusterIsNone(t *testing.T) {
	c, code := claimsOf(t, "one", NewSecret())
	_, foreign := claimsOf(t, "one", NewSecret())
	raw, err := base64.RawURLEncoding.DecodeString(code)
	if err != nil {
		t.Fatal(err)
	}
	bad := []string{"", "x", foreign, code + "A", code[1:], code[:len(code)-1], code + "=", " " + code, strings.ToUpper(code)}
	for i := range raw {
		for bit := range 8 {
			flipped := append([]byte(nil), raw...)
			flipped[i] ^= 1 << bit
			bad = append(bad, base64.RawURLEncoding.EncodeToString(flipped))
		}
	}
	for _, b := range bad {
		if got, err := c.Parse(b); err == nil {
			t.Errorf("%q was taken for %+v", b, got)
		}
	}
}

func TestDerivedKeysDoNotGiveEachOtherAway(t *testing.T) {
	s := NewSecret()
	again := s
	if s.Derive("a") == s.Derive("b") || s.Derive("a") != again.Derive("a") || s.Derive("a") == [32]byte(s) || s.Derive("a") == NewSecret().Derive("a") {
		t.Error("keys are alike")
	}
}

// FuzzClaim: no code is taken that was not made under the secret, and what is read
// from one that was is what stands in it.
func FuzzClaim(f *testing.F) {
	_, code := claimsOf(f, "one", Secret{1, 2, 3})
	f.Add(code)
	f.Add("")
	f.Add(strings.Repeat("A", len(code)))
	f.Add(code[:len(code)-2] + "AA")
	f.Add(strings.Repeat("_", len(code)))
	ours := (&Identity{Node: "one", Secret: Secret{1, 2, 3}}).Claims()
	other := (&Identity{Node: "one", Secret: Secret{4, 5, 6}}).Claims()
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := other.Parse(text); err == nil {
			t.Fatalf("%q was taken for %+v", text, got)
		}
		got, err := ours.Parse(text)
		if err != nil {
			return
		}
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || base64.RawURLEncoding.EncodeToString(raw) != text || !got.IP.Is4() || len(got.ID) != 32 {
			t.Fatalf("%q is %+v", text, got)
		}
	})
}
