package netboot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clientTableEnv names the file that the table of clients is written to: then all of
// them run, else those that take a second or two (make clients).
const clientTableEnv = "LPMOS_CLIENT_TABLE"

// clientTool is one program of others and what it is to do against this server. Those
// that fetch files are in fileclients_test.go.
type clientTool struct {
	name    string
	pkg     string // of Debian
	program string // looked for
	slow    bool   // it runs for the table alone
	run     func(*clientRun)
}

// clientRun is one run of it, on a wire of its own.
type clientRun struct {
	t    *testing.T
	w    *wire
	s    *setup
	dir  string
	full bool
	does map[string]string // by column
}

// The columns. A tool that cannot do something leaves it empty.
var clientColumns = []string{"lease", "renew", "release", "inform", "decline"}

const clientTime = 50 * time.Second

// step does something and waits until the server has counted what has to come of it.
func (c *clientRun) step(column, counter string, do func() error) {
	c.t.Helper()
	before := c.s.Stats()[counter]
	err := do()
	c.told(column, c.counted(counter, before, clientTime, err))
}

// counted waits until the server has counted one more.
func (c *clientRun) counted(counter string, before uint64, wait time.Duration, err error) error {
	for end := time.Now().Add(wait); err == nil && c.s.Stats()[counter] == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			err = fmt.Errorf("the server counted no %s: %v", counter, c.s.Stats())
		}
	}
	return err
}

// signal is a step that a signal starts. One that comes while the client is busy is
// lost on some, so it is sent until something comes of it.
func (c *clientRun) signal(column, counter string, cmd *exec.Cmd, sig syscall.Signal) {
	c.t.Helper()
	before := c.s.Stats()[counter]
	err := cmd.Process.Signal(sig)
	for range int(clientTime / (2 * time.Second)) {
		if err != nil || c.counted(counter, before, 2*time.Second, nil) == nil {
			break
		}
		err = cmd.Process.Signal(sig)
	}
	c.told(column, c.counted(counter, before, 0, err))
}

// told notes what came of a step.
func (c *clientRun) told(column string, err error) {
	c.t.Helper()
	if err != nil {
		c.does[column] = "FAILED"
		c.t.Errorf("%s: %v", column, err)
		return
	}
	c.does[column] = "yes"
}

// start starts a program on the machines' side; it ends with the run.
func (c *clientRun) start(args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := c.w.command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := os.Create(filepath.Join(c.dir, "said"))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		b, _ := os.ReadFile(out.Name())
		if c.t.Failed() {
			c.t.Logf("%s said\n%s", args[0], b)
		}
		out.Close()
	})
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return cmd
}

// tell runs a program to its end and wants words in what it says.
func (c *clientRun) tell(want string, args ...string) error {
	cmd := c.w.command(append([]string{"timeout", "40"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), want) {
		return fmt.Errorf("%s: %w, without %q:\n%s", args[0], err, want, out)
	}
	return nil
}

// script makes a program that DHCP clients call: it gives the card the address.
func (c *clientRun) script() string {
	path := filepath.Join(c.dir, "script")
	body := "#!/bin/sh\na=$new_ip_address$ip; [ -z \"$a\" ] || ip address replace $a/24 dev v1\n"
	if err := os.WriteFile(path, []byte(body), 0o700); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// has waits for an address on the machine's card.
func (c *clientRun) has(addr string) error {
	for end := time.Now().Add(clientTime); !strings.Contains(c.w.inside("ip", "-4", "-br", "address", "show", "v1"), addr+"/"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("its card has not got %s", addr)
		}
	}
	return nil
}

// private runs a program that insists on places of the host, with some of its own.
func private(places []string, args ...string) []string {
	var mounts string
	for _, p := range places {
		mounts += "mkdir -p " + p + " && mount -t tmpfs none " + p + " && "
	}
	return append([]string{"unshare", "-m", "sh", "-c", mounts + `exec "$@"`, "sh"}, args...)
}

var dhcpClients = []clientTool{
	{"dhclient", "isc-dhcp-client", "dhclient", false, func(c *clientRun) {
		conf := filepath.Join(c.dir, "conf")
		if err := os.WriteFile(conf, []byte("send dhcp-lease-time 60;\n"), 0o600); err != nil {
			c.t.Fatal(err)
		}
		args := func(more ...string) []string {
			return append([]string{"dhclient", "-4", "-v", "-cf", conf, "-sf", c.script(), "-lf", c.dir + "/leases", "-pf", c.dir + "/pid"}, more...)
		}
		c.step("lease", "dhcp.ack", func() error {
			c.w.inside(args("-1", "v1")...)
			return c.has("10.77.0.100")
		})
		if c.full { // it renews by itself alone, after half a minute
			c.step("renew", "dhcp.ack", func() error { return nil })
		}
		c.step("release", "dhcp.release", func() error { c.w.inside(args("-r", "v1")...); return nil })
	}},
	{"udhcpc", "udhcpc", "udhcpc", false, func(c *clientRun) {
		var cmd *exec.Cmd
		c.step("lease", "dhcp.ack", func() error {
			cmd = c.start("udhcpc", "-i", "v1", "-f", "-t", "5", "-T", "2", "-s", c.script())
			return c.has("10.77.0.100")
		})
		c.signal("renew", "dhcp.ack", cmd, syscall.SIGUSR1)
		c.signal("release", "dhcp.release", cmd, syscall.SIGUSR2)
	}},
	{"dhcpcd", "dhcpcd-base", "dhcpcd", false, func(c *clientRun) {
		var cmd *exec.Cmd
		dhcpcd := private([]string{"/run", "/var/lib/dhcpcd"}, "dhcpcd", "-4", "-B", "-d", "-t", "30", "-c", "/bin/true", "--noipv4ll", "v1")
		c.step("lease", "dhcp.ack", func() error {
			cmd = c.start(dhcpcd...)
			return c.has("10.77.0.100")
		})
		c.signal("renew", "dhcp.ack", cmd, syscall.SIGUSR1)
		c.signal("release", "dhcp.release", cmd, syscall.SIGALRM)
		if !c.full {
			return
		}
		// Somebody takes its address. The server does not ask for that again, since the
		// machine had it; dhcpcd does, and declines.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		c.w.inside("ip", "address", "flush", "dev", "v1")
		c.w.host("q0", "10.77.0.100/24")
		c.step("decline", "dhcp.decline", func() error {
			c.start(dhcpcd...)
			return c.has("10.77.0.101")
		})
	}},
	{"systemd-networkd", "systemd", "/lib/systemd/systemd-networkd", true, func(c *clientRun) {
		unit := "[Match]\nName=v1\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n[DHCPv4]\nSendOption=51:uint32:60\nSendRelease=yes\nUseDNS=no\n"
		if err := os.WriteFile(filepath.Join(c.dir, "10-v1.network"), []byte(unit), 0o644); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Chmod(c.dir, 0o755); err != nil {
			c.t.Fatal(err)
		}
		// Without a manager and without udev: a read-only /sys is how it knows that
		// nobody else looks after the cards.
		start := "mount -t tmpfs none /run && mkdir -p /run/systemd/network /run/systemd/netif && cp " + c.dir + "/10-v1.network /run/systemd/network/ && " +
			"chmod -R a+rwX /run/systemd && chown -R systemd-network /run/systemd/netif && mount -t sysfs -o ro none /sys && exec /lib/systemd/systemd-networkd"
		var cmd *exec.Cmd
		c.step("lease", "dhcp.ack", func() error {
			cmd = c.start("unshare", "-m", "sh", "-c", start)
			return c.has("10.77.0.100")
		})
		c.step("renew", "dhcp.ack", func() error { return nil })
		c.signal("release", "dhcp.release", cmd, syscall.SIGTERM)
	}},
	{"perfdhcp", "kea-admin", "perfdhcp", true, func(c *clientRun) {
		c.w.inside("ip", "address", "add", "10.77.0.3/24", "dev", "v1")
		perf := func(more ...string) func() error {
			return func() error {
				return c.tell("drops: 0", append(append([]string{"perfdhcp", "-4", "-l", "v1", "-r", "20", "-R", "20", "-p", "4"}, more...), "10.77.0.1")...)
			}
		}
		c.step("lease", "dhcp.ack", perf())
		c.step("renew", "dhcp.ack", perf("-f", "5"))
		// It counts a RELEASE, which nobody answers, as dropped, and ends badly.
		c.step("release", "dhcp.release", func() error {
			out, err := c.w.command("timeout", "40", "perfdhcp", "-4", "-l", "v1", "-r", "20", "-R", "20", "-p", "4", "-F", "5", "10.77.0.1").CombinedOutput()
			if !strings.Contains(string(out), "Statistics for: RELEASE***\nsent packets: ") {
				return fmt.Errorf("perfdhcp: %w\n%s", err, out)
			}
			return nil
		})
	}},
	{"nmap broadcast-dhcp-discover", "nmap", "nmap", true, func(c *clientRun) {
		c.w.inside("ip", "address", "add", "10.77.0.3/24", "dev", "v1")
		c.step("lease", "dhcp.offer", func() error {
			return c.tell("IP Offered: 10.77.0.1", "nmap", "-n", "--script", "broadcast-dhcp-discover", "-e", "v1")
		})
		c.does["lease"] = "offer alone"
	}},
	{"nmap dhcp-discover", "nmap", "nmap", true, func(c *clientRun) {
		c.w.inside("ip", "address", "add", "10.77.0.3/24", "dev", "v1")
		c.step("inform", "dhcp.inform", func() error {
			return c.tell("Server Identifier: 10.77.0.1", "nmap", "-n", "-Pn", "-sU", "-p67", "--script", "dhcp-discover", "10.77.0.1")
		})
	}},
	{"dhcping", "dhcping", "dhcping", true, func(c *clientRun) {
		c.w.inside("ip", "address", "add", "10.77.0.3/24", "dev", "v1")
		c.step("inform", "dhcp.inform", func() error {
			return c.tell("Got answer from: 10.77.0.1", "dhcping", "-v", "-i", "-s", "10.77.0.1", "-c", "10.77.0.3", "-h", "52:54:00:00:00:77")
		})
	}},
}

// TestClientTable runs the clients that people have against this server. What each
// could do goes into netboot/CLIENTS.md when that is asked for.
func TestClientTable(t *testing.T) {
	file := os.Getenv(clientTableEnv)
	var table strings.Builder
	table.WriteString("# Clients of others, against this server\n\nWritten by `make clients`, which runs each in a network namespace on a wire of its own. " +
		"yes: done, and counted by the server. Empty: it has no way to do that.\n")
	table.WriteString("\n## DHCP\n\n")
	runClients(t, &table, clientColumns, dhcpClients, file != "")
	table.WriteString("\n## TFTP and HTTP\n\nEvery byte is compared. Block and window are what the server granted; part: a range, or the rest of a file; " +
		"unchanged: it asks by ETag and is told 304; missing: it says that there is no such file.\n\n")
	runClients(t, &table, fileColumns, fileClients, file != "")
	if file == "" {
		return
	}
	if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runClients runs each, and writes a line for it.
func runClients(t *testing.T, table *strings.Builder, columns []string, tools []clientTool, full bool) {
	table.WriteString("| client | package | " + strings.Join(columns, " | ") + " |\n|---|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, tool := range tools {
		if tool.slow && !full {
			continue
		}
		row := map[string]string{}
		t.Run(tool.name, func(t *testing.T) {
			if _, err := exec.LookPath(tool.program); err != nil {
				row[columns[0]] = "not installed"
				t.Skipf("%s is not installed", tool.program)
			}
			w := newWire(t)
			s := newSetup(t, ModeDHCP)
			s.timePasses()
			w.start(s)
			c := &clientRun{t: t, w: w, s: s, dir: t.TempDir(), full: full, does: row}
			tool.run(c)
			if st := s.Stats(); st["dhcp.nak"] != 0 || st["dhcp.drop.malformed"] != 0 {
				t.Errorf("stats: %v", st)
			}
		})
		fmt.Fprintf(table, "| %s | %s |", tool.name, tool.pkg)
		for _, column := range columns {
			fmt.Fprintf(table, " %s |", row[column])
		}
		table.WriteString("\n")
	}
}
