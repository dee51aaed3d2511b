package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	tftpDrain   = 2 * time.Second  // for transfers under way when the node stops
	tftpLongest = 10 * time.Minute // for one transfer
	tftpBefore  = 32               // packets, that a client sent before it asked anew
)

// tftpLoop is one goroutine that carries all transfers of a link. The kernel names the
// sockets on which something has come (epoll), many at a time: a block costs one call to
// read the acknowledgement and one to send the next, a window no more than a block. The
// runtime's own poller wakes the loop, so it holds no thread while it waits.
type tftpLoop struct {
	t      *tftpServer
	conn   *net.UDPConn // to which requests come
	port   int          // its descriptor
	source []byte       // control message: what is sent from it comes from the link's address

	poll   *os.File // the epoll
	raw    syscall.RawConn
	ready  func(fd uintptr) bool
	events [128]unix.EpollEvent
	came   int
	failed error

	clients map[netip.AddrPort]*tftpTransfer
	sockets map[int32]*tftpTransfer // of clients, those with a socket of their own
	next    time.Time               // nothing is due before; zero: nothing is at all
	armed   time.Time               // what the poller was told of it

	ending time.Time // the node stops, and transfers have until then

	in  [tftpLargest + 1]byte
	oob [128]byte
	out [65507]byte // the longest datagram; the kernel cuts it into blocks
}

// tftpTransfer is one file on its way to one client.
type tftpTransfer struct {
	*tftpSender
	client netip.AddrPort
	asked  tftpRequest // as it came
	req    tftpRequest // as it was granted
	file   *io.SectionReader
	served func() // if set: to be called when the client has it
	oack   []byte
	block  int

	fd    int  // connected to the client; -1 when replies leave from the common port
	whole bool // the kernel cuts a window into blocks (UDP_SEGMENT)
	cuts  bool // it has been told to: not before the options, which are one packet, however long
	ends  time.Time
}

// serve answers on conn until ctx ends.
func (t *tftpServer) serve(ctx context.Context, conn *net.UDPConn) error {
	defer conn.Close()
	l, err := t.newLoop(conn)
	if err != nil {
		return fmt.Errorf("TFTP on %s: %w", t.link.Name, err)
	}
	defer l.poll.Close()
	defer context.AfterFunc(ctx, func() { _ = l.poll.SetReadDeadline(time.Unix(1, 0)) })()
	if err := l.run(ctx); err != nil {
		return fmt.Errorf("TFTP on %s: %w", t.link.Name, err)
	}
	return nil
}

func (t *tftpServer) newLoop(conn *net.UDPConn) (*tftpLoop, error) {
	l := &tftpLoop{
		t: t, conn: conn,
		source:  (&ipv4.ControlMessage{Src: t.link.addr.AsSlice()}).Marshal(),
		clients: map[netip.AddrPort]*tftpTransfer{},
		sockets: map[int32]*tftpTransfer{},
	}
	if err := ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true); err != nil {
		return nil, err
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime waits for it
		return nil, errors.Join(err, unix.Close(fd))
	}
	l.poll = os.NewFile(uintptr(fd), "epoll")
	if l.raw, err = l.poll.SyscallConn(); err != nil {
		return nil, errors.Join(err, l.poll.Close())
	}
	l.ready = func(fd uintptr) bool {
		n, err := unix.EpollWait(int(fd), l.events[:], 0)
		for err == unix.EINTR {
			n, err = unix.EpollWait(int(fd), l.events[:], 0)
		}
		l.came, l.failed = max(n, 0), err
		return n != 0
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) {
			l.port = int(fd)
			if t.singlePort { // or the kernel would not tell who is not there
				err = unix.SetsockoptInt(l.port, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
			}
			err = errors.Join(err, l.watch(l.port))
		})
		err = errors.Join(ctlErr, err)
	}
	if err != nil {
		return nil, errors.Join(err, l.poll.Close())
	}
	return l, nil
}

// watch has the kernel name fd when something has come.
func (l *tftpLoop) watch(fd int) error {
	var err error
	ctlErr := l.raw.Control(func(epoll uintptr) {
		err = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	})
	return errors.Join(ctlErr, err)
}

// run serves until ctx ends, and then what is under way for a moment more.
func (l *tftpLoop) run(ctx context.Context) error {
	defer func() {
		for _, x := range l.clients {
			l.end(x, errTFTPStop)
		}
	}()
	for {
		if err := l.wait(ctx); err != nil {
			return err
		}
		now := time.Now()
		if ctx.Err() != nil && l.ending.IsZero() {
			l.ending = now.Add(tftpDrain)
			if !l.t.singlePort {
				l.conn.Close() // it is free for another
				l.port = -1
			}
		}
		for _, e := range l.events[:l.came] {
			if int(e.Fd) == l.port {
				if err := l.request(now); err != nil {
					return err
				}
			} else if x := l.sockets[e.Fd]; x != nil {
				l.contain(x, func() { l.answer(x, now) })
			}
		}
		if !l.next.IsZero() && !now.Before(l.next) {
			l.expire(now)
		}
		if !l.ending.IsZero() && (len(l.clients) == 0 || !now.Before(l.ending)) {
			return nil
		}
	}
}

// wait waits until something has come, is due, or ctx ends.
func (l *tftpLoop) wait(ctx context.Context) error {
	l.came, l.failed = 0, nil
	until := l.next
	if !l.ending.IsZero() && (until.IsZero() || l.ending.Before(until)) {
		until = l.ending
	}
	if !until.Equal(l.armed) || !l.ending.IsZero() {
		if err := l.poll.SetReadDeadline(until); err != nil {
			return err
		}
		l.armed = until
	}
	if ctx.Err() != nil && l.ending.IsZero() {
		return nil // the deadline that was to wake the loop may just have been overwritten
	}
	err := l.raw.Read(l.ready)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return errors.Join(err, l.failed)
}

// contain ends a transfer that causes a panic, and nothing else.
func (l *tftpLoop) contain(x *tftpTransfer, do func()) {
	defer func() {
		if p := recover(); p != nil {
			l.end(x, fmt.Errorf("%w: %v\n%s", errTFTPPanic, p, debug.Stack()))
		}
	}()
	do()
}

// expire looks after all transfers, for one may be due, and notes when the next is.
func (l *tftpLoop) expire(now time.Time) {
	l.next = time.Time{}
	for _, x := range l.clients {
		l.contain(x, func() {
			switch {
			case !now.Before(x.ends):
				l.end(x, errTFTPLong)
			case !now.Before(x.due()):
				b, err := x.expire(now)
				if err != nil {
					l.end(x, err)
					return
				}
				l.send(x, b)
			default:
				l.wakeAt(x.due())
			}
		})
	}
}

// wakeAt has expire called then, or earlier. It is not taken back when something is due
// later than it was: looking in vain a few times a second costs less.
func (l *tftpLoop) wakeAt(due time.Time) {
	if l.next.IsZero() || due.Before(l.next) {
		l.next = due
	}
}

// request takes one packet from the port for requests.
func (l *tftpLoop) request(now time.Time) error {
	n, oobn, _, sa, err := unix.Recvmsg(l.port, l.in[:], l.oob[:], unix.MSG_DONTWAIT)
	if err != nil {
		if l.t.singlePort {
			l.unreachable()
			return nil
		}
		if err == unix.EAGAIN || err == unix.EINTR {
			return nil
		}
		return err
	}
	from, ok := addrPortOf(sa)
	if !ok {
		l.t.stats.add("tftp.refused.malformed")
		return nil
	}
	b := l.in[:n]
	if l.t.singlePort && n >= 4 && binary.BigEndian.Uint16(b) != tftpRead {
		if x := l.clients[from]; x != nil {
			l.contain(x, func() { l.take(x, b, now) })
			return nil
		}
	}
	var cm ipv4.ControlMessage
	// A request to everybody is another server's matter too (RFC 1123 section 4.2.3.5).
	if err := cm.Parse(l.oob[:oobn]); err != nil || n > tftpLargest || !cm.Dst.Equal(l.t.link.addr.AsSlice()) {
		l.t.stats.add("tftp.refused.malformed")
		return nil
	}
	if !l.ending.IsZero() {
		return nil // another node may answer
	}
	if !l.t.mayAsk(from.Addr()) {
		l.t.stats.add("tftp.refused.too often")
		return nil
	}
	defer func() { // one packet, whatever comes of it, ends nothing else
		if p := recover(); p != nil {
			l.t.stats.add("tftp.panic")
			l.t.log.Error("a TFTP request caused a panic; it was dropped", "from", from, "err", fmt.Errorf("%w: %v\n%s", errTFTPPanic, p, debug.Stack()))
		}
	}()
	var file *io.SectionReader
	var served func()
	req, err := l.t.read(b)
	if err == nil {
		err = l.joins(req, from, now)
	}
	if err == nil {
		file, served, err = l.t.take(req, from.Addr())
	}
	if err == nil && l.t.running[from.Addr()] < transfersEach {
		l.makeRoom(now)
	}
	if err == nil && !l.t.begin(from.Addr()) {
		l.t.stats.add("tftp.refused.too many")
		err = errTFTPTooMany
	}
	if fault := new(tftpFault); errors.As(err, fault) {
		if !fault.silent {
			// Nobody waits for it: the client asks again, or gives up.
			_, _ = unix.SendmsgN(l.port, fault.packet(), l.source, sa, unix.MSG_DONTWAIT)
		}
		return nil
	}
	if err := l.begin(req, file, served, from, now); err != nil {
		l.t.end(from.Addr())
		l.t.stats.add("tftp.failed")
		l.t.warnFailed("from", from, "file", clip(tftpTold(req.name)), "err", err)
	}
	return nil
}

// makeRoom ends the transfer in which nothing has happened for longest, if there are as many
// as there may be, and if its client has never answered or not for long. Who answers is
// somebody; requests of made-up addresses must not keep machines from booting.
func (l *tftpLoop) makeRoom(now time.Time) {
	if l.t.total < transfersOverall {
		return
	}
	var idle *tftpTransfer
	for _, x := range l.clients {
		if (!x.answered || now.Sub(x.progress) >= tftpPatience) && (idle == nil || x.progress.Before(idle.progress)) {
			idle = x
		}
	}
	if idle != nil {
		l.t.stats.add("tftp.made room")
		l.end(idle, errTFTPSilent)
	}
}

// joins decides about the request beside what is under way, before anything is done for
// it: a machine's script counts. If it was sent twice, or doubled on its way, the transfer
// under way is the answer; one that has stopped, or was for something else, is over.
func (l *tftpLoop) joins(req tftpRequest, from netip.AddrPort, now time.Time) error {
	if x := l.clients[from]; x != nil && x.fd >= 0 {
		l.contain(x, func() { // what it sent before it asked
			for n := 0; n < tftpBefore && l.clients[from] == x && l.answer(x, now); n++ {
			}
		})
	}
	if x := l.clients[from]; x != nil {
		if req == x.asked && (!x.answered || x.tries <= 1) {
			l.t.stats.add("tftp.joined")
			return errTFTPMalformed
		}
		l.end(x, errTFTPAnother)
	}
	return nil
}

// begin begins a transfer that was allowed.
func (l *tftpLoop) begin(req tftpRequest, file *io.SectionReader, served func(), from netip.AddrPort, now time.Time) error {
	x := &tftpTransfer{client: from, asked: req, file: file, served: served, fd: -1, ends: now.Add(tftpLongest)}
	mtu := 0
	var err error
	if l.t.singlePort {
		mtu, err = linkMTU(l.port, l.t.link.Name)
	} else if x.fd, err = l.dial(from); err == nil {
		mtu, err = linkMTU(x.fd, l.t.link.Name)
		if path, e := unix.GetsockoptInt(x.fd, unix.IPPROTO_IP, unix.IP_MTU); e == nil {
			mtu = min(mtu, path)
		}
	}
	if err != nil {
		if x.fd >= 0 {
			unix.Close(x.fd)
		}
		return err
	}
	x.req = req.limit(l.t.largest(mtu, from.Addr(), now))
	x.oack = x.req.answer(file.Size())
	x.block = tftpPlain
	if x.req.block > 0 {
		x.block = x.req.block
	}
	window := max(x.req.window, 1)
	x.tftpSender = newTFTPSender(file.Size(), x.block, window, x.oack != nil, x.req.wait)
	x.whole = x.fd >= 0 && window > 1
	l.clients[from] = x
	if x.fd >= 0 {
		l.sockets[int32(x.fd)] = x
	}
	l.t.tellAsked(x)
	l.contain(x, func() { l.send(x, x.start(now)) })
	return nil
}

// dial makes a socket to the client and no one else, from the address and on the link
// that it asked.
func (l *tftpLoop) dial(to netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("a socket: %w", err)
	}
	for _, step := range []func() error{
		func() error { return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, l.t.link.Name) },
		func() error { return unix.Bind(fd, &unix.SockaddrInet4{Addr: l.t.link.addr.As4()}) },
		func() error {
			return unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
		},
		func() error { return l.watch(fd) },
	} {
		if err := step(); err != nil {
			return -1, errors.Join(fmt.Errorf("a socket to %s: %w", to, err), unix.Close(fd))
		}
	}
	return fd, nil
}

// answer reads one packet of a transfer, and says whether there was one.
func (l *tftpLoop) answer(x *tftpTransfer, now time.Time) bool {
	n, err := unix.Read(x.fd, l.in[:])
	switch err {
	case nil:
		l.take(x, l.in[:n], now)
		return true
	case unix.EAGAIN, unix.EINTR:
	case unix.ECONNREFUSED:
		l.end(x, errTFTPRefused)
	default:
		l.end(x, fmt.Errorf("receive: %w", err))
	}
	return false
}

// take is what the client sent.
func (l *tftpLoop) take(x *tftpTransfer, b []byte, now time.Time) {
	if len(b) < 4 {
		return
	}
	switch code := binary.BigEndian.Uint16(b[2:]); binary.BigEndian.Uint16(b) {
	case tftpAck:
		burst := x.acknowledge(code, now)
		if x.done() {
			l.end(x, nil)
			return
		}
		l.send(x, burst)
	case tftpError: // is never answered (RFC 1350)
		l.end(x, tftpHungUp{code, strings.TrimRight(string(b[4:]), "\x00")})
	}
}

// tftpHungUp is the error that a client ended its transfer with.
type tftpHungUp struct {
	code uint16
	said string
}

func (e tftpHungUp) Error() string {
	return fmt.Sprintf("the client ended it: code %d, %q", e.code, clip(hidePath(e.said)))
}

// send puts blocks on the wire. One that is lost on the way there is lost as on any
// other part of its way.
func (l *tftpLoop) send(x *tftpTransfer, b tftpBurst) {
	if x.whole && !x.cuts && b.from > 0 {
		// From here on what is written to the socket is cut into blocks. A kernel before
		// 4.18 cannot, and gets them one by one.
		x.cuts = unix.SetsockoptInt(x.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 4+x.block) == nil
		x.whole = x.cuts
	}
	for b.n > 0 {
		n, length, err := l.fill(x, b)
		if err != nil {
			l.end(x, err)
			return
		}
		err = l.write(x, l.out[:length])
		if n > 1 && err != nil && err != unix.EAGAIN {
			// The card or the route has no use for windows; blocks will do.
			x.whole = false
			if err := unix.SetsockoptInt(x.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0); err != nil {
				l.end(x, fmt.Errorf("send block by block: %w", err))
				return
			}
			continue
		}
		switch err {
		case nil, unix.EAGAIN, unix.ENOBUFS, unix.EINTR:
		case unix.ECONNREFUSED:
			l.end(x, errTFTPRefused)
			return
		default:
			l.end(x, fmt.Errorf("send: %w", err))
			return
		}
		b.from, b.n = b.from+int64(n), b.n-n
	}
	l.wakeAt(x.due())
}

// fill writes as many blocks as are sent at once to l.out.
func (l *tftpLoop) fill(x *tftpTransfer, b tftpBurst) (n, length int, err error) {
	if b.from == 0 {
		return 1, copy(l.out[:], x.oack), nil
	}
	n = 1
	if x.whole {
		n = min(b.n, len(l.out)/(4+x.block))
	}
	for i := range n {
		number := b.from + int64(i)
		tftpBlockHeader(l.out[length:], number)
		got, err := x.file.ReadAt(l.out[length+4:length+4+x.block], (number-1)*int64(x.block))
		if err != nil && (err != io.EOF || number != x.last) {
			return 0, 0, fmt.Errorf("read block %d: %w", number, err)
		}
		length += 4 + got
	}
	return n, length, nil
}

func (l *tftpLoop) write(x *tftpTransfer, b []byte) error {
	if x.fd >= 0 {
		_, err := unix.Write(x.fd, b)
		return err
	}
	to := &unix.SockaddrInet4{Addr: x.client.Addr().As4(), Port: int(x.client.Port())}
	_, err := unix.SendmsgN(l.port, b, l.source, to, unix.MSG_DONTWAIT)
	if err != nil && err != unix.EAGAIN {
		// On the common port it is told of another packet, perhaps another client's.
		_, err = unix.SendmsgN(l.port, b, l.source, to, unix.MSG_DONTWAIT)
	}
	return err
}

// unreachable ends transfers to clients of the common port that are not there any more:
// the kernel keeps a list of packets that came back.
func (l *tftpLoop) unreachable() {
	for {
		_, _, _, sa, err := unix.Recvmsg(l.port, l.in[:], l.oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		if to, ok := addrPortOf(sa); ok {
			if x := l.clients[to]; x != nil {
				l.end(x, errTFTPRefused)
			}
		}
	}
}

// end ends a transfer, if it has not ended, and says how it went.
func (l *tftpLoop) end(x *tftpTransfer, why error) {
	if l.clients[x.client] != x {
		return
	}
	delete(l.clients, x.client)
	if x.fd >= 0 {
		delete(l.sockets, int32(x.fd))
		unix.Close(x.fd)
	}
	l.t.end(x.client.Addr())
	l.t.over(x, why)
}

// linkMTU is how long a packet may be on a link now, asked with any socket.
func linkMTU(fd int, device string) (int, error) {
	r, err := unix.NewIfreq(device)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, r); err != nil {
		return 0, fmt.Errorf("ask for the MTU of %s: %w", device, err)
	}
	return int(r.Uint32()), nil
}

func addrPortOf(sa unix.Sockaddr) (netip.AddrPort, bool) {
	in, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)), true
}
