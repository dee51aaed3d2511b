package boot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"unsafe"
)

// ifreq is struct ifreq with a sockaddr_in or flags in its union (netdevice(7)).
type ifreq struct {
	name [16]byte
	data [24]byte
}

// rtentry is struct rtentry of a 64-bit kernel.
type rtentry struct {
	_        uintptr
	dst      [16]byte
	gateway  [16]byte
	mask     [16]byte
	flags    uint16
	_        int16
	_        uintptr
	_        uintptr
	metric   int16
	dev      *byte
	mtu, win uintptr
	irtt     uint16
}

const (
	rtfUp      = 1
	rtfGateway = 2
)

// inet is a sockaddr_in.
func inet(a netip.Addr) (s [16]byte) {
	*(*uint16)(unsafe.Pointer(&s[0])) = syscall.AF_INET
	ip := a.As4()
	copy(s[4:8], ip[:])
	return s
}

// ioctl runs one request on a throw-away socket.
func ioctl(request uintptr, arg unsafe.Pointer) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func request(iface string) (r ifreq, err error) {
	if len(iface) >= len(r.name) {
		return r, fmt.Errorf("interface name %.40q is too long", iface)
	}
	copy(r.name[:], iface)
	return r, nil
}

// linkUp switches an interface on.
func linkUp(iface string) error {
	r, err := request(iface)
	if err != nil {
		return err
	}
	if err := ioctl(syscall.SIOCGIFFLAGS, unsafe.Pointer(&r)); err != nil {
		return err
	}
	*(*uint16)(unsafe.Pointer(&r.data[0])) |= syscall.IFF_UP
	return ioctl(syscall.SIOCSIFFLAGS, unsafe.Pointer(&r))
}

// LoopbackUp switches lo on.
func LoopbackUp(say Say) {
	if err := linkUp("lo"); err != nil {
		say("network: lo: %v", err)
	}
}

// configure gives an interface its address, mask and default route.
func configure(l Lease) error {
	for _, set := range []struct {
		request uintptr
		addr    netip.Addr
		what    string
	}{
		{syscall.SIOCSIFADDR, l.Address.Addr(), "address"},
		{syscall.SIOCSIFNETMASK, mask(l.Address.Bits()), "mask"},
	} {
		r, err := request(l.Interface)
		if err != nil {
			return err
		}
		sa := inet(set.addr)
		copy(r.data[:], sa[:])
		if err := ioctl(set.request, unsafe.Pointer(&r)); err != nil {
			return fmt.Errorf("set %s of %s to %s: %w", set.what, l.Interface, set.addr, err)
		}
	}
	if !l.Router.IsValid() {
		return nil
	}
	zero := netip.AddrFrom4([4]byte{})
	dev := append([]byte(l.Interface), 0)
	rt := rtentry{dst: inet(zero), mask: inet(zero), gateway: inet(l.Router), flags: rtfUp | rtfGateway, dev: &dev[0]}
	err := ioctl(syscall.SIOCADDRT, unsafe.Pointer(&rt))
	runtime.KeepAlive(dev)
	// A router that cannot be reached leaves a machine that can still talk to
	// a node on its own wire.
	if err != nil && !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.ENETUNREACH) {
		return fmt.Errorf("set router of %s to %s: %w", l.Interface, l.Router, err)
	}
	return nil
}

// mask is a subnet mask as an address.
func mask(bits int) netip.Addr {
	return netip.AddrFrom4([4]byte(net.CIDRMask(bits, 32)))
}
