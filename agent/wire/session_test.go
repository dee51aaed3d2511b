package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
)

func sessionKey(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func TestASignatureIsForOneRequestOnOneConnection(t *testing.T) {
	key, here, elsewhere := sessionKey(1), bytes.Repeat([]byte{7}, ExporterBytes), bytes.Repeat([]byte{8}, ExporterBytes)
	pub, sig := SignRequest(key, here, "POST", "/a?b=c", []byte("body"))
	if got, err := CheckRequest(pub, sig, here, "POST", "/a?b=c", []byte("body")); err != nil || got != SessionOf(key.Public().(ed25519.PublicKey)) {
		t.Fatalf("%q, %v", got, err)
	}
	other, _ := SignRequest(sessionKey(2), here, "POST", "/a?b=c", []byte("body"))
	for name, err := range map[string]error{
		"another connection":   check(pub, sig, elsewhere, "POST", "/a?b=c", "body"),
		"no connection":        check(pub, sig, nil, "POST", "/a?b=c", "body"),
		"another method":       check(pub, sig, here, "PUT", "/a?b=c", "body"),
		"another path":         check(pub, sig, here, "POST", "/b?b=c", "body"),
		"another query":        check(pub, sig, here, "POST", "/a?b=d", "body"),
		"no query":             check(pub, sig, here, "POST", "/a", "body"),
		"another body":         check(pub, sig, here, "POST", "/a?b=c", "bodY"),
		"another key":          check(other, sig, here, "POST", "/a?b=c", "body"),
		"no key":               check("", sig, here, "POST", "/a?b=c", "body"),
		"no signature":         check(pub, "", here, "POST", "/a?b=c", "body"),
		"padded":               check(pub+"=", sig, here, "POST", "/a?b=c", "body"),
		"a signature of zeros": check(pub, strings.Repeat("A", len(sig)), here, "POST", "/a?b=c", "body"),
		"a key of zeros":       check(strings.Repeat("A", len(pub)), strings.Repeat("A", len(sig)), here, "POST", "/a?b=c", "body"),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func check(pub, sig string, exported []byte, method, uri, body string) error {
	_, err := CheckRequest(pub, sig, exported, method, uri, []byte(body))
	return err
}

func TestPairingCode(t *testing.T) {
	for session, want := range map[string]string{
		strings.Repeat("0", 64): "000000", strings.Repeat("f", 64): "ZZZZZZ", "08421084" + strings.Repeat("0", 56): "111111",
		"": "", "abcd": "", strings.Repeat("g", 64): "",
	} {
		if got := PairingCode(session); got != want {
			t.Errorf("%q gives %q, want %q", session, got, want)
		}
	}
}

// FuzzCheckRequest: what was not signed is not taken, and nothing panics.
func FuzzCheckRequest(f *testing.F) {
	key, exported := sessionKey(3), bytes.Repeat([]byte{9}, ExporterBytes)
	pub, sig := SignRequest(key, exported, "GET", "/x", nil)
	f.Add(pub, sig, "/x", []byte(nil))
	f.Add(pub, sig, "/y", []byte("b"))
	f.Add("", "", "", []byte(nil))
	f.Add(pub+"A", sig[1:], "/x", []byte("\x00"))
	f.Add(strings.Repeat("/", 43), strings.Repeat("-", 86), "/x", []byte(nil))
	f.Fuzz(func(t *testing.T, p, s, uri string, body []byte) {
		session, err := CheckRequest(p, s, exported, "GET", uri, body)
		if (err == nil) != (session != "") {
			t.Fatalf("%q with %v", session, err)
		}
		if err != nil {
			return
		}
		// Only what carries a signature of its own key is taken, written in one way.
		raw, _ := base64.RawURLEncoding.DecodeString(p)
		if base64.RawURLEncoding.EncodeToString(raw) != p || len(PairingCode(session)) != 6 {
			t.Fatalf("%q was taken", p)
		}
		if p == pub && (s != sig || uri != "/x" || len(body) > 0) {
			t.Fatalf("a signature was forged: %q for %q", s, uri)
		}
	})
}
