package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Programs of others that fetch boot files.

// fileColumns are what they can do.
var fileColumns = []string{"whole file", "block", "window", "part", "HEAD", "unchanged", "missing"}

var fileClients = []clientTool{
	{"tftp-hpa", "tftp-hpa", "tftp", true, func(c *clientRun) {
		c.tftp(512, 1, "tftp", "-m", "binary", "10.77.0.1", "-c", "get", "FILE", "OUT")
		c.missing("file not found", "tftp", "-m", "binary", "10.77.0.1", "-c", "get", "no.efi", c.dir+"/none")
	}},
	{"atftp", "atftp", "atftp", true, func(c *clientRun) {
		c.tftp(1468, 1, "atftp", "--option", "blksize 1468", "--option", "tsize 0", "-g", "-r", "FILE", "-l", "OUT", "10.77.0.1")
		c.missing("not found", "atftp", "--verbose", "-g", "-r", "no.efi", "-l", c.dir+"/none", "10.77.0.1")
	}},
	{"atftp, windowsize 16", "atftp", "atftp", true, func(c *clientRun) {
		c.tftp(1468, 16, "atftp", "--option", "blksize 1468", "--option", "windowsize 16", "-g", "-r", "FILE", "-l", "OUT", "10.77.0.1")
	}},
	{"curl tftp://", "curl", "curl", true, func(c *clientRun) {
		c.tftp(1468, 1, "curl", "-s", "--tftp-blksize", "1468", "-o", "OUT", "tftp://10.77.0.1/FILE")
		c.missing("(68)", "curl", "-sS", "-o", c.dir+"/none", "tftp://10.77.0.1/no.efi")
	}},
	{"busybox tftp", "busybox-static", "busybox", true, func(c *clientRun) {
		c.tftp(1468, 1, "busybox", "tftp", "-g", "-b", "1468", "-r", "FILE", "-l", "OUT", "10.77.0.1")
		c.missing("file not found", "busybox", "tftp", "-g", "-r", "no.efi", "-l", c.dir+"/none", "10.77.0.1")
	}},
	{"curl http://", "curl", "curl", false, func(c *clientRun) {
		c.http("curl", "-sSf", "-o", "OUT", "URL")
		c.step("part", "http.file", func() error {
			return c.same(testFiles[FileInitrd].Data[1000:2000], "curl", "-sSf", "-r", "1000-1999", "-o", "OUT", "URL")
		})
		c.step("HEAD", "http.file", func() error {
			return c.tell("Content-Length: "+strconv.Itoa(len(testFiles[FileInitrd].Data)), "curl", "-sSfI", "http://10.77.0.1/boot/initrd")
		})
		tag := filepath.Join(c.dir, "etag")
		c.told("unchanged", errors.Join(
			c.same(testFiles[FileInitrd].Data, "curl", "-sSf", "--etag-save", tag, "-o", "OUT", "URL"),
			c.tell("304", "curl", "-sSf", "--etag-compare", tag, "-o", c.dir+"/again", "-w", "%{http_code}", "http://10.77.0.1/boot/initrd")))
		c.missing("404", "curl", "-sSf", "http://10.77.0.1/boot/no.efi")
	}},
	{"wget", "wget", "wget", true, func(c *clientRun) {
		c.http("wget", "-q", "-O", "OUT", "URL")
		c.rest("wget", "-q", "-c", "-O", "OUT", "URL")
		c.step("HEAD", "http.file", func() error {
			return c.tell("Remote file exists", "wget", "--spider", "http://10.77.0.1/boot/initrd")
		})
		c.missing("404", "wget", "-O", c.dir+"/none", "http://10.77.0.1/boot/no.efi")
	}},
	{"busybox wget", "busybox-static", "busybox", true, func(c *clientRun) {
		c.http("busybox", "wget", "-q", "-O", "OUT", "URL")
		c.rest("busybox", "wget", "-q", "-c", "-O", "OUT", "URL")
		c.step("HEAD", "http.file", func() error {
			return c.tell("remote file exists", "busybox", "wget", "--spider", "http://10.77.0.1/boot/initrd")
		})
		c.missing("404", "busybox", "wget", "-O", c.dir+"/none", "http://10.77.0.1/boot/no.efi")
	}},
}

// tftp has a program fetch a loader, which is compared, and wants it to come in such
// blocks and windows.
func (c *clientRun) tftp(block, window int, args ...string) {
	c.t.Helper()
	const mac, addr = "52:54:00:12:34:56", "10.77.0.120"
	c.w.inside("ip", "address", "replace", addr+"/24", "dev", "v1")
	c.s.sightings.holds(mac, netip.MustParseAddr(addr))
	for i := range args {
		args[i] = strings.Replace(args[i], "FILE", LoaderUEFI, 1)
	}
	c.step("whole file", "tftp.sent", func() error { return c.same(testFiles[LoaderUEFI].Data, args...) })
	err := eventually(c.t.Context(), func() error {
		seen := c.s.sightings.Of(mac)
		for _, sg := range seen {
			if how := sg.TFTP; how != nil && how.End == TFTPSent && how.Block == block && how.Window == window {
				return nil
			}
		}
		return fmt.Errorf("seen were %+v, want blocks of %d and a window of %d", seen, block, window)
	})
	c.told("block", err)
	if err == nil {
		c.does["block"] = strconv.Itoa(block)
	}
	if window > 1 {
		c.does["window"] = strconv.Itoa(window)
	}
}

// http has a program fetch the initramfs, which is compared.
func (c *clientRun) http(args ...string) {
	c.t.Helper()
	c.w.inside("ip", "address", "replace", "10.77.0.120/24", "dev", "v1")
	c.step("whole file", "http.file", func() error { return c.same(testFiles[FileInitrd].Data, args...) })
}

// rest has a program fetch what it lacks of a file: all but a beginning.
func (c *clientRun) rest(args ...string) {
	c.t.Helper()
	want := testFiles[FileInitrd].Data
	c.step("part", "http.file", func() error {
		// The beginning is another, so that what is fetched anew is noticed.
		begin := bytes.Repeat([]byte("x"), 1000)
		if err := os.WriteFile(c.dir+"/out", begin, 0o600); err != nil {
			return err
		}
		return c.same(append(begin, want[1000:]...), args...)
	})
}

// same runs a program and compares the file it leaves.
func (c *clientRun) same(want []byte, args ...string) error {
	out := filepath.Join(c.dir, "out")
	args = append([]string{}, args...)
	for i := range args {
		switch args[i] {
		case "OUT":
			args[i] = out
		case "URL":
			args[i] = "http://10.77.0.1/boot/initrd"
		}
	}
	if err := c.tell("", args...); err != nil {
		return err
	}
	if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, want) {
		return fmt.Errorf("%s: has %d bytes of %d or other ones: %v", args[0], len(b), len(want), err)
	}
	return nil
}

// missing wants a program to say that a file is not there.
func (c *clientRun) missing(says string, args ...string) {
	c.t.Helper()
	out, _ := c.w.command(append([]string{"timeout", "20"}, args...)...).CombinedOutput() // how it ends is its own matter
	var err error
	if !strings.Contains(string(out), says) {
		err = fmt.Errorf("%s does not say %q: %q", args[0], says, out)
	}
	c.told("missing", err)
}
