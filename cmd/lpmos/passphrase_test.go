package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/appliance/sealed"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/client"
)

// canary is a word that stands nowhere by chance.
func canary(n int) string { return fmt.Sprintf("canary%02dqzxwvk%02d", n, n*7) }

// forms are the ways in which a word may lie in a file: as it is, in hex, and in
// base64 at each of the three places a word can have in its groups.
func forms(word string) (out []string) {
	out = []string{word, hex.EncodeToString([]byte(word)), strings.ToUpper(hex.EncodeToString([]byte(word)))}
	for shift := range 3 {
		inside := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + word + strings.Repeat("\x00", 3)))
		from := (shift*8 + 5) / 6 // what does not hang on its neighbours
		to := (shift + len(word)) * 8 / 6
		out = append(out, inside[from:to])
	}
	return out
}

func TestFormsOfAWord(t *testing.T) {
	for _, before := range []string{"", "x", "xy", "xyz"} {
		text := base64.StdEncoding.EncodeToString([]byte(before + canary(3) + "after it"))
		if !holdsAny([]byte(text), canary(3)) {
			t.Errorf("the word is not found in base64 behind %q", before)
		}
	}
}

func holdsAny(b []byte, word string) bool {
	for _, f := range forms(word) {
		if bytes.Contains(b, []byte(f)) {
			return true
		}
	}
	return false
}

// TestS49_ABackupShowsNothing plants words wherever people and nodes put what
// others are not to read, and looks for them in what lpmos backup leaves on disk,
// also while it is at it.
func TestS49_ABackupShowsNothing(t *testing.T) {
	words := map[string]bool{}
	w := func(n int) string { words[canary(n)] = true; return canary(n) }
	plain, secret, err := kept(t.TempDir(), "", func(do func(fleet.Body) any) {
		mac := "52:54:00:49:49:49"
		do(fleet.CreateTask{ID: "t-49", RegionID: "dc1", TargetMAC: mac, PhoneToken: w(1), Spec: fleet.Spec{
			OSType: "debian", OSVersion: "12", UserData: "#cloud-config\npassword: " + w(2) + "\n",
			Tags:       map[string]string{"owner": w(3), w(4): "x"},
			DiskLayout: fleet.DiskLayout{Disk: w(5)},
			NetworkConfig: fleet.NetworkConfig{Hostname: w(6), Config: "wifi: " + w(7),
				SSHKeys: []string{"ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte(w(8)+"..")) + " " + w(9)}}}})
		do(fleet.CancelTask{TaskID: "t-49", By: w(10)})
		do(fleet.CreateToken{ID: "0123456789abcdef", SecretHash: w(12), ExpiresAt: time.Now().Add(time.Hour), By: w(11)})
	})
	if err != nil {
		t.Fatal(err)
	}
	// They are in there: else the rest says nothing.
	unpacked := unpack(t, plain)
	for word := range words {
		if !holdsAny(unpacked, word) {
			t.Errorf("%s is not in the backup at all", word)
		}
	}
	if len(words) < 12 {
		t.Fatalf("only %d words were planted", len(words))
	}

	dir := t.TempDir()
	look := func(when string, files int) {
		t.Helper()
		found, err := os.ReadDir(dir)
		if err != nil || len(found) != files {
			t.Errorf("%s there are %d files, want %d: %v", when, len(found), files, err)
		}
		for _, f := range found {
			info, err := f.Info()
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s %s has mode %v: %v", when, f.Name(), info.Mode(), err)
			}
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			for word := range words {
				if holdsAny(b, word) {
					t.Errorf("%s %s shows %s", when, f.Name(), word)
				}
			}
			if bytes.Contains(b, []byte("lpmos-backup")) || bytes.Contains(b, []byte(secret)) || bytes.Contains(b, plain[len(plain)/2:len(plain)/2+32]) {
				t.Errorf("%s %s has a part of the backup in the open", when, f.Name())
			}
		}
	}
	node := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Write(plain[:len(plain)/2]) //nolint:errcheck // the client judges
		_ = http.NewResponseController(rw).Flush()
		look("while it is written", 1)
		rw.Write(plain[len(plain)/2:]) //nolint:errcheck // the client judges
	}))
	defer node.Close()
	c, err := client.New(node.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "b")
	b := sealedBackup{file: file, work: littleWork, passphrase: func() (sealed.Passphrase, error) { return passphrase, nil }}
	if _, err := b.fetch(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	look("at the end", 1)

	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, state, err := appliance.ReadBackup(f, func() (sealed.Passphrase, error) { return passphrase, nil }, false)
	if err != nil || state.Task("t-49").PhoneToken != canary(1) {
		t.Errorf("with the passphrase it does not come back: %v", err)
	}
}

// unpack gives the state inside a backup.
func unpack(t *testing.T, backup []byte) []byte {
	t.Helper()
	if _, _, err := consensus.ReadBackup(bytes.NewReader(backup)); err != nil {
		t.Fatal(err)
	}
	_, packed, _ := bytes.Cut(backup, []byte("\n"))
	r, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var state bytes.Buffer
	if _, err := io.Copy(&state, r); state.Len() == 0 { // behind it stands the last line
		t.Fatal(err)
	}
	return state.Bytes()
}

// pseudo opens a terminal: what is written to the person's end is typed.
func pseudo(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no terminals here:", err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no terminals here:", err)
	}
	t.Cleanup(func() { terminal.Close() })
	return person, terminal
}

func TestAPassphraseIsTypedTwiceAndNotShown(t *testing.T) {
	for _, c := range []struct{ typed, want, refused string }{
		{"four words that rhyme\nfour words that rhyme\n", "four words that rhyme", ""},
		{"four words that rhyme\nfour words that rhyne\n", "", "these are two passphrases; nothing was written"},
		{"too short\n", "", "the passphrase has 9 characters"},
	} {
		person, terminal := pseudo(t)
		var asked bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		cmd.SetIn(terminal)
		cmd.SetErr(typist{&asked, person, strings.SplitAfter(c.typed, "\n"), new(int)})
		got, err := (&passphraseFlag{}).choose(cmd)
		if string(got) != c.want || (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("typed %q: got %q, %v", c.typed, string(got), err)
		}
		// What the terminal shows comes out at the person's end: line ends at most.
		terminal.Write([]byte("END")) //nolint:errcheck // read below
		var shown []byte
		for b := make([]byte, 256); !bytes.HasSuffix(shown, []byte("END")); {
			n, err := person.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			shown = append(shown, b[:n]...)
		}
		if strings.Contains(string(shown), "o") {
			t.Errorf("the terminal shows %q", shown)
		}
		if state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS); err != nil || state.Lflag&unix.ECHO == 0 {
			t.Errorf("the terminal shows nothing any more: %v", err)
		}
	}
}

// typist types the next line once the terminal hides it after a question.
type typist struct {
	io.Writer
	person *os.File
	lines  []string
	next   *int
}

func (ty typist) Write(b []byte) (int, error) {
	if strings.HasSuffix(string(b), ": ") {
		line := ty.lines[*ty.next]
		*ty.next++
		go func() {
			for { // the question stands there before the echo is off
				state, err := unix.IoctlGetTermios(int(ty.person.Fd()), unix.TCGETS)
				if err != nil {
					return // closed
				}
				if state.Lflag&unix.ECHO == 0 {
					break
				}
			}
			ty.person.WriteString(line) //nolint:errcheck // nothing would come
		}()
	}
	return ty.Writer.Write(b)
}
