package install

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// SeedLabel is the volume label by which cloud-init's NoCloud source finds the
// seed.
const SeedLabel = "CIDATA"

// PhoneHomeName is the file of the seed that holds the URLs the system reports to,
// one a line, for systems that cloud-init has no part in.
const PhoneHomeName = "phone-home"

// MarkerName is the file of the seed that holds the wire.Marker.
const MarkerName = "lpmos.json"

// seedFiles are the files of the first-boot seed: cloud-init's NoCloud
// documents and our marker. bootMAC is the interface that gets an address when
// the grant asks for no other network; empty means all.
//
// What a person gave as user-data is passed on untouched. The host name and
// the keys then travel as vendor data, which user-data overrides.
func seedFiles(g wire.Grant, bootMAC string) []fatFile {
	fb := g.Plan.FirstBoot
	instance := instanceID(g)

	meta := "instance-id: " + quote(instance) + "\n"
	if fb.Hostname != "" {
		meta += "local-hostname: " + quote(fb.Hostname) + "\n"
	}

	vendor := "#cloud-config\n"
	user := fb.UserData
	if user == "" {
		user = "#cloud-config\n" + identity(fb)
	} else {
		vendor += identity(fb)
	}
	homes := homes(g)
	if len(homes) > 0 {
		tries := 20
		if len(homes) > 1 {
			tries = 3 // the boot waits for them, and the script tells the others
		}
		vendor += "phone_home:\n" +
			"  url: " + quote(homes[0]) + "\n" +
			"  post: [instance_id, hostname, fqdn]\n" +
			"  tries: " + fmt.Sprint(tries) + "\n"
	}
	if len(homes) > 1 {
		vendor = "#cloud-config-archive\n" +
			"- type: text/cloud-config\n  content: " + quote(vendor) + "\n" +
			"- type: text/x-shellscript\n  content: " + quote(upScript(instance, homes)) + "\n"
	}

	network := fb.NetworkConfig
	if network == "" {
		match := `name: "e*"`
		if bootMAC != "" {
			match = "macaddress: " + quote(strings.ToLower(bootMAC))
		}
		network = "version: 2\nethernets:\n  lpmos:\n    match: {" + match + "}\n    dhcp4: true\n"
	}
	return []fatFile{
		{"meta-data", []byte(meta)},
		{"user-data", []byte(user)},
		{"vendor-data", []byte(vendor)},
		{"network-config", []byte(network)},
		{MarkerName, append(mustJSON(marker(g)), '\n')},
		{PhoneHomeName, []byte(strings.Join(homes, "\n") + "\n")},
	}
}

// homes are the URLs the installed system may report to, best first.
func homes(g wire.Grant) []string {
	if g.PhoneHome == "" {
		return nil
	}
	return append([]string{g.PhoneHome}, g.PhoneAlso...)
}

// upScript is the installed system's word to whichever node answers first.
// cloud-init's phone_home knows one URL, and the node behind it may be gone by
// now. A part of the vendor data that is a script is run whatever the user data
// says, and what cloud-init itself is written in is the one HTTP client that is
// there on every system that has it. It stays behind on its own, so that the boot
// does not wait for a network without nodes.
func upScript(instance string, homes []string) string {
	return `#!/bin/sh
# Tells a node of LPMOS that this system has come up from its own disk.
python=$(command -v python3 || echo /usr/libexec/platform-python)
"$python" - >/dev/null 2>&1 <<'EOF' &
import socket, time, urllib.parse, urllib.request
homes = ` + quoteAll(homes) + `
word = urllib.parse.urlencode({"instance_id": ` + quote(instance) + `, "hostname": socket.gethostname(), "fqdn": socket.getfqdn()}).encode()
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(60):
    for home in homes:
        try:
            direct.open(home, word, timeout=5)
            raise SystemExit
        except OSError:
            pass
    time.sleep(5)
EOF
`
}

// quoteAll makes a list that YAML, and Python, take for one of strings.
func quoteAll(list []string) string { return string(mustJSON(list)) }

// identity is the part of a cloud-config that says who the system is and who
// may enter.
func identity(fb wire.FirstBoot) string {
	var s string
	if fb.Hostname != "" {
		s += "hostname: " + quote(fb.Hostname) + "\n"
		if strings.Contains(fb.Hostname, ".") {
			s += "fqdn: " + quote(fb.Hostname) + "\n"
		}
	}
	if len(fb.SSHKeys) > 0 {
		s += "ssh_authorized_keys:\n"
		for _, k := range fb.SSHKeys {
			s += "  - " + quote(k) + "\n"
		}
	}
	return s
}

// instanceID changes with every install, so that cloud-init runs anew.
func instanceID(g wire.Grant) string { return fmt.Sprintf("%s-%d", g.TaskID, g.Generation) }

// marker is what this grant leaves on the disk.
func marker(g wire.Grant) wire.Marker {
	return wire.Marker{
		MachineID: g.Plan.MachineID, TaskID: g.TaskID,
		Generation: g.Generation, Image: g.Plan.Image.Digest, Issued: g.Issued,
	}
}

// seedVolume is the seed partition, ready to be written at byte off of a disk.
func seedVolume(g wire.Grant, bootMAC string, off int64, sector int) ([]byte, error) {
	id := seedGUID(g.TaskID, g.Generation)
	return makeFAT(seedBytes, sector, uint32(off/int64(sector)), SeedLabel,
		binary.LittleEndian.Uint32(id[:]), seedFiles(g, bootMAC))
}

// quote makes a YAML scalar of any string: YAML's double-quoted style takes
// every JSON string.
func quote(s string) string { return string(mustJSON(s)) }

// mustJSON encodes values that hold nothing json.Marshal can refuse.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("install: cannot encode: " + err.Error())
	}
	return b
}
