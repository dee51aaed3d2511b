// Package sealed keeps a backup under a passphrase: what lies on a disk or
// travels is of no use to who finds it. The file is one of age
// (https://age-encryption.org/v1), so that age itself opens it too, should
// there be no lpmos any more.
package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"filippo.io/age"
)

// A Passphrase is what a person keeps in mind, or a file in its place. It is
// never printed.
type Passphrase string

// String keeps it out of logs and messages.
func (Passphrase) String() string { return "[redacted]" }

// GoString is what %#v prints.
func (Passphrase) GoString() string { return "[redacted]" }

// MarshalText is what JSON gets.
func (Passphrase) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// shortest is how many characters a passphrase has at least. A file that was
// taken can be tried on for years, and each try costs about a second.
const shortest = 12

// Check refuses a passphrase that would be found soon.
func (p Passphrase) Check() error {
	if n := utf8.RuneCountInString(string(p)); n < shortest {
		return fmt.Errorf("the passphrase has %d characters; take at least %d, for instance four words", n, shortest)
	}
	return nil
}

// Work is the logarithm of how much work a try of a passphrase is: 18 takes a
// second and 256 MB. Files that want more than maxWork are refused, for what
// they want is to fill the memory.
const (
	Work    = 18
	maxWork = 20
)

const intro = "age-encryption.org/v1\n"

// Is says whether this is how a sealed file begins.
func Is(r io.ReaderAt) (bool, error) {
	head := make([]byte, len(intro))
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return bytes.Equal(head[:n], []byte(intro)), nil
}

// Seal encrypts what is written to w, with so much work for each try. Only
// after Close is all of it there.
func Seal(w io.Writer, p Passphrase, work int) (io.WriteCloser, error) {
	to, err := age.NewScryptRecipient(string(p))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	to.SetWorkFactor(work)
	out, err := age.Encrypt(w, to)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return out, nil
}

// ErrPassphrase says that a file does not open with this passphrase.
var ErrPassphrase = errors.New("it does not open with this passphrase: that is not the one it was made with, or its first lines are altered")

// ErrAltered says that a file is not as it was written.
var ErrAltered = errors.New("it is cut short, altered or damaged")

// Open gives what was sealed in the size bytes of r. Each part is authenticated
// before it is given: what was altered is an error, never other bytes. A file
// that was cut short is refused here.
func Open(r io.ReaderAt, size int64, p Passphrase) (*io.SectionReader, error) {
	with, err := age.NewScryptIdentity(string(p))
	if err != nil {
		return nil, ErrPassphrase // an empty one
	}
	with.SetMaxWorkFactor(maxWork)
	plain, n, err := age.DecryptReaderAt(r, size, with)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none), errors.Is(err, age.ErrIncorrectIdentity):
		return nil, ErrPassphrase
	case err != nil:
		return nil, fmt.Errorf("%w (%w)", ErrAltered, err)
	}
	return io.NewSectionReader(marked{plain}, 0, n), nil
}

// marked tells a part that is not as it was written from a disk that fails.
type marked struct{ io.ReaderAt }

func (m marked) ReadAt(b []byte, off int64) (int, error) {
	n, err := m.ReaderAt.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w (%w)", ErrAltered, err)
	}
	return n, err
}
