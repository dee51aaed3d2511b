package fleet

import (
	"fmt"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// Templates of profiles know {{variable}} and nothing else: no conditions, no loops,
// no functions. What is put in passes one narrow grammar, so that a value can be no
// part of a script but a word: a serial number is whatever a board's maker wrote.

// variables are what a template may name, with what each is.
var variables = map[string]string{
	"name":       "the machine's name",
	"mac":        "the card it boots with",
	"serial":     "the machine's serial number",
	"uuid":       "the machine's UUID",
	"address":    "the machine's address, as it asks",
	"node":       "the node, as http://ADDRESS:PORT",
	"answers":    "where its answer files are, as a URL that ends with a slash",
	"up":         "the URL that the installed system reports to with a POST",
	"disk":       "the disk that was approved, as /dev/disk/by-id/…",
	"disk_bytes": "the size of that disk in bytes",
}

// TemplateVariables are what a template may name, with what each is.
func TemplateVariables() map[string]string {
	out := map[string]string{}
	for name, what := range variables {
		out[name] = what
	}
	return out
}

// expand puts values in. A brace pair that names nothing is an error, as is one
// that does not end.
func expand(text string, value func(name string) (string, bool)) (string, error) {
	var out strings.Builder
	for at := 0; ; {
		open := strings.Index(text[at:], "{{")
		if open < 0 {
			out.WriteString(text[at:])
			return out.String(), nil
		}
		out.WriteString(text[at : at+open])
		at += open
		end := strings.Index(text[at:], "}}")
		if end < 0 {
			return "", errTemplate(at, "{{ without }}")
		}
		name := strings.TrimSpace(text[at+2 : at+end])
		v, ok := value(name)
		if !ok {
			return "", errTemplate(at, "nobody knows {{%.40s}} here; there are %s", name, variableList())
		}
		out.WriteString(v)
		at += end + 2
	}
}

// word reports whether a value may stand in a script, a command line and an answer
// file: a word of characters that none of their languages gives a meaning to.
func word(v string) bool {
	if v == "" || len(v) > 256 {
		return false
	}
	for _, r := range v {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(".:_/-", r):
		default:
			return false
		}
	}
	return true
}

// Values are what a profile's templates are filled in with for one machine.
type Values struct {
	Node  string // http://ADDRESS:PORT
	MAC   string
	Addr  string
	Token string
}

// Expand fills in a template of the profile for a machine that is booted with it. The
// disk is nil where nothing is erased.
func (p *Profile) Expand(text string, m *Machine, v Values, disk *wire.PlanDisk) (string, error) {
	return expand(text, func(name string) (string, bool) {
		value, err := p.value(name, m, v, disk)
		return value, err == nil
	})
}

// value is one variable, or why it has none that may be used.
func (p *Profile) value(name string, m *Machine, v Values, disk *wire.PlanDisk) (string, error) {
	value := ""
	switch name {
	case "name":
		value = m.Name
	case "mac":
		value = v.MAC
	case "serial":
		value = m.IDs.Serial
	case "uuid":
		value = m.IDs.UUID
	case "address":
		value = v.Addr
	case "node":
		value = v.Node
	case "answers":
		value = v.Node + AnswerPath + v.Token + "/"
	case "up":
		value = v.Node + "/up/" + v.Token
	case "disk", "disk_bytes":
		if disk == nil {
			return "", fmt.Errorf("no disk was approved")
		}
		if name == "disk_bytes" {
			return fmt.Sprint(disk.SizeBytes), nil
		}
		path, err := DiskPath(disk)
		if err != nil {
			return "", err
		}
		value = path
	default:
		file, is := strings.CutPrefix(name, "file:")
		for _, f := range p.AllFiles() {
			if is && f.Name == file {
				value = v.Node + FilePath + f.Digest + "/" + f.Name
			}
		}
	}
	if !word(value) {
		return "", fmt.Errorf("its %s is %.80q, and only letters, digits and . : _ / - may stand in a script", name, value)
	}
	return value, nil
}

// Where netboot serves what belongs to profiles.
const (
	AnswerPath = "/boot/answer/"
	FilePath   = "/boot/file/"
)

// texts are all its templates.
func (p *Profile) texts() []string {
	out := []string{p.Args, p.Script}
	for _, a := range p.Answers {
		out = append(out, a.Text)
	}
	return out
}

// names reports whether one of its templates names the variable.
func (p *Profile) names(variable string) (found bool) {
	for _, text := range p.texts() {
		_, _ = expand(text, func(name string) (string, bool) { // they were checked when it was made
			found = found || name == variable
			return "", true
		})
	}
	return found
}

// CheckValues says why the machine cannot be told what the profile's templates name.
// Node and address are known only when it asks.
func (p *Profile) CheckValues(m *Machine, disk *wire.PlanDisk) error {
	var why error
	for _, text := range p.texts() {
		_, _ = expand(text, func(name string) (string, bool) { // the templates were checked when it was made
			_, err := p.value(name, m, Values{Node: "http://192.0.2.1:80", MAC: "52:54:00:00:00:01", Addr: "192.0.2.1", Token: "x"}, disk)
			if err != nil && why == nil {
				why = refuse(Conflict, "machine %s cannot boot profile %s, which names its %s: %v", m.Name, p.Name, name, err)
			}
			return "", true
		})
	}
	return why
}

// DiskPath is the name under which udev knows the disk whatever the kernel calls it,
// as its rules make it (60-persistent-storage.rules).
func DiskPath(d *wire.PlanDisk) (string, error) {
	kind, id, _ := strings.Cut(strings.ToLower(d.WWN), ".")
	path := ""
	switch {
	case d.Transport == "nvme" && (kind == "eui" || kind == "uuid" || kind == "naa"):
		path = "nvme-" + strings.ToLower(d.WWN)
	case kind == "naa" && d.Transport != "nvme":
		path = "wwn-0x" + id
	case strings.HasPrefix(d.WWN, "0x"):
		path = "wwn-" + strings.ToLower(d.WWN)
	case d.Transport == "virtio" && d.Serial != "":
		path = "virtio-" + d.Serial
	}
	if path == "" || !word(path) || strings.ContainsAny(path, "/:") {
		return "", fmt.Errorf("disk %s has no name that stays the same whatever starts on the machine: udev makes one of a WWN, or of a virtio disk's serial", d)
	}
	return "/dev/disk/by-id/" + path, nil
}
