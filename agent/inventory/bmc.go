package inventory

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"github.com/lpmos/lpmos/agent/wire"
)

// bmc reports a management controller that SMBIOS announces or that answers at
// the IPMI device.
func (m machine) bmc(tables []structure) *wire.BMC {
	var b *wire.BMC
	if s := first(tables, smbiosIPMI); s.data != nil {
		b = &wire.BMC{Interface: ipmiInterface(s.byteAt(4))}
	}
	if !m.live || !m.exists("dev/ipmi0") {
		return b
	}
	dev, err := openIPMI(m.path("dev/ipmi0"))
	if err != nil {
		return b
	}
	defer func() { _ = syscall.Close(dev.fd) }()
	if b == nil {
		b = &wire.BMC{}
	}
	// Get Device ID (IPMI 2.0, section 20.1): bytes 3 and 4 are the firmware's
	// revision, the second in binary-coded decimal.
	if id, err := dev.ask(0x06, 0x01, nil); err == nil && len(id) >= 4 {
		b.Firmware = fmt.Sprintf("%d.%02x", id[2]&0x7f, id[3])
	} else {
		return b // it does not answer: ask no more
	}
	// Get LAN Configuration Parameters (section 23.2): channel 1, parameter 3 is
	// the address, 5 the hardware address. One byte of revision comes first.
	if p, err := dev.ask(0x0c, 0x02, []byte{1, 3, 0, 0}); err == nil && len(p) == 5 {
		if ip := netip.AddrFrom4([4]byte(p[1:])); !ip.IsUnspecified() {
			b.IP = ip.String()
		}
	}
	if p, err := dev.ask(0x0c, 0x02, []byte{1, 5, 0, 0}); err == nil && len(p) == 7 && !allBytes(p[1:], 0) {
		b.MAC = net.HardwareAddr(p[1:]).String()
	}
	return b
}

// ipmiInterface names the kinds of SMBIOS type 38 (DSP0134, table 103).
func ipmiInterface(b byte) string {
	switch b {
	case 1:
		return "kcs"
	case 2:
		return "smic"
	case 3:
		return "bt"
	case 4:
		return "ssif"
	}
	return ""
}

// The kernel's IPMI device (linux/ipmi.h).
const (
	ipmiSendCommand  = 0x8028690D
	ipmiReceiveTrunc = 0xC030690B
	ipmiWait         = 2 * time.Second
)

type ipmiDevice struct {
	fd    int
	msgid int
}

type ipmiMsg struct {
	netfn, cmd byte
	length     uint16
	data       *byte
}

type ipmiReq struct {
	addr    *byte
	addrLen uint32
	msgid   int
	msg     ipmiMsg
}

type ipmiRecv struct {
	recvType int32
	addr     *byte
	addrLen  uint32
	msgid    int
	msg      ipmiMsg
}

func openIPMI(path string) (*ipmiDevice, error) {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &ipmiDevice{fd: fd}, nil
}

// ask sends one command to the controller and returns the data behind the
// completion code. It waits no longer than ipmiWait.
func (d *ipmiDevice) ask(netfn, cmd byte, data []byte) ([]byte, error) {
	d.msgid++
	// struct ipmi_system_interface_addr: type 0xc, channel 0xf, LUN 0.
	addr := [8]byte{0x0c, 0, 0, 0, 0x0f, 0, 0, 0}
	payload := append([]byte{}, data...)
	payload = append(payload, 0) // so that there is a first byte to point to
	req := &ipmiReq{addr: &addr[0], addrLen: 8, msgid: d.msgid,
		msg: ipmiMsg{netfn: netfn, cmd: cmd, length: uint16(len(data)), data: &payload[0]}}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(d.fd), ipmiSendCommand, uintptr(unsafe.Pointer(req)))
	runtime.KeepAlive(payload)
	if errno != 0 {
		return nil, errno
	}
	buf, from := make([]byte, 64), make([]byte, 64)
	for deadline := time.Now().Add(ipmiWait); time.Now().Before(deadline); {
		recv := &ipmiRecv{addr: &from[0], addrLen: 64, msg: ipmiMsg{length: 64, data: &buf[0]}}
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(d.fd), ipmiReceiveTrunc, uintptr(unsafe.Pointer(recv)))
		runtime.KeepAlive(buf)
		runtime.KeepAlive(from)
		if errno == syscall.EAGAIN {
			time.Sleep(10 * time.Millisecond) // the device has no deadline of its own
			continue
		}
		if errno != 0 && errno != syscall.EMSGSIZE {
			return nil, errno
		}
		n := int(min(recv.msg.length, 64))
		if recv.msgid != d.msgid || n == 0 {
			continue
		}
		if buf[0] != 0 {
			return nil, fmt.Errorf("ipmi: command %#02x/%#02x refused with %#02x", netfn, cmd, buf[0])
		}
		return append([]byte{}, buf[1:n]...), nil
	}
	return nil, syscall.ETIMEDOUT
}
