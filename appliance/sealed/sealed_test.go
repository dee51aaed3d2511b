package sealed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

const right = Passphrase("correct horse battery staple")

func seal(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Seal(&b, right, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(b []byte, p Passphrase) ([]byte, error) {
	r, err := Open(bytes.NewReader(b), int64(len(b)), p)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestWhatIsSealedComesBack(t *testing.T) {
	// Nothing, one byte, one part of age's, and more than two.
	for _, n := range []int{0, 1, 64 << 10, 150_000} {
		plain := bytes.Repeat([]byte("x"), n)
		b := seal(t, plain)
		if is, err := Is(bytes.NewReader(b)); err != nil || !is {
			t.Errorf("%d bytes, sealed, are not known again: %v", n, err)
		}
		if got, err := open(b, right); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes came back as %d: %v", n, len(got), err)
		}
		for _, wrong := range []Passphrase{"", "correct horse battery stable"} {
			if _, err := open(b, wrong); !errors.Is(err, ErrPassphrase) {
				t.Errorf("%d bytes with a wrong passphrase: %v", n, err)
			}
		}
	}
	for _, other := range []string{"", "age", `{"format":"lpmos-backup"}`} {
		if is, err := Is(strings.NewReader(other)); err != nil || is {
			t.Errorf("%q is taken for sealed: %v", other, err)
		}
	}
}

// TestWhatWasAlteredIsRefused changes every byte of the head and some of the rest,
// and cuts the file everywhere around where its parts end.
func TestWhatWasAlteredIsRefused(t *testing.T) {
	whole := seal(t, bytes.Repeat([]byte("state"), 30_000))
	for i := 0; i < len(whole); i += 1 + i/20 {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if _, err := open(b, right); !errors.Is(err, ErrAltered) && !errors.Is(err, ErrPassphrase) {
			t.Errorf("byte %d of %d altered: %v", i, len(whole), err)
		}
	}
	for n := 0; n < len(whole); n += 1 + n/20 {
		if _, err := open(whole[:n], right); !errors.Is(err, ErrAltered) && !errors.Is(err, ErrPassphrase) {
			t.Errorf("cut to %d of %d: %v", n, len(whole), err)
		}
	}
	if _, err := open(append(bytes.Clone(whole), 'x'), right); !errors.Is(err, ErrAltered) {
		t.Errorf("something behind it: %v", err)
	}
}

func TestAFileMayNotAskForAllTheMemory(t *testing.T) {
	b := bytes.Replace(seal(t, nil), []byte(" 2\n"), []byte(" 30\n"), 1)
	if _, err := open(b, right); err == nil || !strings.Contains(err.Error(), "work factor too large") {
		t.Errorf("a file that wants 2^30 of work: %v", err)
	}
}

func TestAPassphraseIsNotPrinted(t *testing.T) {
	inside := struct{ P Passphrase }{right}
	text, err := json.Marshal(inside)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprint(right), fmt.Sprintf("%v %+v %#v %s %q", inside, inside, inside, right, right), string(text)} {
		if strings.Contains(printed, "horse") || !strings.Contains(printed, "[redacted]") {
			t.Error(printed)
		}
	}
	if err := Passphrase("eleven char").Check(); err == nil || strings.Contains(err.Error(), "eleven") {
		t.Errorf("a short one: %v", err)
	}
	if err := right.Check(); err != nil {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(seal(f, []byte("state")))
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := open(b, right)
		if err == nil && string(plain) != "state" {
			t.Errorf("%q was never sealed", plain)
		}
	})
}
