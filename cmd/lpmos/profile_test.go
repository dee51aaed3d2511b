package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images/debian"
)

// The preseed that comes with LPMOS is a template that the fleet takes, and names the disk.
func TestTheDefaultPreseedIsATemplate(t *testing.T) {
	text, err := debian.Preseed("http://mirror.example:8080/debian/", "$y$j9T$abcdefgh$ijklmnop", []string{"ssh-ed25519 AAAAC3Nza ops@example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mirror/http/hostname string mirror.example:8080\n", "mirror/http/directory string /debian\n", "partman-auto/disk string {{disk}}\n", "root-password-crypted password $y$j9T$abcdefgh$ijklmnop\n", `printf 'ssh-ed25519 AAAAC3Nza ops@example\n'`} {
		if !strings.Contains(text, want) {
			t.Errorf("it has no %q", want)
		}
	}
	// The installed system does not ask for ever.
	loop := regexp.MustCompile(`until wget .*-t 1 -T 10 .*\{\{up\}\} \|\| \[ \$\$i -ge 5760 \]; do i=\$\$\(\(i\+1\)\); sleep 5; done`)
	if !loop.MatchString(text) {
		t.Errorf("what it reports with has no end:\n%s", text)
	}
	if strings.Contains(text, "@MIRROR") || strings.Contains(text, "@LOGIN@") || strings.Contains(text, "@KEYS@") {
		t.Errorf("not all is filled in:\n%s", text)
	}
	f := func(name string) fleet.ProfileFile {
		return fleet.ProfileFile{Name: name, Digest: strings.Repeat("ab", 32), SizeBytes: 1}
	}
	kernel := f("linux")
	p := fleet.Profile{Name: "debian-installer", Kind: fleet.ProfileKernel, Erases: true, Kernel: &kernel, Initrds: []fleet.ProfileFile{f("initrd.gz")},
		Args: debian.InstallerArgs, Answers: []fleet.AnswerFile{{Name: "preseed.cfg", Text: text}}}
	if err := fleet.CheckProfile(p); err != nil {
		t.Error(err)
	}
	p.Erases = false
	if fleet.CheckProfile(p) == nil {
		t.Error("it names a disk where none is approved, and is taken")
	}
}

func TestWhatCannotStandInAPreseedIsRefused(t *testing.T) {
	const mirror, key = "http://deb.debian.org/debian", "ssh-ed25519 AAAAC3Nza ops"
	for name, c := range map[string]struct{ mirror, password, key string }{
		"another protocol":   {"ftp://deb.debian.org/debian", "", key},
		"a newline":          {"http://deb.debian.org/debian\nd-i x", "", key},
		"a password in it":   {"http://u:p@deb.debian.org/debian", "", key},
		"a template":         {"http://deb.debian.org/{{up}}", "", key},
		"a plain password":   {mirror, "secret", key},
		"a hash of two":      {mirror, "$6$salt$hash\nd-i x", key},
		"a key with a quote": {mirror, "", "ssh-ed25519 AAAA '; rm -rf /"},
		"a key of two":       {mirror, "", "ssh-ed25519 AAAA\nd-i x"},
		"half a key":         {mirror, "", "ssh-ed25519"},
	} {
		if text, err := debian.Preseed(c.mirror, c.password, []string{c.key}); err == nil {
			t.Errorf("%s is taken:\n%s", name, text)
		}
	}
}
