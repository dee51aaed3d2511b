package door

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lpmos/lpmos/consensus/fleet"
	"golang.org/x/crypto/argon2"
)

// What a hash costs: the second of OWASP's choices for Argon2id, which asks for
// little memory, because anybody on the network can make this node do it.
const (
	hashMemory = 19 << 10 // KiB
	hashPasses = 2
	hashLanes  = 1
	saltBytes  = 16
	keyBytes   = 32

	// hashesAtOnce bounds the memory and the processors a flood of logins can take.
	hashesAtOnce = 2
)

// The length of a password, in characters and in bytes.
const (
	minPassword = 12
	maxPassword = 1024
)

// hasher hashes passwords, a few at once.
type hasher struct{ slots chan struct{} }

func newHasher() hasher { return hasher{make(chan struct{}, hashesAtOnce)} }

// enter waits for a slot.
func (h hasher) enter(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave gives the slot back, and first the memory of the hash: left to itself it
// would lie until the heap has doubled, some 20 MB for each.
func (h hasher) leave() {
	runtime.GC()
	<-h.slots
}

// hash gives the PHC text of a password, with a salt of its own. still, if set, is
// asked when it is this one's turn: nothing costly is done in vain.
func (h hasher) hash(ctx context.Context, password string, still func() error) (fleet.Secret, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	if still != nil {
		if err := still(); err != nil {
			<-h.slots
			return "", err
		}
	}
	defer h.leave()
	salt := make([]byte, saltBytes)
	rand.Read(salt) //nolint:errcheck // never fails
	key := argon2.IDKey([]byte(password), salt, hashPasses, hashMemory, hashLanes, keyBytes)
	return fleet.Secret(fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, hashMemory, hashPasses, hashLanes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))), nil
}

// matches reports whether a password is the one that was hashed. A text that is
// no hash costs as much as one that is, and matches nothing: who asks must not
// learn from the time it takes whether there is such a user.
func (h hasher) matches(ctx context.Context, phc, password string) (bool, error) {
	if err := h.enter(ctx); err != nil {
		return false, err
	}
	defer h.leave()
	p, err := parsePHC(phc)
	if err != nil {
		p = parsedHash{memory: hashMemory, passes: hashPasses, lanes: hashLanes, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}
	}
	got := argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(len(p.key)))
	return err == nil && subtle.ConstantTimeCompare(got, p.key) == 1, nil
}

type parsedHash struct {
	memory, passes uint32
	lanes          uint8
	salt, key      []byte
}

var errNoHash = errors.New("this is no hash of a password")

// parsePHC reads what hash writes. What it may cost is bounded: the text comes
// out of the log, and a log may have been written by another version.
func parsePHC(text string) (p parsedHash, err error) {
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, errNoHash
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); n != 3 || err != nil {
		return p, errNoHash
	}
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return p, errNoHash
	}
	if p.key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return p, errNoHash
	}
	if p.memory < 8 || p.memory > 256<<10 || p.passes < 1 || p.passes > 10 || p.lanes < 1 || p.lanes > 16 ||
		len(p.salt) < 8 || len(p.salt) > 64 || len(p.key) < 16 || len(p.key) > 64 {
		return p, errNoHash
	}
	return p, nil
}

// common are the words that long passwords are most often made of by adding to
// them. A list of whole passwords would hardly hold one of twelve characters.
var common = []string{
	"password", "passwort", "passw0rd", "p@ssw0rd", "p@ssword", "motdepasse", "contraseña", "contrasena", "senha",
	"qwertyuiop", "qwerty", "qwertz", "azerty", "asdfghjkl", "asdfgh", "zxcvbnm", "1q2w3e4r5t", "1qaz2wsx3edc", "1qaz2wsx", "q1w2e3r4",
	"letmein", "iloveyou", "welcome", "changeme", "administrator", "admin", "root", "superuser", "master", "secret", "default", "monkey", "dragon",
	"football", "baseball", "sunshine", "princess", "superman", "batman", "trustno1", "abcdefghijkl", "abcdef", "abc", "test", "login",
	"server", "system", "install", "lpmos", "cobbler", "foreman", "maas",
}

// CheckPassword says why a password is not taken for a user of this name, or nil.
func CheckPassword(name, password string) error {
	switch {
	case !utf8.ValidString(password):
		return errors.New("the password is no text")
	case utf8.RuneCountInString(password) < minPassword:
		return fmt.Errorf("the password is too short: take %d characters or more; a few words are good", minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	distinct, low := map[rune]bool{}, strings.ToLower(password)
	for _, c := range low {
		distinct[c] = true
	}
	if len(distinct) < 5 || isRun(low) {
		return errors.New("the password is one of the first that are tried: the same few characters, or in a row")
	}
	// Without the words everybody takes, and what is put around them.
	rest := low
	for _, w := range append([]string{strings.ToLower(name)}, common...) {
		if len(w) >= 3 {
			rest = strings.ReplaceAll(rest, w, "")
		}
	}
	rest = strings.TrimFunc(rest, func(c rune) bool {
		return unicode.IsDigit(c) || unicode.IsPunct(c) || unicode.IsSymbol(c) || unicode.IsSpace(c)
	})
	if utf8.RuneCountInString(rest) < 4 {
		return errors.New("the password is one of the first that are tried: a common word or the name, with digits and signs around it")
	}
	return nil
}

// isRun reports whether each character is the one after, or each the one before, the last.
func isRun(s string) bool {
	up, down := true, true
	for i := 1; i < len(s); i++ {
		up = up && s[i] == s[i-1]+1 || up && s[i] == '0' && s[i-1] == '9'
		down = down && s[i] == s[i-1]-1 || down && s[i] == '9' && s[i-1] == '0'
	}
	return up || down
}
