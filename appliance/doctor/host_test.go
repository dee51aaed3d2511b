package doctor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/vishvananda/netlink"
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
		{name: "beside a DHCP server of this host", with: config.Interface{Name: "eth0", Mode: "proxy"},
			make: func(t *testing.T, o *office, h *Host) {
				o.dnsmasq(nil, "--dhcp-range=10.77.0.50,10.77.0.60,1h", "--interface=eth0", "--bind-interfaces")
			}},
		{name: "beside one that shares nothing", with: config.Interface{Name: "eth0", Mode: "proxy"},
			cause: "port-67", reason: "by dnsmasq (process ", fix: "bind-interfaces",
			make: func(t *testing.T, o *office, h *Host) {
				o.dnsmasq(nil, "--dhcp-range=10.77.0.50,10.77.0.60,1h", "--interface=eth0")
			}},
		{name: "not beside, but as one more on this host", with: lends, cause: "port-67", reason: "by dnsmasq (process ", fix: "sudo kill ",
			make: func(t *testing.T, o *office, h *Host) {
				o.dnsmasq(nil, "--dhcp-range=10.77.0.50,10.77.0.60,1h", "--interface=eth0")
			}},
		{name: "another program has the dashboard's port", with: lends, cause: "port-dashboard", reason: "TCP port 8080 at 127.0.0.1:8080 is taken by ",
			make: func(t *testing.T, o *office, h *Host) {
				l, err := net.Listen("tcp", "127.0.0.1:8080")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
			}},
		{name: "an address this host has not got", with: lends, cause: "port-cluster", reason: "this host has no address 10.9.9.9:4747",
			make: func(t *testing.T, o *office, h *Host) { h.Config.ClusterListen = "10.9.9.9:4747" }},
		{name: "a clock of another year", with: lends, cause: "clock", reason: "1970-01-01", fix: "timedatectl",
			make: func(t *testing.T, o *office, h *Host) { h.Now = func() time.Time { return time.Unix(0, 0) } }},
		{name: "a firewall", with: lends, cause: "firewall", reason: "UDP 69 and TCP 80 (chain inet f in)", fix: "sudo nft insert rule inet f in iifname eth0 udp dport '{ 69 }' accept",
			make: func(t *testing.T, o *office, h *Host) {
				if _, err := exec.LookPath("nft"); err != nil {
					t.Skip("needs nft (./build-deps)")
				}
				t.Cleanup(func() { o.run("nft", "flush", "ruleset") })
				o.run("nft", "add table inet f; add chain inet f in { type filter hook input priority 0; policy drop; }; add rule inet f in udp dport 67 accept")
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
		{name: "port 69 is taken while nothing is named yet", with: lends, cause: "port-69", reason: "UDP port 69 on eth0 is taken by dnsmasq (process ", fix: "sudo kill ",
			make: func(t *testing.T, o *office, h *Host) {
				h.Config.Interfaces = nil
				o.dnsmasq(nil, "--enable-tftp", "--tftp-root="+o.dir)
			}},
		{name: "no cable", with: lends, cause: "link", reason: "no carrier", hidden: []string{"address", "port-67", "other-dhcp"},
			make: func(t *testing.T, o *office, _ *Host) { o.there("ip", "link", "set", "far0", "down") }},
		{name: "switched off", with: lends, cause: "link", reason: "switched off", fix: "sudo ip link set eth0 up", hidden: []string{"address"},
			make: func(t *testing.T, o *office, _ *Host) { o.run("ip", "link", "set", "eth0", "down") }},
		{name: "no address", with: lends, cause: "address", reason: "no IPv4 address", fix: "sudo ip address add 10.77.0.1/24 dev eth0", hidden: []string{"network", "port-69"},
			make: func(t *testing.T, o *office, _ *Host) { o.run("ip", "address", "flush", "dev", "eth0") }},
		{name: "no interface", with: config.Interface{Name: "eth9", Mode: "proxy"}, cause: "interface", reason: `no interface "eth9" here; there are: lo, eth0`, hidden: []string{"link"}},
		{name: "somebody's papers as data directory", with: lends, cause: "data-dir", reason: "it holds \"thesis\"", hidden: []string{"data-space"},
			make: func(t *testing.T, o *office, h *Host) {
				h.Config.DataDir, h.Config.User = t.TempDir(), "65527"
				h.CheckDir = func(string) error { return errors.New(`it holds "thesis"`) }
			}},
		{name: "a directory of a newer version", with: lends, cause: "data-dir", reason: "made by a newer lpmos (format 99)",
			make: func(t *testing.T, o *office, h *Host) {
				if err := os.MkdirAll(filepath.Join(h.Config.DataDir, "raft"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(h.Config.DataDir, "raft", "format"), []byte("99\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}},
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
			if c.name != "a clean host" {
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
					if got, ok := find(r, id); (!ok || got.Verdict != OK) && (h.Inner != nil || !strings.HasPrefix(id, "self-test")) {
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

// What works, and not well: a warning, and machines boot all the same.
func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name   string
		make   func(t *testing.T, o *office, h *Host)
		id     string
		reason string
		fix    string
	}{
		{name: "a small MTU", id: "mtu", reason: "its MTU is 1400", fix: "sudo ip link set eth0 mtu 1500",
			make: func(t *testing.T, o *office, h *Host) { o.run("ip", "link", "set", "eth0", "mtu", "1400") }},
		{name: "a lent address", id: "address", reason: "10.77.0.1/24 was lent to it by a DHCP server",
			make: func(t *testing.T, o *office, h *Host) {
				o.run("ip", "address", "change", "10.77.0.1/24", "dev", "eth0", "valid_lft", "600", "preferred_lft", "600")
			}},
		{name: "nobody gives addresses", id: "other-dhcp", reason: "no DHCP server answered within 200ms",
			make: func(t *testing.T, o *office, h *Host) {
				h.Config.Interfaces = []config.Interface{{Name: "eth0", Mode: "proxy"}}
			}},
		{name: "no network is named, nor could one be", id: "configuration", reason: "no interface is named",
			make: func(t *testing.T, o *office, h *Host) {
				h.Config.Interfaces = nil
				o.there("ip", "link", "set", "far0", "down")
			}},
		{name: "no network is named", id: "configuration", reason: "no interface is named", fix: "lpmos up asks",
			make: func(t *testing.T, o *office, h *Host) { h.Config.Interfaces = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOffice(t)
			h := o.host(lendsEth0)
			h.Inner, h.Listen = nil, 200*time.Millisecond
			c.make(t, o, h)
			r := examine(t, h)
			got, _ := find(r, c.id)
			if got.Verdict != Warn || !strings.Contains(got.Reason, c.reason) || !strings.Contains(got.Fix, c.fix) {
				t.Errorf("%s: %s\nmend it: %s", got.Verdict, got.Reason, got.Fix)
			}
			if r.Cause != nil || r.Exit() != 1 {
				t.Errorf("it ends with %d by %+v", r.Exit(), r.Cause)
			}
		})
	}
}

func TestABridgeThatListensAndLearns(t *testing.T) {
	o := newOffice(t)
	o.run("mount", "-t", "sysfs", "sysfs", "/sys") // of this network
	defer o.run("umount", "/sys")
	o.run("ip", "link", "add", "br0", "type", "bridge", "stp_state", "1")
	defer o.run("ip", "link", "del", "br0")
	look := func() Finding {
		link, err := netlink.LinkByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		return (&network{Interface: config.Interface{Name: "br0"}, link: link}).spanningTree(t.Context())
	}
	got := look()
	if got.Verdict != Warn || !strings.Contains(got.Reason, "keeps a port deaf for 30 s") {
		t.Errorf("%+v", got)
	}
	o.run("sh", "-c", strings.TrimPrefix(got.Fix, "sudo "))
	if got := look(); got.Verdict != OK {
		t.Errorf("after what mends it: %+v", got)
	}
}

// A self-test that goes wrong says how far it came.
func TestTheSelfTestCanFail(t *testing.T) {
	newOffice(t)
	t.Setenv(spoiled, "1")
	r := examine(t, &Host{BootFiles: bootFiles(), Now: time.Now, Inner: []string{"self-test"}, ConfigErr: errors.New("not looked at")})
	got, _ := find(r, "self-test-uefi")
	if got.Verdict != Fail || !strings.Contains(got.Reason, "snponly.efi came with ") {
		t.Errorf("%+v", got)
	}
}

func TestKeysAndCertificates(t *testing.T) {
	began := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		after  time.Duration
		spoil  func(t *testing.T, dir string)
		want   Verdict
		reason string
	}{
		{"new", time.Hour, nil, OK, "this node's holds until 2027-04-01"},
		{"about to end", 80 * 24 * time.Hour, nil, Warn, "ends on 2027-04-01, and a node that ran"},
		{"ended", 100 * 24 * time.Hour, nil, Warn, "ended on 2027-04-01; the node makes itself a new one"},
		{"the authority is about to end", 9.9 * 365 * 24 * time.Hour, nil, Warn, "the authority of the cluster ends on 2036-12-29"},
		{"the authority has ended", 11 * 365 * 24 * time.Hour, nil, Fail, "ended on 2036-12-29"},
		{"open to others", time.Hour, func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "trust", "secret"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, Fail, "is open to other users of this host"},
		{"a key is gone", time.Hour, func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "trust", "node.key")); err != nil {
				t.Fatal(err)
			}
		}, Fail, "node.key is missing"},
	} {
		dir := t.TempDir()
		if _, err := trust.Found(dir, "", began); err != nil {
			t.Fatal(err)
		}
		if c.spoil != nil {
			c.spoil(t, dir)
		}
		h := &Host{Config: config.Config{DataDir: dir}, Now: func() time.Time { return began.Add(c.after) }}
		if got := h.certificates(t.Context()); got.Verdict != c.want || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestImagesThatCannotBeRead(t *testing.T) {
	h := &Host{Config: config.Config{DataDir: t.TempDir()}}
	if got := h.imageStore(t.Context()); got.Verdict != Skip {
		t.Errorf("without any: %+v", got)
	}
	dir := filepath.Join(h.Config.DataDir, "images", "manifests")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(dir, digest+".json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := h.imageStore(t.Context()); got.Verdict != Fail || !strings.Contains(got.Reason, "1 of 1 images cannot be read: abababababab") {
		t.Errorf("a damaged one: %+v", got)
	}
}
