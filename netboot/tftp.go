package netboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
)

const (
	// 1468 is the largest block that fits an Ethernet frame with the IP, UDP
	// and TFTP headers; the library's own limit forgets the last and fragments.
	tftpBlock        = 1468
	tftpTimeout      = time.Second
	tftpRetries      = 5
	tftpDrain        = 2 * time.Second // for transfers under way when the node stops
	transfersEach    = 8               // at once, by one address
	transfersOverall = 1024
)

// The only things a client is told when it gets no file.
var (
	errNoSuchFile = errors.New("file not found")
	errTooMany    = errors.New("too many transfers")
	errInternal   = errors.New("internal error")
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

// serve answers on conn until ctx ends.
func (t *tftpServer) serve(ctx context.Context, conn *net.UDPConn) error {
	s := tftp.NewServer(t.read, nil)
	s.SetBlockSize(tftpBlock)
	s.SetTimeout(tftpTimeout)
	s.SetRetries(tftpRetries)
	s.SetBackoff(func(int) time.Duration { return 0 })
	done := make(chan error, 1)
	go func() { done <- s.Serve(conn) }()
	select {
	case err := <-done:
		return fmt.Errorf("TFTP on %s: %w", t.link.Name, err)
	case <-ctx.Done():
	}
	drained := make(chan struct{})
	go func() { s.Shutdown(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(tftpDrain):
		// The library waits for clients that have gone; their sockets go with
		// the process.
	}
	return nil
}

// read is called for each read request. Whatever it returns is sent to the
// client as the text of an error, so it returns only the three above.
func (t *tftpServer) read(name string, rf io.ReaderFrom) (err error) {
	from := remote(rf)
	defer func() {
		if p := recover(); p != nil {
			t.stats.add("tftp.panic")
			t.log.Error("a TFTP transfer caused a panic; it was ended", "from", from, "file", clip(name), "panic", p, "stack", string(debug.Stack()))
			err = errInternal
		}
	}()
	if !t.begin(from) {
		t.stats.add("tftp.refused.too many")
		return errTooMany
	}
	defer t.end(from)
	file, ok := t.find(name)
	if !ok {
		t.stats.add("tftp.refused.no such file")
		t.log.Debug("unknown file asked for over TFTP", "from", from, "file", clip(name))
		return errNoSuchFile
	}
	if out, ok := rf.(tftp.OutgoingTransfer); ok {
		out.SetSize(file.Size())
	}
	n, err := rf.ReadFrom(file)
	switch {
	case err == nil:
		t.stats.add("tftp.sent")
		t.tell(from, fmt.Sprintf("fetched %s over TFTP (%d bytes)", strings.TrimLeft(name, "/"), n))
		return nil
	case n == 0 && strings.Contains(err.Error(), "sending block 0: code="):
		// EDK2 asks for the size first and hangs up when it has it; the same
		// file is asked for again at once. Not a failure.
		t.stats.add("tftp.probe")
		t.log.Debug("TFTP size probe", "from", from, "file", name)
		return nil
	}
	t.stats.add("tftp.failed")
	t.log.Warn("TFTP transfer failed", "from", from, "file", name, "bytes", n, "err", err)
	t.tell(from, fmt.Sprintf("stopped fetching %s over TFTP after %d bytes", strings.TrimLeft(name, "/"), n))
	return nil // the library has sent its error already
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

func (t *tftpServer) tell(from netip.Addr, text string) {
	t.sightings.Add(Sighting{At: t.now(), MAC: t.sightings.holder(from), Kind: KindTFTP, Addr: from, Text: text})
}

// remote is the client of a transfer.
func remote(rf io.ReaderFrom) netip.Addr {
	out, ok := rf.(tftp.OutgoingTransfer)
	if !ok {
		return netip.Addr{}
	}
	addr := out.RemoteAddr()
	return addr.AddrPort().Addr().Unmap()
}
