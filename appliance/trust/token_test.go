package trust

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func newToken(t testing.TB, ca *CA) Token {
	t.Helper()
	token, err := NewToken(ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestATokenIsReadAsItWasWritten(t *testing.T) {
	token := newToken(t, newCA(t))
	back, err := ParseToken(token.Text())
	if err != nil || back != token || back.SecretHash() != HashSecret(token.Secret()) {
		t.Errorf("%s came back as %s: %v", token, back, err)
	}
	if len(token.Secret()) != 32 {
		t.Errorf("the secret has %d digits, want 128 bits", len(token.Secret()))
	}
}

func TestBadTokens(t *testing.T) {
	good := newToken(t, newCA(t)).Text()
	parts := strings.Split(good, ".")
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "is no join token"},
		{"something else", "hello", "is no join token"},
		{"a later format", "LP2" + good[3:], "is no join token"},
		{"one part missing", strings.Join(parts[:3], "."), "3 parts"},
		{"one too many", good + ".x", "5 parts"},
		{"cut short", good[:len(good)-1], "altered or cut short"},
		{"large letters", "LP1." + strings.ToUpper(parts[1]) + "x." + parts[2] + "." + parts[3], "altered or cut short"},
		{"shouted", "LP1." + parts[1] + "." + parts[2] + "." + strings.ToUpper(strings.Repeat("a", 32)), "altered or cut short"},
		{"no digits", strings.Replace(good, parts[2], "zzzzzzzzzzzzzzzz", 1), "altered or cut short"},
		{"no id", strings.Replace(good, parts[2], "", 1), "altered or cut short"},
		{"a space", good + " ", "altered or cut short"},
	} {
		_, err := ParseToken(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "lpmos node token") {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), parts[3]) {
			t.Errorf("%s: the message repeats the secret", c.name)
		}
	}
}

func TestATokenProvesItsClusterAlone(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	token := newToken(t, ours)
	leaf := certify(t, ours)
	cluster, err := token.Prove([]*x509.Certificate{leaf, ours.cert}, now)
	if err != nil || cluster != ours.Cluster() {
		t.Fatalf("%s, %v", cluster, err)
	}
	strangers := certify(t, theirs)
	for _, c := range []struct {
		name  string
		shown []*x509.Certificate
		at    time.Time
		want  string
	}{
		{"nothing", nil, now, "does not show the authority"},
		{"no authority", []*x509.Certificate{leaf}, now, "does not show the authority"},
		{"another cluster", []*x509.Certificate{strangers, theirs.cert}, now, "it is of another cluster"},
		{"our authority shown by a stranger", []*x509.Certificate{strangers, ours.cert}, now, "not signed by"},
		{"the authority itself", []*x509.Certificate{ours.cert, ours.cert}, now, "no certificate of a node"},
		{"a clock that is behind", []*x509.Certificate{leaf, ours.cert}, now.AddDate(-26, 0, 0), "the clock here says 2000-03-01 12:00:00"},
		{"a clock that is ahead", []*x509.Certificate{leaf, ours.cert}, now.AddDate(1, 0, 0), "set the clock that is wrong"},
	} {
		if _, err := token.Prove(c.shown, c.at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	_, err = token.Prove([]*x509.Certificate{strangers, theirs.cert}, now)
	for _, f := range []Fingerprint{token.CA, FingerprintOf(theirs.cert)} {
		if !strings.Contains(err.Error(), f.String()) {
			t.Errorf("both fingerprints have to be told: %v", err)
		}
	}
}

func FuzzToken(f *testing.F) {
	good := newToken(f, newCA(f)).Text()
	f.Add(good)
	f.Add(good[:40])
	f.Add("LP1...")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := ParseToken(text); err == nil && token.Text() != text {
			t.Errorf("%q was read as %q", text, token.Text())
		}
	})
}
