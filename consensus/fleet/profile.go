package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// A profile is a named thing that a machine can be booted into once, in place of
// the agent or its own disk: a rescue shell, a memory test, a vendor's installer.
// An admin makes it; whoever may install asks for it.

// ProfileKind says what a profile is made of.
type ProfileKind string

// The kinds. The first three are part of every node.
const (
	ProfileAgent   ProfileKind = "agent"   // the agent, which looks at the machine anew
	ProfileRescue  ProfileKind = "rescue"  // our kernel, with a shell on its console
	ProfileMemtest ProfileKind = "memtest" // Memtest86+
	ProfileKernel  ProfileKind = "kernel"  // a kernel, its initramfs and its command line
	ProfileScript  ProfileKind = "script"  // a script of iPXE's
	ProfileProgram ProfileKind = "program" // a program that firmware starts, one for BIOS and one for UEFI
)

// Profile is one of them.
type Profile struct {
	Name string      `json:"name"`
	Kind ProfileKind `json:"kind"`
	Text string      `json:"text,omitempty"` // what it is, in a sentence

	Kernel  *ProfileFile  `json:"kernel,omitempty"`
	Initrds []ProfileFile `json:"initrds,omitempty"`
	Args    string        `json:"args,omitempty"` // template of the kernel's command line
	Script  string        `json:"script,omitempty"`
	BIOS    *ProfileFile  `json:"bios,omitempty"`
	UEFI    *ProfileFile  `json:"uefi,omitempty"`
	// Files are more that a script may name.
	Files []ProfileFile `json:"files,omitempty"`
	// Answers are files that are made for each machine: a preseed, a kickstart,
	// user-data.
	Answers []AnswerFile `json:"answers,omitempty"`

	// Erases says that what it starts may write to a disk. Asking for it takes a plan.
	Erases bool `json:"erases"`

	// Digest names all of the above but the text: an approval is of one.
	Digest    string    `json:"digest"`
	By        string    `json:"by,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

// ProfileFile is a file in the nodes' image stores.
type ProfileFile struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"` // of the manifest that lists its chunks
	SizeBytes uint64 `json:"size_bytes"`
}

// AnswerFile is a template of a file that answers an installer's questions.
type AnswerFile struct {
	Name string `json:"name"` // "preseed.cfg"
	Text string `json:"text"`
}

// Limits of a profile: it is in the log and in the memory of every node.
const (
	maxProfiles     = 200
	maxProfileFiles = 16
	maxAnswers      = 16
	maxTemplate     = 64 << 10
	maxArgs         = 1024
)

// builtin is the profile of every node with that name, or nil. Nodes of all versions
// have to agree on name, kind and whether it erases: rules go by them.
func builtin(name string) *Profile {
	for _, p := range builtins() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// agentProfile is the one that is over when the machine's agent has reported.
const agentProfile = "agent"

func builtins() []*Profile {
	list := []*Profile{
		{Name: agentProfile, Kind: ProfileAgent, Text: "the agent looks at the machine anew, and changes nothing"},
		{Name: "memtest", Kind: ProfileMemtest, Text: "tests the memory (Memtest86+), until somebody stops it"},
		{Name: "rescue", Kind: ProfileRescue, Text: "a shell on the console, with network; no disk is mounted and nothing is written"},
	}
	for _, p := range list {
		p.Digest = p.sum()
	}
	return list
}

// sum is what the profile's Digest has to be.
func (p Profile) sum() string {
	p.Digest, p.Text, p.By, p.CreatedAt = "", "", "", time.Time{}
	sum := sha256.Sum256([]byte(asJSON(p)))
	return hex.EncodeToString(sum[:])
}

// BuiltIn reports whether every node has it.
func (p *Profile) BuiltIn() bool {
	return p.Kind == ProfileAgent || p.Kind == ProfileRescue || p.Kind == ProfileMemtest
}

// AllFiles are the files it is made of.
func (p *Profile) AllFiles() (out []ProfileFile) {
	for _, f := range []*ProfileFile{p.Kernel, p.BIOS, p.UEFI} {
		if f != nil {
			out = append(out, *f)
		}
	}
	return append(append(out, p.Initrds...), p.Files...)
}

// Profile by name, or nil.
func (s *State) Profile(name string) *Profile {
	if p := builtin(name); p != nil {
		return p
	}
	return s.profiles[name]
}

// Profiles sorted by name, those of every node first.
func (s *State) Profiles() []*Profile { return append(builtins(), sorted(s.profiles)...) }

// MadeProfiles are those that people have made, by name.
func (s *State) MadeProfiles() []*Profile { return sorted(s.profiles) }

// CheckProfile says what is wrong with a profile that somebody wants to make.
func CheckProfile(p Profile) error {
	switch {
	case !ValidName(p.Name):
		return invalid("name", "profile name %q: use a-z, 0-9, dot, dash and underscore, 64 at most", p.Name)
	case builtin(p.Name) != nil:
		return invalid("name", "profile %s is part of every node; choose another name", p.Name)
	case len(p.Text) > 200 || strings.ContainsFunc(p.Text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return invalid("text", "profile %s: its text is a sentence of 200 bytes at most", p.Name)
	case len(p.AllFiles()) > maxProfileFiles:
		return invalid("files", "profile %s: %d files; %d at most", p.Name, len(p.AllFiles()), maxProfileFiles)
	case len(p.Answers) > maxAnswers:
		return invalid("answers", "profile %s: %d answer files; %d at most", p.Name, len(p.Answers), maxAnswers)
	}
	if err := p.checkKind(); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, f := range p.AllFiles() {
		switch {
		case CheckFileName(f.Name) != nil:
			return CheckFileName(f.Name)
		case names[f.Name]:
			return invalid("files", "profile %s: two files are called %s", p.Name, f.Name)
		case !wire.IsDigest(f.Digest) || f.SizeBytes == 0:
			return invalid("files", "profile %s: file %s is empty or %q is no digest", p.Name, f.Name, f.Digest)
		}
		names[f.Name] = true
	}
	answers := map[string]bool{}
	for _, a := range p.Answers {
		switch {
		case CheckFileName(a.Name) != nil:
			return CheckFileName(a.Name)
		case answers[a.Name]:
			return invalid("answers", "profile %s: two answer files are called %s", p.Name, a.Name)
		}
		answers[a.Name] = true
		if err := p.checkTemplate("answers."+a.Name, a.Text, maxTemplate); err != nil {
			return err
		}
	}
	return nil
}

// CheckFileName refuses what no file of a profile may be called.
func CheckFileName(name string) error {
	if !ValidName(strings.ToLower(name)) {
		return invalid("name", "file name %.80q: use letters, digits, dot, dash and underscore, 64 at most", name)
	}
	return nil
}

// checkKind wants what a profile of its kind is made of, and nothing else.
func (p Profile) checkKind() error {
	other := func(field string, there bool) error {
		if there {
			return invalid(field, "profile %s: a profile of kind %s has no %s", p.Name, p.Kind, field)
		}
		return nil
	}
	var err error
	first := func(e error) {
		if err == nil {
			err = e
		}
	}
	if p.Kind != ProfileKernel {
		first(other("kernel", p.Kernel != nil || len(p.Initrds) > 0 || p.Args != ""))
	}
	if p.Kind != ProfileScript {
		first(other("script", p.Script != ""))
		first(other("files", len(p.Files) > 0))
	}
	if p.Kind != ProfileProgram {
		first(other("program", p.BIOS != nil || p.UEFI != nil))
	} else {
		first(other("answers", len(p.Answers) > 0))
	}
	if err != nil {
		return err
	}
	switch p.Kind {
	case ProfileKernel:
		if p.Kernel == nil {
			return invalid("kernel", "profile %s: which kernel does it start?", p.Name)
		}
		if err := p.checkTemplate("args", p.Args, maxArgs); err != nil {
			return err
		}
		plain, err := expand(p.Args, func(string) (string, bool) { return "x", true })
		if err != nil {
			return err
		}
		return checkArgs(plain)
	case ProfileScript:
		if !strings.HasPrefix(p.Script, "#!ipxe\n") {
			return invalid("script", "profile %s: a script of iPXE's begins with the line #!ipxe", p.Name)
		}
		for i, r := range p.Script {
			if r != '\n' && r != '\t' && (r < ' ' || r > '~') {
				return invalid("script", "profile %s: character %q at %d of the script is not allowed", p.Name, r, i+1)
			}
		}
		return p.checkTemplate("script", p.Script, maxTemplate)
	case ProfileProgram:
		if p.BIOS == nil && p.UEFI == nil {
			return invalid("program", "profile %s: which program does it start, under BIOS or under UEFI?", p.Name)
		}
		return nil
	}
	return invalid("kind", "profile %s: kind %q; there are kernel, script and program", p.Name, p.Kind)
}

// checkArgs is the grammar of a kernel's command line as a boot loader reads it:
// nothing in it means anything to iPXE.
func checkArgs(args string) error {
	for i, r := range args {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(" .,:;_+-/=@%~", r):
		default:
			return invalid("args", "character %q at %d of the kernel's command line is not allowed", r, i+1)
		}
	}
	for _, word := range strings.Fields(args) {
		if key, _, _ := strings.Cut(word, "="); key == "initrd" || strings.HasPrefix(key, "lpmos.") {
			return invalid("args", "%q may not be set on the kernel's command line here", word)
		}
	}
	return nil
}

// checkTemplate refuses a template that could not be filled in, or that names
// something nobody knows.
func (p Profile) checkTemplate(field, text string, most int) error {
	if len(text) > most {
		return invalid(field, "profile %s: %s has %d bytes; %d at most", p.Name, field, len(text), most)
	}
	_, err := expand(text, func(name string) (string, bool) {
		if file, is := strings.CutPrefix(name, "file:"); is {
			for _, f := range p.AllFiles() {
				if f.Name == file {
					return "x", true
				}
			}
			return "", false
		}
		if (name == "disk" || name == "disk_bytes") && !p.Erases {
			return "", false
		}
		return "x", variables[name] != ""
	})
	if err != nil {
		return invalid(field, "profile %s: %s: %v", p.Name, field, err)
	}
	return nil
}

// variableList is told to who has named another.
func variableList() string {
	return "name, mac, serial, uuid, address, node, answers, up, and where it erases disk and disk_bytes; file:NAME for one of its files"
}

// errTemplate is told with where in the template it is.
func errTemplate(at int, format string, args ...any) error {
	return fmt.Errorf("at byte %d: "+format, append([]any{at + 1}, args...)...)
}
