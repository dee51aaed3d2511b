package doctor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/images/bootimage"
)

// madeUp is a boot image; spoil changes it after its digests were written down.
func madeUp(spoil func(fstest.MapFS)) fs.FS {
	files := fstest.MapFS{}
	var sources []bootimage.Source
	for _, name := range bootimage.Names() {
		data := []byte(strings.Repeat(name, 10_000))
		sum := sha256.Sum256(data)
		files[name] = &fstest.MapFile{Data: data}
		sources = append(sources, bootimage.Source{File: name, SHA256: hex.EncodeToString(sum[:])})
	}
	b, err := json.Marshal(sources)
	if err != nil {
		panic(err)
	}
	files[bootimage.Sources] = &fstest.MapFile{Data: b}
	if spoil != nil {
		spoil(files)
	}
	return files
}

var lendsEth0 = config.Interface{Name: "eth0", Mode: "dhcp", Range: "10.77.0.100-10.77.0.199"}

// The first ✘ is the cause, each time.
func TestTheFirstFailureIsTheCause(t *testing.T) {
	lends := lendsEth0
	for _, c := range []struct {
		name   string
		with   config.Interface
		make   func(t *testing.T, o *office, h *Host) // the state the host is in
		cause  string                                 // "" is none
		reason string
		fix    string
		hidden []string // checks that are not made
	}{
		{name: "a clean host", with: lends},
		{name: "port 69 is taken", with: lends, cause: "port-69", reason: "by dnsmasq (process ", fix: "sudo kill ",
			make: func(t *testing.T, o *office, _ *Host) { o.dnsmasq(nil, "--enable-tftp", "--tftp-root="+o.dir) }},
		{name: "a rival DHCP server", with: lends, cause: "other-dhcp", reason: "another DHCP server answers on eth0: 10.77.0.2 (card ", fix: "mode: proxy",
			make: func(t *testing.T, o *office, h *Host) {
				o.dnsmasq(o.enter(), "--dhcp-range=10.77.0.50,10.77.0.60,1h", "--interface=far0")
				h.Listen = 20 * time.Second // it looks for three whether the address is free, and then the others are given one
			}},
		{name: "beside a DHCP server on purpose", with: config.Interface{Name: "eth0", Mode: "proxy"},
			make: func(t *testing.T, o *office, h *Host) {
				o.dnsmasq(o.enter(), "--dhcp-range=10.77.0.50,10.77.0.60,1h", "--interface=far0", "--no-ping")
				h.Listen = 20 * time.Second
			}},
		{name: "the wrong subnet", with: config.Interface{Name: "eth0", Mode: "dhcp", Range: "10.88.0.100-10.88.0.199"},
			cause: "network", reason: "does not lie in its network 10.77.0.0/24", fix: "name a range in 10.77.0.0/24"},
		{name: "no boot image", with: lends, cause: "boot-image", reason: "missing vmlinuz", fix: "make boot-image", hidden: []string{"self-test", "self-test-bios"},
			make: func(t *testing.T, o *office, h *Host) {
				h.BootFiles = madeUp(func(m fstest.MapFS) { delete(m, bootimage.Kernel) })
			}},
		{name: "a damaged boot image", with: lends, cause: "boot-image", reason: "damaged: initrd is not", fix: "anew", hidden: []string{"self-test"},
			make: func(t *testing.T, o *office, h *Host) {
				h.BootFiles = madeUp(func(m fstest.MapFS) { m[bootimage.Initrd].Data[7] ^= 1 })
			}},
		{name: "a full disk", with: lends, cause: "data-space", reason: "is full", fix: "df -h", hidden: []string{"data-sync"},
			make: func(t *testing.T, o *office, h *Host) {
				dir := filepath.Join(o.dir, "small")
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				o.run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir)
				t.Cleanup(func() { o.run("umount", dir) })
				for i := 0; ; i++ {
					if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("fill", i)), make([]byte, 64<<10), 0o600); err != nil {
						break
					}
				}
				h.Config.DataDir = filepath.Join(dir, "data")
			}},
		{name: "no cable", with: lends, cause: "link", reason: "no carrier", hidden: []string{"address", "port-67", "other-dhcp"},
			make: func(t *testing.T, o *office, _ *Host) { o.there("ip", "link", "set", "far0", "down") }},
		{name: "switched off", with: lends, cause: "link", reason: "switched off", fix: "sudo ip link set eth0 up", hidden: []string{"address"},
			make: func(t *testing.T, o *office, _ *Host) { o.run("ip", "link", "set", "eth0", "down") }},
		{name: "no address", with: lends, cause: "address", reason: "no IPv4 address", fix: "sudo ip address add 10.77.0.1/24 dev eth0", hidden: []string{"network", "port-69"},
			make: func(t *testing.T, o *office, _ *Host) { o.run("ip", "address", "flush", "dev", "eth0") }},
		{name: "no interface", with: config.Interface{Name: "eth9", Mode: "proxy"}, cause: "interface", reason: `no interface "eth9" here; there are: lo, eth0`, hidden: []string{"link"}},
		{name: "a directory for everybody", with: lends, cause: "data-owner", reason: "mode 0777", fix: "sudo chmod 700 ",
			make: func(t *testing.T, o *office, h *Host) {
				if err := os.Mkdir(h.Config.DataDir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(h.Config.DataDir, 0o777); err != nil {
					t.Fatal(err)
				}
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOffice(t)
			h := o.host(c.with)
			if c.cause != "" && c.cause != "boot-image" {
				h.Inner = nil // the self-test takes its time and has no part in this
			}
			if c.make != nil {
				c.make(t, o, h)
			}
			r := examine(t, h)
			if c.cause == "" {
				if r.Cause != nil {
					t.Fatalf("%s fails: %s", r.Cause.ID, r.Cause.Reason)
				}
				for _, id := range []string{"self-test-bios", "self-test-uefi", "other-dhcp", "port-69"} {
					if got, ok := find(r, id); !ok || got.Verdict != OK {
						t.Errorf("%s: %+v", id, got)
					}
				}
				return
			}
			switch {
			case r.Cause == nil:
				t.Fatalf("nothing fails, want %s", c.cause)
			case r.Cause.ID != c.cause:
				t.Errorf("the first failure is %s (%s), want %s", r.Cause.ID, r.Cause.Reason, c.cause)
			case !strings.Contains(r.Cause.Reason, c.reason) || !strings.Contains(r.Cause.Fix, c.fix):
				t.Errorf("%s: %s\nmend it: %s", r.Cause.ID, r.Cause.Reason, r.Cause.Fix)
			}
			if r.Exit() != 2 {
				t.Errorf("it ends with %d", r.Exit())
			}
			for _, id := range c.hidden {
				if got, ok := find(r, id); ok {
					t.Errorf("%s was looked at: %+v", id, got)
				}
			}
		})
	}
}
