package inventory

import (
	"bytes"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

const (
	siocEthtool     = 0x8946
	ethtoolGDRVINFO = 3
)

// drvinfo is struct ethtool_drvinfo (linux/ethtool.h), 196 bytes.
type drvinfo struct {
	cmd      uint32
	driver   [32]byte
	version  [32]byte
	firmware [32]byte
	bus      [32]byte
	erom     [32]byte
	_        [12]byte
	_        [5]uint32
}

// cardInfo is what a driver says of its card.
type cardInfo struct{ driver, firmware, bus string }

// ethtoolDriver asks the driver of an interface who it is.
func ethtoolDriver(iface string) (cardInfo, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return cardInfo{}, err
	}
	defer func() { _ = syscall.Close(fd) }()
	var req struct { // struct ifreq with its pointer
		name [16]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if len(iface) >= len(req.name) {
		return cardInfo{}, fmt.Errorf("interface name %.40q is too long", iface)
	}
	copy(req.name[:], iface)
	info := &drvinfo{cmd: ethtoolGDRVINFO}
	req.data = unsafe.Pointer(info)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), siocEthtool, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(info)
	if errno != 0 {
		return cardInfo{}, errno
	}
	return cardInfo{driver: cString(info.driver[:]), firmware: cString(info.firmware[:]), bus: cString(info.bus[:])}, nil
}

// cString is the text before the first zero.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return clean(string(b))
}
