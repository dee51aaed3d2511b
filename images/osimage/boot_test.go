//go:build journey

package osimage

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestImagesBoot boots each image from its own disk, as an installed machine
// does: by BIOS and by UEFI, with a seed on a second disk. It must take its
// name from the seed, report home and ask who logs in on the serial console.
// LPMOS_DEBIAN_IMAGE names a built debian-12.raw to be put through the same.
func TestImagesBoot(t *testing.T) {
	tiny := filepath.Join(t.TempDir(), "tiny.raw")
	if err := Build(t.Context(), Tiny, tiny, t.Logf); err != nil {
		t.Fatal(err)
	}
	images := map[string]string{Tiny: tiny}
	if path := os.Getenv("LPMOS_DEBIAN_IMAGE"); path != "" {
		images[Debian12] = path
	}
	for name, path := range images {
		for _, firmware := range []string{"bios", "uefi"} {
			t.Run(name+" by "+firmware, func(t *testing.T) { bootImage(t, name, path, firmware) })
		}
	}
}

func bootImage(t *testing.T, name, image, firmware string) {
	dir := t.TempDir()
	homes := make(chan string, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	home := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		select {
		case homes <- r.Method + " " + r.URL.Path + " " + string(body):
		default:
		}
	})}
	go func() { _ = home.Serve(listener) }()
	defer home.Close()
	// 10.0.2.2 is this machine, as the guest of QEMU's user network sees it.
	url := fmt.Sprintf("http://10.0.2.2:%d/up/token", listener.Addr().(*net.TCPAddr).Port)

	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768",
		"-display", "none", "-serial", "stdio", "-no-reboot", "-monitor", "unix:" + filepath.Join(dir, "monitor") + ",server=on,wait=off",
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:aa:bb:01,romfile=",
		"-drive", "if=none,id=d0,format=raw,snapshot=on,file=" + image, "-device", "virtio-blk-pci,drive=d0,bootindex=1",
		"-drive", "if=none,id=d1,format=raw,file=" + seedDisk(t, dir, url), "-device", "virtio-blk-pci,drive=d1",
	}
	if firmware == "uefi" {
		vars, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(path, vars, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,format=raw,unit=1,file="+path)
	}
	unplugged := name == Tiny && firmware == "bios" // till it has given up asking once
	if unplugged {
		args = append(args, "-S")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	screen, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serial := bufio.NewReader(screen)
	if unplugged {
		monitor(t, filepath.Join(dir, "monitor"), "set_link n0 off", "cont")
	}
	log := waitFor(t, serial, "seeded login: ")
	t.Logf("login prompt after %.1f s", time.Since(start).Seconds())
	if unplugged {
		log += waitFor(t, serial, "tiny: no network yet")
		monitor(t, filepath.Join(dir, "monitor"), "set_link n0 on")
	}
	select {
	case got := <-homes:
		if !strings.HasPrefix(got, "POST /up/token ") || !strings.Contains(got, "instance_id=task-7") || !strings.Contains(got, "hostname=seeded") {
			t.Errorf("reported home as %q", got)
		}
		t.Logf("reported home after %.1f s", time.Since(start).Seconds())
	case <-ctx.Done():
		t.Fatalf("did not report home; the console said:\n%s", log)
	}
	if name == Debian12 {
		cancel() // nobody can log in to switch it off
		_ = cmd.Wait()
		return
	}
	if !strings.Contains(log, "tiny: root /dev/vda3 partition 46137344 bytes") {
		t.Errorf("the root partition is not told; the console said:\n%s", log)
	}
	if _, err := io.WriteString(keys, "poweroff\n"); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, serial) }()
	if err := cmd.Wait(); err != nil {
		t.Errorf("did not switch itself off: %v", err)
	}
}

// monitor tells QEMU something, as soon as it listens.
func monitor(t *testing.T, socket string, commands ...string) {
	t.Helper()
	var c net.Conn
	for c == nil {
		var err error
		if c, err = net.Dial("unix", socket); err != nil {
			select {
			case <-t.Context().Done():
				t.Fatal(err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for _, command := range commands {
		waitFor(t, r, "(qemu) ")
		if _, err := io.WriteString(c, command+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, r, "(qemu) ")
}

// waitFor reads the console up to and with a text.
func waitFor(t *testing.T, r *bufio.Reader, want string) string {
	t.Helper()
	var seen strings.Builder
	for !strings.HasSuffix(seen.String(), want) {
		c, err := r.ReadByte()
		if err != nil {
			t.Fatalf("the console ended without %q:\n%s", want, seen.String())
		}
		seen.WriteByte(c)
	}
	return seen.String()
}

// seedDisk makes a FAT volume as the installer leaves one. The first node to
// report to is gone.
func seedDisk(t *testing.T, dir, url string) string {
	t.Helper()
	disk := filepath.Join(dir, "seed.img")
	err := writeFiles(dir, map[string]string{
		"meta-data":      "instance-id: \"task-7\"\nlocal-hostname: \"seeded\"\n",
		"user-data":      "#cloud-config\nhostname: \"seeded\"\n",
		"vendor-data":    "#cloud-config\nphone_home:\n  url: \"" + url + "\"\n  post: [instance_id, hostname, fqdn]\n  tries: 20\n",
		"phone-home":     "http://10.0.2.2:9/up/token\n" + url + "\n",
		"network-config": "version: 2\nethernets:\n  lpmos:\n    match: {macaddress: \"52:54:00:aa:bb:01\"}\n    dhcp4: true\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(disk, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &builder{work: dir}
	if err := b.run(t.Context(), nil, "mformat", "-i", disk, "-v", "CIDATA", "::"); err != nil {
		t.Fatal(err)
	}
	if err := b.run(t.Context(), nil, "mcopy", "-i", disk, "meta-data", "user-data", "vendor-data", "phone-home", "network-config", "::"); err != nil {
		t.Fatal(err)
	}
	return disk
}
