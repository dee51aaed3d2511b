package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
)

// How a transfer ends early.
var (
	errTFTPHungUp  = errors.New("the client ended it")
	errTFTPSilent  = errors.New("no answer")
	errTFTPUnheard = fmt.Errorf("%w to anything", errTFTPSilent)
	errTFTPOver    = errors.New("the transfer is over")
	errTFTPPanic   = errors.New("panic")
)

// tftpDoor is what the library takes for its socket, in its mode of a single port:
// no packet reaches the library or leaves it but through here. Behind it each
// transfer has a socket of its own.
//
// The door is as strict as it is because of what the library (3.2.0) does with what
// it is given in that mode: a packet for a transfer that is just ending is a send on
// a closed channel, one longer than 516 bytes a slice out of range, both of which
// anybody on the network could cause, and an error is answered with an error. So a
// transfer gets one answer to each packet it sends, and one that it was waiting for.
type tftpDoor struct {
	local  net.Addr
	in     chan tftpPacket // on its way to the library
	ending chan struct{}
	end    func() // closes ending

	mu        sync.Mutex
	next      uint64
	transfers map[string]*tftpTransfer
}

// tftpPacket is a packet and the transfer it is for.
type tftpPacket struct {
	b  []byte
	to *net.UDPAddr
}

func newTFTPDoor(local net.Addr) *tftpDoor {
	d := &tftpDoor{local: local, in: make(chan tftpPacket), ending: make(chan struct{}), transfers: map[string]*tftpTransfer{}}
	d.end = sync.OnceFunc(func() { close(d.ending) })
	return d
}

// carry has the library send a file over conn, which is closed in the end, and
// returns how many of its bytes the client has acknowledged.
func (d *tftpDoor) carry(ctx context.Context, conn net.Conn, req tftpRequest, file *io.SectionReader) (int64, error) {
	x := d.enter(conn, file)
	defer d.leave(x)
	// Ending the read ends the transfer.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()

	d.in <- tftpPacket{req.packet(), x.addr}
	var buf [tftpPlain]byte
	for {
		n, err := conn.Read(buf[:])
		var pass []byte
		if err == nil {
			pass = x.take(buf[:n])
		} else {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			pass = x.stop(err)
		}
		if pass != nil {
			d.in <- tftpPacket{pass, x.addr}
		}
		if err != nil {
			break
		}
	}
	err := <-x.over
	return x.acked, err
}

// enter begins a transfer. The library tells transfers apart by the client's
// address, and a client may have begun two from the same port: the zone, which no
// IPv4 address has, is the transfer's number.
func (d *tftpDoor) enter(conn net.Conn, file *io.SectionReader) *tftpTransfer {
	addr := *conn.RemoteAddr().(*net.UDPAddr)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	addr.Zone = strconv.FormatUint(d.next, 10)
	x := &tftpTransfer{conn: conn, addr: &addr, file: file, over: make(chan error, 1)}
	d.transfers[addr.Zone] = x
	return x
}

func (d *tftpDoor) leave(x *tftpTransfer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.transfers, x.addr.Zone)
}

func (d *tftpDoor) transfer(zone string) *tftpTransfer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.transfers[zone]
}

// read is the library's handler of a read request.
func (d *tftpDoor) read(_ string, rf io.ReaderFrom) error {
	out, ok := rf.(tftp.OutgoingTransfer)
	if !ok {
		return errTFTPOver
	}
	addr := out.RemoteAddr()
	x := d.transfer(addr.Zone)
	if x == nil {
		return errTFTPOver
	}
	var err error
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errTFTPPanic, p, debug.Stack())
		}
		x.finish(err)
	}()
	out.SetSize(x.file.Size())
	if _, err = rf.ReadFrom(x.file); err != nil {
		err = x.cause(err)
	}
	return nil // the library has ended the transfer by itself
}

// ReadFrom implements net.PacketConn: the library's next packet. The library ends
// after a failure only when it was told to, and asks again without pause before.
func (d *tftpDoor) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-d.in:
		return copy(b, p.b), p.to, nil
	case <-d.ending:
		return 0, nil, os.ErrDeadlineExceeded
	}
}

// WriteTo implements net.PacketConn. Its errors are never a net.Error, after which
// the library would try again.
func (d *tftpDoor) WriteTo(b []byte, to net.Addr) (int, error) {
	if addr, ok := to.(*net.UDPAddr); ok {
		if x := d.transfer(addr.Zone); x != nil {
			return x.send(b)
		}
	}
	return 0, errTFTPOver
}

// SetReadDeadline implements net.PacketConn. The library sets one to end.
func (d *tftpDoor) SetReadDeadline(time.Time) error { d.end(); return nil }

// Close implements net.PacketConn.
func (d *tftpDoor) Close() error { d.end(); return nil }

// LocalAddr implements net.PacketConn.
func (d *tftpDoor) LocalAddr() net.Addr { return d.local }

// SetDeadline implements net.PacketConn.
func (d *tftpDoor) SetDeadline(time.Time) error { return errors.ErrUnsupported }

// SetWriteDeadline implements net.PacketConn.
func (d *tftpDoor) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// tftpTransfer is one file on its way to one client.
type tftpTransfer struct {
	conn net.Conn     // to the client and no one else
	addr *net.UDPAddr // as the library knows it
	file *io.SectionReader
	over chan error // what the library says in the end

	mu       sync.Mutex
	sending  bool   // a packet has been sent
	number   uint16 // of that packet; 0 for the options
	length   int    // of the file's bytes in it
	times    int    // it was sent
	passed   bool   // the library has been given, or is just being given, the answer to it
	answered bool   // the client has acknowledged anything
	acked    int64  // of the file's bytes
	ended    error  // why nothing is sent any more
}

// send is what the library sends. It sends again when time has passed, never because
// of what came: an acknowledgement that was doubled on its way would else double
// every packet after it.
func (x *tftpTransfer) send(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var number uint16
	var length int
	switch op := binary.BigEndian.Uint16(b); {
	case op == tftpOACK:
	case op == tftpData && len(b) >= 4:
		number, length = binary.BigEndian.Uint16(b[2:]), len(b)-4
	default:
		return len(b), nil // an error: of no use to who has hung up or is not there
	}
	again := x.sending && number == x.number
	switch {
	case again && x.passed:
		return len(b), nil // the answer is on its way to the library, which must not end before it has it
	case x.ended != nil:
		return 0, x.ended
	case !again:
		x.sending, x.number, x.length, x.times, x.passed = true, number, length, 0, false
	}
	limit := tftpFirst
	if x.answered {
		limit = tftpTries
	}
	if x.times == limit {
		if x.ended = errTFTPSilent; !x.answered {
			x.ended = errTFTPUnheard
		}
		return 0, x.ended
	}
	x.times++
	if _, err := x.conn.Write(b); err != nil {
		x.ended = fmt.Errorf("send: %w", err)
		return 0, x.ended
	}
	return len(b), nil
}

// take is what the client sent. It returns what the library is to be given, if
// anything.
func (x *tftpTransfer) take(b []byte) []byte {
	if len(b) < 4 {
		return nil
	}
	switch code := binary.BigEndian.Uint16(b[2:]); binary.BigEndian.Uint16(b) {
	case tftpAck:
		return x.acknowledge(code)
	case tftpError:
		return x.stop(fmt.Errorf("%w: code %d, %.80q", errTFTPHungUp, code, strings.TrimRight(string(b[4:]), "\x00")))
	}
	return nil
}

func (x *tftpTransfer) acknowledge(number uint16) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended != nil || !x.sending || x.passed || number != x.number {
		return nil
	}
	x.passed, x.answered = true, true
	x.acked += int64(x.length)
	return binary.BigEndian.AppendUint16([]byte{0, tftpAck}, number)
}

// stop ends the transfer when the library sends next, or now, if it waits: then it
// is given what is returned.
func (x *tftpTransfer) stop(why error) []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended != nil {
		return nil
	}
	x.ended = why
	if !x.sending || x.passed {
		return nil
	}
	x.passed = true
	return tftpFault{text: "over"}.packet()
}

// cause is why the transfer was ended, in words that do not hang on the library's.
func (x *tftpTransfer) cause(err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended != nil {
		return x.ended
	}
	return err
}

// finish closes a transfer that the library has ended. Nothing is passed to it any more.
func (x *tftpTransfer) finish(err error) {
	_ = x.stop(errTFTPOver)
	x.over <- err
	x.conn.Close()
}
