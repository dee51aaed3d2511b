package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// need is a program or file and the Debian package that has it.
type need struct {
	what, deb string
}

// needs lists what a rack with these options cannot do without.
func needs(o Options) []need {
	list := []need{{"ip", "iproute2"}}
	if !o.Simulated {
		list = append(list, need{qemuProgram, "qemu-system-x86"}, need{"/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"})
	}
	if slices.Contains(o.Firmware, "uefi") {
		list = append(list, need{ovmfCode, "ovmf"}, need{ovmfVars, "ovmf"})
	}
	if o.ExternalDHCP {
		list = append(list, need{"dnsmasq", "dnsmasq-base"})
	}
	return list
}

// checkNeeds says in one error everything that is missing and how to get it.
// has tells whether a program (a bare name) or a file (a path) exists.
func checkNeeds(list []need, has func(string) bool) error {
	var missing, packages []string
	for _, n := range list {
		if has(n.what) {
			continue
		}
		missing = append(missing, n.what)
		if !slices.Contains(packages, n.deb) {
			packages = append(packages, n.deb)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("a rack needs %s: install with \"apt-get install %s\"",
		strings.Join(missing, ", "), strings.Join(packages, " "))
}

func hasProgramOrFile(what string) bool {
	if strings.HasPrefix(what, "/") {
		_, err := os.Stat(what)
		return err == nil
	}
	_, err := exec.LookPath(what)
	return err == nil
}

// checkTun asks for the one device a rack needs of the host.
func checkTun() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: run as root, or give yourself the device", err)
	}
	if err != nil {
		return fmt.Errorf("%w: load the kernel's tun module", err)
	}
	return f.Close()
}
