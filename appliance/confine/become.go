package confine

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kept are the capabilities of a node that is not root: ports below 1024, and
// packets to machines that have no address yet.
var Kept = []int{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW}

// keptSet is Kept as the kernel writes it; both are among the first 32.
func keptSet() (set uint32) {
	for _, c := range Kept {
		set |= 1 << c
	}
	return set
}

// Become makes this process that of the user, on every thread, with the
// capabilities in Kept of those it has, and no way to any more. It takes root.
func Become(u User) error {
	if u.Root() {
		return errors.New("become an unprivileged user: root is none")
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("become %s: read the capabilities: %w", u, err)
	}
	// Without this the capabilities go with the user.
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); err != nil {
		return fmt.Errorf("become %s: keep capabilities: %w", u, err)
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if keptSet()&(1<<c) != 0 && c < 32 {
			continue
		}
		err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // a kernel older than this list
			return fmt.Errorf("become %s: give up capability %d: %w", u, c, err)
		}
	}
	if err := syscall.Setgroups([]int{}); err != nil {
		return fmt.Errorf("become %s: leave root's groups: %w", u, err)
	}
	if err := syscall.Setresgid(u.GID, u.GID, u.GID); err != nil {
		return fmt.Errorf("become %s: take group %d: %w", u, u.GID, err)
	}
	if err := syscall.Setresuid(u.UID, u.UID, u.UID); err != nil {
		return fmt.Errorf("become %s: %w; where this number may not be used, say with user who the node is to be", u, err)
	}
	kept := have[0].Permitted & keptSet()
	set := [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	if err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&set[0])), 0); err != nil {
		return fmt.Errorf("become %s: keep the capabilities of a node: %w", u, err)
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("become %s: let no right be gained: %w", u, err)
	}
	var left [2]unix.CapUserData
	if err := unix.Capget(&header, &left[0]); err != nil || left != set {
		return fmt.Errorf("become %s: the capabilities are %+v, not %+v (%v)", u, left, set, err)
	}
	return CloseMemory()
}

// CloseMemory lets nobody else of the same user look into the memory of this
// process, which holds keys, and writes none of it to disk should it die.
func CloseMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close the memory to others: %w", err)
	}
	return nil
}

// everyThread makes a system call on every thread there is: the kernel keeps
// rights by thread.
//
//go:uintptrescapes
func everyThread(call, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(call, a, b, c)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP: // so does Go where C code may have made threads
		return errors.New("this binary is linked with C code; build it with CGO_ENABLED=0, as make build does, or run it with user: root")
	}
	return errno
}
