package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// waitingBytes is how much may wait at a port to be read: what a thousand machines send
// in the moment when a room gets its power back. A packet of theirs takes a kilobyte of
// it, and one that finds no place is sent again after four seconds.
const waitingBytes = 2 << 20

// listenUDP opens a UDP port on one interface only: SO_BINDTODEVICE makes the
// kernel drop what comes in elsewhere, and sends nothing elsewhere. shared lets
// another process have the port too, each getting a copy of every broadcast:
// right for a proxy on the host of a DHCP server, and wrong for a server, where
// two would answer without either noticing.
func listenUDP(ctx context.Context, device string, port int, shared bool) (*net.UDPConn, error) {
	return listenUDPAt(ctx, device, netip.IPv4Unspecified(), port, shared)
}

// listenUDPAt is listenUDP for what is sent to one address.
func listenUDPAt(ctx context.Context, device string, at netip.Addr, port int, shared bool) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
			if err != nil {
				err = fmt.Errorf("bind to interface %s: %w", device, err)
				return
			}
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			// The kernel gives what it may (see kernelLimits).
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, waitingBytes)
			if err == nil && shared {
				err = errors.Join(
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
				)
			}
		})
		return errors.Join(ctlErr, err)
	}}
	pc, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(at, uint16(port)).String())
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		hint := "stop it"
		switch {
		case port == dhcpServerPort && shared:
			hint = "let it share the port, which dnsmasq does with bind-interfaces"
		case port == dhcpServerPort:
			hint = "stop it, or set mode proxy for this interface to work beside it"
		}
		return nil, fmt.Errorf("UDP port %d on %s is taken%s: %s", port, device, heldBy("udp", port), hint)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("UDP port %d on %s: not permitted; run as root or give the binary cap_net_bind_service, cap_net_raw and cap_net_broadcast", port, device)
	case err != nil:
		return nil, fmt.Errorf("UDP port %d on %s: %w", port, device, err)
	}
	return pc.(*net.UDPConn), nil
}

// onlyFrom makes the kernel drop datagrams whose source is not of the subnets,
// before any of our code sees them: a forged request can then not make the node
// send a single byte to a stranger.
func onlyFrom(c *net.UDPConn, subnets ...netip.Prefix) error {
	const sourceAddress = 0xfff00000 + 12 // SKF_NET_OFF: offset from the IP header
	var program []bpf.Instruction
	for _, subnet := range subnets {
		program = append(program,
			bpf.LoadAbsolute{Off: sourceAddress, Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(0) << (32 - subnet.Bits())},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(subnet.Addr().AsSlice()), SkipFalse: 1},
			bpf.RetConstant{Val: 0xffff})
	}
	filter, err := bpf.Assemble(append(program, bpf.RetConstant{Val: 0}))
	if err != nil {
		return fmt.Errorf("build the source filter: %w", err)
	}
	if err := ipv4.NewPacketConn(c).SetBPF(filter); err != nil {
		return fmt.Errorf("set the source filter: %w", err)
	}
	return nil
}

// rawSocket sends and receives whole network-layer packets on one interface,
// addressing frames by hand.
type rawSocket struct {
	file  *os.File
	raw   syscall.RawConn
	index int
	proto uint16
}

// openRaw opens a packet socket. receive says whether it also gets packets of
// the protocol; a socket that only sends must not have them pile up.
func openRaw(ifindex int, proto uint16, receive bool) (*rawSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket (needs root or cap_net_raw): %w", err)
	}
	if receive {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(proto), Ifindex: ifindex})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), unix.Close(fd))
		}
	}
	f := os.NewFile(uintptr(fd), "packet socket")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), f.Close())
	}
	return &rawSocket{file: f, raw: raw, index: ifindex, proto: proto}, nil
}

// Close closes the socket and ends a receive.
func (s *rawSocket) Close() error { return s.file.Close() }

// send puts one packet on the wire for the card with address hw.
func (s *rawSocket) send(packet []byte, hw net.HardwareAddr) error {
	to := &unix.SockaddrLinklayer{Protocol: swap16(s.proto), Ifindex: s.index, Halen: uint8(len(hw))}
	copy(to.Addr[:], hw)
	var err error
	ctlErr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), packet, 0, to)
		return err != unix.EAGAIN
	})
	return errors.Join(ctlErr, err)
}

// receive waits for one packet and tells which card it came from.
func (s *rawSocket) receive(b []byte) (n int, from net.HardwareAddr, err error) {
	var sa unix.Sockaddr
	ctlErr := s.raw.Read(func(fd uintptr) bool {
		n, sa, err = unix.Recvfrom(int(fd), b, 0)
		return err != unix.EAGAIN
	})
	if err = errors.Join(ctlErr, err); err != nil {
		return 0, nil, err
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Halen <= 8 {
		from = append(from, ll.Addr[:ll.Halen]...)
	}
	return n, from, nil
}

// only lets the kernel drop what a filter does not want.
func (s *rawSocket) only(filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("build a packet filter: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	ctlErr := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("set a packet filter: %w", err)
	}
	return nil
}

// joinGroup lets frames to a multicast address through the card's filter.
func (s *rawSocket) joinGroup(group net.HardwareAddr) error {
	m := &unix.PacketMreq{Ifindex: int32(s.index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(group))}
	copy(m.Address[:], group)
	var err error
	ctlErr := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, m)
	})
	return errors.Join(ctlErr, err)
}

// swap16 is htons on the little-endian machines this runs on and on others.
func swap16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// udpPacket wraps a payload in UDP and IPv4 headers (RFC 768, RFC 791).
func udpPacket(from, to netip.AddrPort, payload []byte) []byte {
	const ipLen, udpLen = 20, 8
	b := make([]byte, ipLen+udpLen, ipLen+udpLen+len(payload))
	b = append(b, payload...)
	ip, udp := b[:ipLen], b[ipLen:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)))
	ip[8] = 64 // time to live
	ip[9] = unix.IPPROTO_UDP
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^sum16(0, ip))

	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	pseudo := sum16(uint32(unix.IPPROTO_UDP)+uint32(len(udp)), ip[12:20])
	check := ^sum16(uint32(pseudo), udp)
	if check == 0 {
		check = 0xffff // 0 would mean "not computed"
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return b
}

// sum16 is the ones' complement sum of b, started at start (RFC 1071).
func sum16(start uint32, b []byte) uint16 {
	sum := start
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// listen hands over every packet until ctx ends, and closes the socket then.
func (s *rawSocket) listen(ctx context.Context, what string, stats *counters, log *slog.Logger, hear func(packet []byte, from net.HardwareAddr)) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	hear = guarded(what, stats, log, hear)
	buf := make([]byte, 2048)
	for {
		n, from, err := s.receive(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, unix.ENETDOWN):
			continue // reported once when the link goes down
		case err != nil:
			return fmt.Errorf("listen for %s: %w", what, err)
		}
		hear(buf[:n], from)
	}
}

// guarded is hear for what comes from anybody: a panic costs its packet only.
func guarded(what string, stats *counters, log *slog.Logger, hear func(packet []byte, from net.HardwareAddr)) func([]byte, net.HardwareAddr) {
	return func(packet []byte, from net.HardwareAddr) {
		defer func() {
			if p := recover(); p != nil {
				stats.add("raw.panic")
				log.Error("a packet caused a panic; it was dropped", "heard", what, "panic", p, "stack", string(debug.Stack()))
			}
		}()
		hear(packet, from)
	}
}
