package boot

import (
	"os"
	"syscall"
	"unsafe"
)

// finitModule gives a module file to the kernel.
func finitModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var params [1]byte // an empty C string
	if _, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(&params[0])), 0); errno != 0 {
		return errno
	}
	return nil
}
