package boot

import (
	"syscall"
	"time"
)

// Reboot writes what is buffered and restarts the machine. It returns only when
// the kernel refuses, with the reason.
func Reboot() error {
	syscall.Sync()
	return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
}

// PowerOff writes what is buffered and switches the machine off.
func PowerOff() error {
	syscall.Sync()
	return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// RebootForEver restarts the machine, asking the kernel again as often as it
// takes: the first process must not return.
func RebootForEver(say Say) {
	for {
		say("restarting the machine")
		if err := Reboot(); err != nil {
			say("the kernel refuses to restart: %v; switch the machine off and on by hand", err)
		}
		time.Sleep(10 * time.Second)
	}
}
