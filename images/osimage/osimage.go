// Package osimage builds raw disk images from Debian packages: a small, real
// Debian for machines and a tiny system for tests.
//
// Both boot by BIOS and by UEFI, and are laid out for this project's installer:
// GPT, partitions that begin at multiples of 4 MiB so that equal file systems
// give equal chunks, the root partition last so that it can grow. Nothing here
// needs a loop device or a mounted image: file systems are written at an offset
// of an ordinary file.
package osimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Names of the images Build knows.
const (
	Debian12 = "debian-12"
	Tiny     = "tiny"
)

// Names lists the images Build knows.
func Names() []string { return []string{Debian12, Tiny} }

// epoch is the time files are given where a tool insists on one, in seconds
// since 1970: the same packages then give nearly the same bytes.
const epoch = "1672531200"

// Build writes the image of that name to the file out, which appears when it is
// whole. Packages come from the source this machine's apt is configured with
// and are kept in the folder ".packages" beside out. logf tells the steps and
// may be nil. Building debian-12 needs root: its files belong to many users.
func Build(ctx context.Context, name, out string, logf func(format string, args ...any)) error {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	var build func(context.Context, *builder) error
	switch name {
	case Debian12:
		build = buildDebian
	case Tiny:
		build = buildTiny
	default:
		return fmt.Errorf("no image is called %q; there are %s", name, strings.Join(Names(), " and "))
	}
	if err := checkTools(name); err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(out), ".build-"+name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &builder{
		name: name, work: work, image: filepath.Join(work, "disk.raw"),
		packages: filepath.Join(filepath.Dir(out), ".packages"), logf: logf,
	}
	if err := build(ctx, b); err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	return os.Rename(b.image, out)
}

// builder is one build under way.
type builder struct {
	name     string
	work     string // folder of its own, removed afterwards
	image    string // the disk being made
	packages string // cache of packages
	logf     func(format string, args ...any)
}

// checkTools names everything that is missing at once, with the package that
// has it.
func checkTools(name string) error {
	tools := []struct{ file, pkg string }{
		{"mke2fs", "e2fsprogs"}, {"mformat", "mtools"}, {"mcopy", "mtools"}, {"mmd", "mtools"},
		{"grub-mkimage", "grub-common"},
		{filepath.Join(grubDir, "i386-pc", "boot.img"), "grub-pc-bin"},
		{filepath.Join(grubDir, "x86_64-efi", "moddep.lst"), "grub-efi-amd64-bin"},
	}
	if name == Debian12 {
		if os.Geteuid() != 0 {
			return errors.New("only root can make files of other users; run it with sudo")
		}
		tools = append(tools, struct{ file, pkg string }{"mmdebstrap", "mmdebstrap"})
	} else {
		tools = append(tools, struct{ file, pkg string }{"depmod", "kmod"})
	}
	var missing []string
	for _, t := range tools {
		_, err := exec.LookPath(t.file)
		if filepath.IsAbs(t.file) {
			_, err = os.Stat(t.file)
		}
		if err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("programs are missing; run: apt-get install %s", strings.Join(missing, " "))
	}
	return nil
}

// run runs a program; its last words become part of the error.
func (b *builder) run(ctx context.Context, stdin []byte, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = b.work
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC", "SOURCE_DATE_EPOCH="+epoch, "E2FSPROGS_FAKE_TIME="+epoch, "MTOOLS_SKIP_CHECK=1")
	cmd.Stdin = bytes.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("%s: %w: %s", program, err, strings.Join(lines[max(0, len(lines)-5):], "; "))
	}
	return nil
}

// guid derives a GUID from the image's name and what it is for, in the byte
// order of the GPT. Two images never share one, two builds of the same do.
func (b *builder) guid(what string) [16]byte {
	sum := sha256.Sum256([]byte("lpmos image " + b.name + " " + what))
	var g [16]byte
	copy(g[:], sum[:])
	g[7] = g[7]&0x0f | 0x40 // version 4 (RFC 9562 §5.4); the third group is little endian
	g[8] = g[8]&0x3f | 0x80
	return g
}

// uuid is a guid as text.
func (b *builder) uuid(what string) string { return guidText(b.guid(what)) }
