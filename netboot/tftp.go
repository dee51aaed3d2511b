package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pin/tftp/v3"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	tftpTimeout = time.Second
	// tftpFirst is how often a packet is sent to somebody who has not answered yet:
	// the request may be forged, and what is sent then hits somebody who never asked.
	// tftpTries is how often later, when it is known who listens.
	tftpFirst = 3
	tftpTries = 6

	tftpDrain        = 2 * time.Second  // for transfers under way when the node stops
	tftpLongest      = 10 * time.Minute // for one transfer
	transfersEach    = 8                // at once, by one address
	transfersOverall = 1024
	requestsEach     = 20 // in a second, by one address
)

// tftpServer serves the loaders of one link. Reading is all it can do, and
// names are looked up in a table: there is no path to walk out of.
type tftpServer struct {
	link      link
	bootPort  int
	files     *Files
	sightings *Sightings
	stats     *counters
	log       *slog.Logger
	now       func() time.Time

	mu      sync.Mutex
	running map[netip.Addr]int
	total   int
	second  int64 // which one asked counts
	asked   map[netip.Addr]int
}

// find is the whole of what TFTP can give.
func (t *tftpServer) find(name string) (*io.SectionReader, bool) {
	name = strings.TrimLeft(name, "/")
	switch name {
	case LoaderBIOS, LoaderUEFI, LoaderUEFIAll:
		f, ok := t.files.find(name)
		return f.reader(), ok
	case FileAutoexec:
		script := autoexecScript(netip.AddrPortFrom(t.link.addr, uint16(t.bootPort)))
		return io.NewSectionReader(strings.NewReader(script), 0, int64(len(script))), true
	}
	return nil, false
}

// serve answers on conn until ctx ends. The library serves what take allows.
func (t *tftpServer) serve(ctx context.Context, conn *net.UDPConn) error {
	pc := ipv4.NewPacketConn(conn)
	if err := pc.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return fmt.Errorf("TFTP on %s: %w", t.link.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	door := newTFTPDoor(conn.LocalAddr())
	library := tftp.NewServer(door.read, nil)
	library.EnableSinglePort()
	library.SetBlockSize(tftpBlock)
	library.SetBlockSizeNegotiation(false) // it takes a socket that is not the kernel's for one of 512 bytes
	library.SetTimeout(tftpTimeout)
	library.SetRetries(math.MaxInt) // the door counts
	library.SetBackoff(func(int) time.Duration { return 0 })
	served := make(chan error, 1)
	go func() { served <- library.Serve(door) }()

	transfers, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var wg sync.WaitGroup
	err := t.listen(ctx, pc, func(req tftpRequest, file *io.SectionReader, from netip.AddrPort) {
		wg.Go(func() { t.transfer(transfers, door, req, file, from) })
	})
	drain := time.AfterFunc(tftpDrain, cut)
	wg.Wait()
	drain.Stop()
	library.Shutdown() // it has no transfer any more, so it ends at once
	return errors.Join(err, <-served)
}

// listen hears requests until ctx ends, and begins what is allowed.
func (t *tftpServer) listen(ctx context.Context, pc *ipv4.PacketConn, begin func(tftpRequest, *io.SectionReader, netip.AddrPort)) error {
	buf := make([]byte, tftpLargest+1)
	for {
		n, cm, src, err := pc.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("TFTP on %s: %w", t.link.Name, err)
		}
		from, err := netip.ParseAddrPort(src.String())
		// A request to everybody is another server's matter too (RFC 1123 section 4.2.3.5).
		if err != nil || n > tftpLargest || cm == nil || !cm.Dst.Equal(t.link.addr.AsSlice()) {
			t.stats.add("tftp.refused.malformed")
			continue
		}
		if !t.mayAsk(from.Addr()) {
			t.stats.add("tftp.refused.too often")
			continue
		}
		req, file, err := t.take(buf[:n], from.Addr())
		if fault := new(tftpFault); errors.As(err, fault) {
			if !fault.silent {
				// Nobody waits for it: the client asks again, or gives up.
				_, _ = pc.WriteTo(fault.packet(), &ipv4.ControlMessage{Src: t.link.addr.AsSlice()}, src)
			}
			continue
		}
		begin(req, file, from)
	}
}

// take decides on a packet. A transfer that is allowed is counted.
func (t *tftpServer) take(b []byte, from netip.Addr) (tftpRequest, *io.SectionReader, error) {
	req, err := parseTFTP(b, tftpBlock)
	switch {
	case errors.Is(err, errTFTPMalformed):
		t.stats.add("tftp.refused.malformed")
	case errors.Is(err, errTFTPNoWrites):
		t.stats.add("tftp.refused.write")
	case err != nil:
		t.stats.add("tftp.refused.not spoken")
	}
	if err != nil {
		return req, nil, err
	}
	file, ok := t.find(req.name)
	if !ok {
		t.stats.add("tftp.refused.no such file")
		t.tellMissing(from, req.name)
		t.log.Debug("unknown file asked for over TFTP", "from", from, "file", clip(req.name))
		return req, nil, errTFTPNoFile
	}
	if !t.begin(from) {
		t.stats.add("tftp.refused.too many")
		return req, nil, errTFTPTooMany
	}
	return req, file, nil
}

// transfer lets the library send a file from a port of its own.
func (t *tftpServer) transfer(ctx context.Context, door *tftpDoor, req tftpRequest, file *io.SectionReader, from netip.AddrPort) {
	defer t.end(from.Addr())
	ctx, cancel := context.WithTimeout(ctx, tftpLongest)
	defer cancel()
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.link.addr, 0)), Control: t.bind}
	conn, err := dialer.DialContext(ctx, "udp4", from.String())
	if err != nil {
		t.stats.add("tftp.failed")
		t.log.Warn("TFTP transfer failed", "from", from, "file", req.name, "err", err)
		return
	}
	t.tellAsked(from.Addr(), req, file.Size())
	sent, err := door.carry(ctx, conn, req, file)
	name := strings.TrimLeft(req.name, "/")
	switch {
	case err == nil:
		t.stats.add("tftp.sent")
		t.tellSent(from.Addr(), req, file.Size(), sent, "")
	case sent == 0 && errors.Is(err, errTFTPHungUp):
		// EDK2 asks for the size first and hangs up when it has it; the same
		// file is asked for again at once. Not a failure.
		t.stats.add("tftp.probe")
		t.log.Debug("TFTP size probe", "from", from, "file", name)
	case errors.Is(err, errTFTPPanic):
		t.stats.add("tftp.panic")
		t.log.Error("a TFTP transfer caused a panic; it was ended", "from", from, "file", name, "err", err)
	default:
		t.stats.add("tftp.failed")
		t.log.Warn("TFTP transfer failed", "from", from, "file", name, "bytes", sent, "err", err)
		t.tellSent(from.Addr(), req, file.Size(), sent, endOf(err))
	}
}

// bind keeps a transfer on the link it was asked for on.
func (t *tftpServer) bind(_, _ string, raw syscall.RawConn) error {
	var err error
	ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, t.link.Name)
	})
	return errors.Join(ctlErr, err)
}

// mayAsk counts the requests of an address. What is forgotten with every second
// is no more than came in it.
func (t *tftpServer) mayAsk(from netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.now().Unix(); now != t.second || t.asked == nil {
		t.second, t.asked = now, map[netip.Addr]int{}
	}
	t.asked[from]++
	return t.asked[from] <= requestsEach
}

func (t *tftpServer) begin(from netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total >= transfersOverall || t.running[from] >= transfersEach {
		return false
	}
	if t.running == nil {
		t.running = make(map[netip.Addr]int)
	}
	t.running[from]++
	t.total++
	return true
}

func (t *tftpServer) end(from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.running[from]--; t.running[from] == 0 {
		delete(t.running, from)
	}
}
