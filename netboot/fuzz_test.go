package netboot

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// FuzzLease: a record that is read is one that could have been written, and what was
// written is read as it was.
func FuzzLease(f *testing.F) {
	good, err := writeLease(Lease{MAC: macA, Addr: netip.MustParseAddr("10.77.0.100"), Until: time.Unix(1700000000, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(macA), good)
	f.Add([]byte(macA), good[:len(good)-sumLen])
	f.Add([]byte(macA), []byte(`{"mac":"`+macA+`","addr":"::1"}`))
	f.Add([]byte(macA), []byte(`{"mac":"52:54:00:00:00:0A","addr":"10.77.0.100"}`))
	f.Add([]byte("x"), []byte("#00000000"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		lease, err := readLease(key, value)
		if err != nil {
			return
		}
		if mac, ok := ParseMAC(lease.MAC); !ok || mac != lease.MAC || !lease.Addr.Is4() {
			t.Fatalf("read %+v", lease)
		}
		again, err := writeLease(lease)
		if err != nil {
			return // a year that JSON has no form for
		}
		if back, err := readLease([]byte(lease.MAC), again); err != nil || back.Addr != lease.Addr || !back.Until.Equal(lease.Until) {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}

// FuzzScriptValues: what people and firmware call a machine adds no line to a script
// and nothing that iPXE would read as more than text; nor does what an operator adds.
func FuzzScriptValues(f *testing.F) {
	for _, p := range programs {
		f.Add(p, p, p)
	}
	f.Add("web1", "a task waits", "nomodeset console=ttyS1,115200n8")
	node := netip.MustParseAddrPort("10.77.0.1:80")
	files, _ := agentFor("arm64")
	f.Fuzz(func(t *testing.T, name, reason, args string) {
		if ValidateKernelArgs(args) != nil {
			args = ""
		}
		got := ipxe{}.agent(agentScript{Node: node, Others: []string{name, "http://" + reason}, MAC: macA, Title: title(Decision{Name: name, Reason: reason}), KernelArgs: args, Files: files, Now: time.Unix(1, 0)})
		plain := ipxe{}.agent(agentScript{Node: node, MAC: macA, Files: files, Now: time.Unix(1, 0)})
		if strings.Count(got, "\n") != strings.Count(plain, "\n") || strings.Count(got, "||") != strings.Count(plain, "||") ||
			strings.Count(got, "&&") != strings.Count(plain, "&&") || strings.Count(got, "${") != strings.Count(plain, "${") || strings.ContainsAny(got, "\r\x00\x1b`\"\\") {
			t.Fatalf("%q, %q, %q make\n%s", name, reason, args, got)
		}
		if strings.Count(got, " lpmos.node=") > maxNodes || strings.Count(got, " lpmos.mac=") != 1 || strings.Contains(got, " init=") {
			t.Fatalf("%q, %q, %q make\n%s", name, reason, args, got)
		}
		// In GRUB's language every word of the kernel's is in quotes of its own.
		got = grub{}.agent(agentScript{Node: node, Others: []string{name, "http://" + reason}, MAC: macA, Title: title(Decision{Name: name, Reason: reason}), KernelArgs: args, Files: files, Now: time.Unix(1, 0)})
		plain = grub{}.agent(agentScript{Node: node, MAC: macA, Files: files, Now: time.Unix(1, 0)})
		if strings.Count(got, "\n") != strings.Count(plain, "\n") || strings.Count(got, `"`) != strings.Count(plain, `"`) || strings.Count(got, "$") != strings.Count(plain, "$") || strings.ContainsAny(got, "`\\\r\x00\x1b") {
			t.Fatalf("%q, %q, %q make\n%s", name, reason, args, got)
		}
		for line := range strings.Lines(got) {
			if words, ok := strings.CutPrefix(line, "if linux "); ok {
				file, words, _ := strings.Cut(strings.TrimSuffix(words, "; then\n"), " ")
				for _, w := range strings.Split(words, " ") {
					if len(w) < 2 || w[0] != '\'' || w[len(w)-1] != '\'' || strings.Contains(w[1:len(w)-1], "'") {
						t.Fatalf("%s: the word %s of %q, %q, %q", file, w, name, reason, args)
					}
				}
			}
		}
	})
}
