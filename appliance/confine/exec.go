package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is looked at of a system call (struct seccomp_data of seccomp(2)).
const (
	offsetCall = 0
	offsetArch = 4
)

// x32 is the bit of amd64's third set of system calls, which have numbers of
// their own.
const x32 = 0x40000000

// ForbidExec forbids this process, every thread of it and all it may yet make to
// start a program. A node starts none, ever; who makes it do so is somebody else.
// It holds until the process ends.
func ForbidExec() error {
	arch, known := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !known {
		return fmt.Errorf("forbid to start programs: %w on %s", errors.ErrUnsupported, runtime.GOARCH)
	}
	filter := noExec(arch)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The kernel wants this of who has no rights, and takes it over to the other
	// threads with the filter.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid to start programs: %w", err)
	}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	switch {
	case errno != 0:
		return fmt.Errorf("forbid to start programs: %w", errno)
	case r != 0:
		return fmt.Errorf("forbid to start programs: thread %d has a filter of its own", r)
	}
	return nil
}

// noExec refuses execve and execveat with EPERM, and every system call of another
// architecture: the kernel takes those too, by other numbers.
func noExec(arch uint32) []unix.SockFilter {
	const (
		load    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		give    = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: equal, K: arch, Jf: 5},
		{Code: load, K: offsetCall},
		{Code: equal, K: unix.SYS_EXECVE, Jt: 3},
		{Code: equal, K: unix.SYS_EXECVEAT, Jt: 2},
		{Code: atLeast, K: x32, Jt: 1},
		{Code: give, K: unix.SECCOMP_RET_ALLOW},
		{Code: give, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
	}
}
