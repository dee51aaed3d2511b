package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// A machine may be asked to boot a profile once, in place of the agent or its disk. It
// is given the profile's script only after the fleet has handed the wish over, which it
// does once: who asks again boots the disk.

// Profiles is what netboot needs to know of them. Its methods are safe for concurrent use.
type Profiles interface {
	// Take hands over what d says that m is asked to boot: once in the whole cluster. With
	// an error the machine is not given it. The URLs in it lead to node.
	Take(ctx context.Context, m Machine, d Decision, node netip.AddrPort) (Profile, error)

	// Answer makes an answer file for the machine that took a profile with this token. The
	// error says that there is none.
	Answer(token, name string, node netip.AddrPort, from netip.Addr) (text, mac string, err error)

	// File gives a file that some profile is made of. ErrNoBootFile says that none is, any
	// other error that it cannot be had just now.
	File(ctx context.Context, digest string) (io.ReaderAt, int64, error)
}

// Wish is the profile that a machine is asked to boot.
type Wish struct {
	ID      string
	Profile string // its name
}

// ProfileKind says what a profile is made of.
type ProfileKind string

// The kinds.
const (
	ProfileRescue  ProfileKind = "rescue"
	ProfileMemtest ProfileKind = "memtest"
	ProfileKernel  ProfileKind = "kernel"
	ProfileScript  ProfileKind = "script"
	ProfileProgram ProfileKind = "program"
)

// Profile is one that a machine boots. Everything that goes into a script has passed its
// grammar, which is the fleet's.
type Profile struct {
	Name    string
	Kind    ProfileKind
	Kernel  string   // URLs
	Initrds []string // URLs
	Args    string
	Script  string // of iPXE's, as it is
	BIOS    string // URLs of a program
	UEFI    string
}

// Names of the files of profiles that every node has; see images/bootimage.
const (
	FileRescue      = "rescue"
	FileMemtestBIOS = "memtest.bin"
	FileMemtestUEFI = "memtest.efi"
)

// Where the files of profiles, and those that are made for one machine, are below
// BootPath.
const (
	profileFiles   = "file/"
	profileAnswers = "answer/"
)

// consoles has a kernel of ours speak on the screen and on the first serial line.
const consoles = "console=tty0 console=ttyS0,115200"

// profile is the script that boots one. What cannot be started leaves the machine to its
// disk. arm64 firmware is told apart by iPXE itself: our own files are for x86-64.
func (ipxe) profile(p Profile, node netip.AddrPort, title string, drive int) string {
	var s strings.Builder
	fmt.Fprintf(&s, "#!ipxe\necho LPMOS: booting profile %s, once. %s\n", p.Name, title)
	if p.Kind == ProfileScript {
		s.WriteString(strings.TrimPrefix(p.Script, "#!ipxe\n"))
		return s.String()
	}
	file := func(name string) string { return fmt.Sprintf("http://%s%s%s", node, BootPath, name) }
	s.WriteString("imgfree\n")
	switch p.Kind {
	case ProfileRescue:
		s.WriteString(notOnARM)
		ipxeKernel(&s, file(FileKernel), []string{file(FileInitrd), file(FileRescue)}, "rdinit=/rescue "+consoles)
	case ProfileMemtest:
		s.WriteString(notOnARM)
		fmt.Fprintf(&s, `iseq ${platform} efi && goto uefi ||
kernel %s console=ttyS0,115200 || goto local
boot || goto local
:uefi
kernel %s console=ttyS0,115200 || goto local
boot || goto local
`, file(FileMemtestBIOS), file(FileMemtestUEFI))
	case ProfileKernel:
		ipxeKernel(&s, p.Kernel, p.Initrds, p.Args)
	case ProfileProgram:
		s.WriteString("iseq ${platform} efi && goto uefi ||\n")
		ipxeProgram(&s, p.BIOS, "BIOS")
		s.WriteString(":uefi\n")
		ipxeProgram(&s, p.UEFI, "UEFI")
	}
	fmt.Fprintf(&s, ":local\necho LPMOS: profile %s could not be started; booting the disk\nimgfree\n%s", p.Name, localBoot(drive))
	return s.String()
}

const notOnARM = `iseq ${buildarch} arm64 && echo LPMOS: this profile is for x86-64 alone ||
iseq ${buildarch} arm64 && goto local ||
`

func ipxeKernel(s *strings.Builder, kernel string, initrds []string, args string) {
	fmt.Fprintf(s, "kernel %s", kernel)
	for i := range initrds {
		fmt.Fprintf(s, " initrd=initrd%d", i)
	}
	fmt.Fprintf(s, " %s || goto local\n", args)
	for i, url := range initrds {
		fmt.Fprintf(s, "initrd --name initrd%d %s || goto local\n", i, url)
	}
	s.WriteString("boot || goto local\n")
}

func ipxeProgram(s *strings.Builder, url, firmware string) {
	if url == "" {
		fmt.Fprintf(s, "echo LPMOS: this profile has no program for %s\ngoto local\n", firmware)
		return
	}
	fmt.Fprintf(s, "chain %s || goto local\n", url)
}

// noGRUB is why a machine that is booted by GRUB is not given a profile: what it starts
// has to be signed, and it comes over TFTP, where nobody can wait for the cluster.
const noGRUB = "its firmware starts only what is signed (Secure Boot), and profiles are started by iPXE"

// takeProfile has the fleet hand a wish over. Without that the machine boots its disk.
func (s *scripts) takeProfile(ctx context.Context, in language, m Machine, d Decision, ask scriptAsk) (script string, _ Decision) {
	lang, can := in.(ipxe)
	var err error
	switch {
	case s.profiles == nil || d.Wish == nil:
		err = errors.New("this node has no profiles")
	case !can:
		err = errors.New(noGRUB)
	case ask.looks: // and does not take it
		return lang.local(title(d), d.LocalDrive), d
	default:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeTime)
		defer cancel()
		var p Profile
		if p, err = s.profiles.Take(ctx, m, d, ask.node); err == nil {
			s.stats.add("script.profile")
			d.Reason = "profile " + p.Name + ", " + d.Reason
			return lang.profile(p, ask.node, title(d), d.LocalDrive), d
		}
	}
	name := ""
	if d.Wish != nil {
		name = d.Wish.Profile
	}
	s.stats.add("script.profile.not taken")
	s.log.Warn("a machine is not booted into the profile it was asked to; it boots its disk", "mac", m.MAC, "profile", name, "reason", err)
	d.Action, d.Reason = BootLocal, "not into profile "+name+": "+err.Error()
	return in.local(title(d), d.LocalDrive), d
}

// takeTime is how long a machine is kept waiting until the cluster has agreed that it is
// the one.
const takeTime = 8 * time.Second

// answer serves a file that is made for one machine.
func (h *bootHTTP) answer(w http.ResponseWriter, r *http.Request, name string) {
	token, name, _ := strings.Cut(name, "/")
	if h.profiles == nil || name == "" {
		http.NotFound(w, r)
		return
	}
	text, mac, err := h.profiles.Answer(token, name, nodeAddr(r), peer(r))
	if err != nil {
		h.stats.add("http.answer.none")
		if h.scripts.complaints.mayComplain(h.now()) { // never with the token
			h.log.Warn("an answer file is not given", "file", clip(name), "from", r.RemoteAddr, "reason", err)
		}
		http.NotFound(w, r)
		return
	}
	h.stats.add("http.answer")
	if r.Method == http.MethodGet {
		h.sightings.Add(Sighting{At: h.now(), MAC: mac, Kind: KindHTTP, Addr: peer(r), Step: StepServed, File: name, Bytes: int64(len(text)), Size: int64(len(text)),
			Text: "was given " + name + ", made for it"})
	}
	h.text(w, r, text)
}

// profileFile serves a file of a profile, which may have to come from another node first.
func (h *bootHTTP) profileFile(w http.ResponseWriter, r *http.Request, name string) {
	digest, name, _ := strings.Cut(name, "/")
	if h.profiles == nil || name == "" || consoleText(name) == "" {
		http.NotFound(w, r)
		return
	}
	content, size, err := h.profiles.File(r.Context(), digest)
	switch {
	case errors.Is(err, ErrNoBootFile):
		h.stats.add("http.not found")
		http.NotFound(w, r)
	case err != nil:
		h.stats.add("http.profile file.not yet")
		h.log.Warn("a profile's file cannot be served just now", "file", name, "from", r.RemoteAddr, "reason", err)
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this file is not here yet", http.StatusServiceUnavailable)
	default:
		h.send(w, r, file{ReaderAt: content, size: size, etag: fmt.Sprintf(`"%s-%x"`, digest, size)}, name)
	}
}
