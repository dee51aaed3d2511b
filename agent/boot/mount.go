package boot

import (
	"os"
	"syscall"
)

// efiDir exists on a machine started by UEFI.
const efiDir = "/sys/firmware/efi"

// mounts in the order they need: /sys before what lies under it.
var mounts = []struct {
	kind, target, data string
	flags              uintptr
	needs              string // a path that must exist; "" always
}{
	{"proc", "/proc", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, ""},
	{"sysfs", "/sys", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "mode=0755", syscall.MS_NOSUID | syscall.MS_NOEXEC, ""},
	{"tmpfs", "/run", "mode=0755", syscall.MS_NOSUID | syscall.MS_NODEV, ""},
	{"tmpfs", "/tmp", "mode=1777", syscall.MS_NOSUID | syscall.MS_NODEV, ""},
	{"efivarfs", "/sys/firmware/efi/efivars", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC, efiDir},
}

// Mount mounts the file systems the agent reads. What is mounted already stays.
func Mount(say Say) {
	for _, m := range mounts {
		mount(m.kind, m.target, m.data, m.flags, m.needs, say)
	}
}

// MountEFIVariables mounts efivarfs, which is a module in some kernels and so
// may come only after the drivers.
func MountEFIVariables(say Say) {
	m := mounts[len(mounts)-1]
	if entries, err := os.ReadDir(m.target); err == nil && len(entries) > 0 {
		return
	}
	mount(m.kind, m.target, m.data, m.flags, m.needs, say)
}

func mount(kind, target, data string, flags uintptr, needs string, say Say) {
	if needs != "" {
		if _, err := os.Stat(needs); err != nil {
			return
		}
	} else if err := os.MkdirAll(target, 0o755); err != nil {
		say("mount: %v", err)
		return
	}
	err := syscall.Mount(kind, target, kind, flags, data)
	if err == syscall.ENODEV && kind == "efivarfs" {
		return // the driver is not there yet
	}
	if err != nil && err != syscall.EBUSY {
		say("mount: %s on %s: %v", kind, target, err)
	}
}

// QuietKernel keeps messages below errors off the console, where they would tear
// the agent's own lines apart. They stay in the kernel's log.
func QuietKernel() {
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("4 4 1 7\n"), 0)
}
