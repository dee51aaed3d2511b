package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/pin/tftp/v3"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ethernet is the card that all machines share.
type ethernet struct {
	index int
	link  netlink.Link
	raw   *os.File
	conn  syscall.RawConn
	loss  float64 // of DHCP packets, each way

	mu       sync.Mutex
	rand     *rand.Rand
	machines map[[6]byte]chan answer
	lost     int
	sent     int // DHCP packets by machines
}

// openEthernet opens the packet socket on the named card.
func openEthernet(device string, loss float64, seed uint64) (*ethernet, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", device, err)
	}
	index := link.Attrs().Index
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket (needs root or cap_net_raw): %w", err)
	}
	w := &ethernet{index: index, link: link, loss: loss, rand: rand.New(rand.NewPCG(seed, 68)), machines: map[[6]byte]chan answer{}}
	w.raw = os.NewFile(uintptr(fd), "packet socket")
	if err := setUp(fd, index); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket on %s: %w", device, err), w.raw.Close())
	}
	if w.conn, err = w.raw.SyscallConn(); err != nil {
		return nil, errors.Join(err, w.raw.Close())
	}
	go w.receive()
	return w, nil
}

// setUp has the socket hear answers to DHCP clients, whichever card they are for.
func setUp(fd, index int) error {
	code, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 36, Size: 2}, // no node of ours sends IP options
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 68, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(code))
	for i, c := range code {
		filter[i] = unix.SockFilter{Code: c.Op, Jt: c.Jt, Jf: c.Jf, K: c.K}
	}
	// A thousand machines are answered in one moment; without a right to more the
	// kernel gives what it gives anybody.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<20)
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_IP), Ifindex: index}),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}),
	)
}

// swap16 is htons.
func swap16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Close ends every wait.
func (w *ethernet) Close() error { return w.raw.Close() }

// answer is what a machine was told, and when that was on the wire.
type answer struct {
	payload []byte
	came    time.Time
}

// receive hands every answer to the machine it is for.
func (w *ethernet) receive() {
	buf, oob := make([]byte, 2048), make([]byte, 128)
	for {
		var n, extra int
		var err error
		ctlErr := w.conn.Read(func(fd uintptr) bool {
			n, extra, _, _, err = unix.Recvmsg(int(fd), buf, oob, 0)
			return err != unix.EAGAIN
		})
		if ctlErr != nil || err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENETDOWN) {
			return
		}
		payload, mac, ok := answerIn(buf[:max(n, 0)])
		if !ok {
			continue
		}
		w.mu.Lock()
		in := w.machines[mac]
		if in == nil || w.loses() {
			w.mu.Unlock()
			continue
		}
		select {
		case in <- answer{payload, stamp(oob[:extra])}:
		default: // one that does not listen loses packets, as on any wire
		}
		w.mu.Unlock()
	}
}

// stamp is when the kernel had a packet, as it says beside it (socket(7)); now, if it
// does not.
func stamp(oob []byte) time.Time {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range all {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// loses throws the dice. The lock is held.
func (w *ethernet) loses() bool {
	if w.loss > 0 && w.rand.Float64() < w.loss {
		w.lost++
		return true
	}
	return false
}

// Where things are in a frame, and in a DHCP packet.
const (
	etherLen = 14
	udpLen   = 8
	chaddrAt = 28
)

// answerIn takes a DHCP packet out of a frame and tells whose it is.
func answerIn(frame []byte) (payload []byte, mac [6]byte, ok bool) {
	if len(frame) < etherLen+20 || frame[etherLen]>>4 != 4 {
		return nil, mac, false
	}
	at := etherLen + 4*int(frame[etherLen]&15) + udpLen
	if len(frame) < at+chaddrAt+len(mac) {
		return nil, mac, false
	}
	payload = append([]byte(nil), frame[at:]...)
	return payload, [6]byte(payload[chaddrAt:]), true
}

// send puts a DHCP packet on the wire as a machine's card does, and says when.
func (w *ethernet) send(mac net.HardwareAddr, from, to netip.AddrPort, payload []byte) (at time.Time, err error) {
	w.mu.Lock()
	w.sent++
	gone := w.loses()
	w.mu.Unlock()
	if gone {
		return time.Now(), nil
	}
	frame := etherFrame(mac, from, to, payload)
	everybody := &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_IP), Ifindex: w.index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	ctlErr := w.conn.Write(func(fd uintptr) bool {
		at = time.Now()
		err = unix.Sendto(int(fd), frame, 0, everybody)
		return err != unix.EAGAIN && err != unix.ENOBUFS
	})
	return at, errors.Join(ctlErr, err)
}

// etherFrame is a datagram in a frame to everybody: whoever has the address takes it.
// A UDP checksum of zero says that there is none (RFC 768).
func etherFrame(mac net.HardwareAddr, from, to netip.AddrPort, payload []byte) []byte {
	b := make([]byte, etherLen+20+udpLen, etherLen+20+udpLen+len(payload))
	copy(b, []byte{255, 255, 255, 255, 255, 255})
	copy(b[6:], mac)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip, udp := b[etherLen:etherLen+20], b[etherLen+20:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(20+udpLen+len(payload)))
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+len(payload)))
	return append(b, payload...)
}

// card is the wire as one machine sees it: a pxeclient.Network.
type card struct {
	wire  *ethernet
	mac   net.HardwareAddr
	in    chan answer
	sent  time.Time // the packet that was sent last
	came  time.Time // the answer that was taken last
	late  func(time.Duration)
	addr  netip.Addr
	short int64 // bytes of kernel and initramfs that are fetched; 0: all
	http  http.Client
	bytes *counter // of boot files that came
}

// newCard plugs a machine in. A transport takes its address from the card.
func (w *ethernet) newCard(mac net.HardwareAddr, short int64, bytes *counter) *card {
	c := &card{wire: w, mac: mac, in: make(chan answer, 16), short: short, bytes: bytes}
	c.http.Transport = &http.Transport{DialContext: c.dial, ReadBufferSize: 4 << 10, WriteBufferSize: 1 << 10, MaxIdleConnsPerHost: 1}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.machines[[6]byte(mac)] = c.in
	return c
}

// dial connects from the machine's own address.
func (c *card) dial(ctx context.Context, network, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: 20 * time.Second}
	if c.addr.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: c.addr.AsSlice()}
	}
	return d.DialContext(ctx, network, to)
}

// off is a machine that loses its power: its connections end.
func (c *card) off() { c.http.CloseIdleConnections() }

// SendDHCP implements pxeclient.Network.
func (c *card) SendDHCP(_ context.Context, packet []byte, to netip.AddrPort) error {
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), 68)
	if c.addr.IsValid() && to.Addr() != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		from = netip.AddrPortFrom(c.addr, 68)
	}
	var err error
	c.sent, err = c.wire.send(c.mac, from, to, packet)
	return err
}

// ReceiveDHCP implements pxeclient.Network.
func (c *card) ReceiveDHCP(ctx context.Context) ([]byte, error) {
	select {
	case a := <-c.in:
		c.came = a.came
		if c.late != nil {
			c.late(time.Since(a.came))
		}
		return a.payload, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Sent and Came implement pxeclient.Stamped.
func (c *card) Sent() time.Time { return c.sent }
func (c *card) Came() time.Time { return c.came }

// Configure implements pxeclient.Network: the address becomes one more of the card's.
func (c *card) Configure(_ context.Context, addr netip.Prefix) error {
	if c.addr == addr.Addr() {
		return nil
	}
	one := &netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}, Flags: unix.IFA_F_NOPREFIXROUTE}
	if c.addr.IsValid() {
		c.http.CloseIdleConnections()
		old := &netlink.Addr{IPNet: &net.IPNet{IP: c.addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		_ = netlink.AddrDel(c.wire.link, old) // it may be another machine's by now
	}
	if err := netlink.AddrAdd(c.wire.link, one); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	c.addr = addr.Addr()
	return nil
}

// TFTP implements pxeclient.Network.
func (c *card) TFTP(_ context.Context, server netip.Addr, name string) ([]byte, error) {
	client, err := tftp.NewClient(netip.AddrPortFrom(server, 69).String())
	if err != nil {
		return nil, err
	}
	if err := client.SetLocalAddr(c.addr.String()); err != nil {
		return nil, err
	}
	client.SetBlockSize(1468)
	client.RequestTSize(true)
	client.SetTimeout(2 * time.Second)
	client.SetRetries(5)
	client.SetBackoff(func(int) time.Duration { return 0 })
	from, err := client.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var first head
	n, err := from.WriteTo(&first)
	c.bytes.add(n)
	return first.b, err
}

const (
	// whole is how long an answer may be that is kept; of what is longer the
	// beginning is.
	whole = 64 << 10
	kept  = 16
)

// head keeps the beginning of what is written to it.
type head struct{ b []byte }

// Write takes everything.
func (h *head) Write(p []byte) (int, error) {
	if room := kept - len(h.b); room > 0 {
		h.b = append(h.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// pieces are what long answers are read into and thrown away with.
var pieces = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// HTTP implements pxeclient.Network. A long answer is read to its end, and no more
// than its first bytes are kept.
func (c *card) HTTP(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "iPXE/1.0.0")
	if c.short > 0 && isLong(url) {
		req.Header.Set("Range", fmt.Sprintf("bytes=0-%d", c.short-1))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	if resp.ContentLength >= 0 && resp.ContentLength <= whole {
		return io.ReadAll(resp.Body)
	}
	piece := pieces.Get().(*[]byte)
	defer pieces.Put(piece)
	var first head
	// CopyBuffer alone: Discard and the like read by buffers of their own.
	n, err := io.CopyBuffer(struct{ io.Writer }{&first}, struct{ io.Reader }{resp.Body}, *piece)
	c.bytes.add(n)
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	return first.b, err
}
