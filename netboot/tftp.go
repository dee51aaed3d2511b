package netboot

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"time"
)

const (
	transfersEach    = 8 // at once, by one address
	transfersOverall = 1024
	requestsEach     = 20               // in a second, by one address
	tftpNarrow       = 10 * time.Minute // for one that long blocks do not reach
)

// tftpServer serves the loaders of one link. Reading is all it can do, and
// names are looked up in a table: there is no path to walk out of.
type tftpServer struct {
	link       link
	bootPort   int
	singlePort bool // replies leave from the port that requests come to
	files      *Files
	scripts    *scripts
	loaders    *loaders
	complaints *pace
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time

	// What is below belongs to the one goroutine that serves.
	running map[netip.Addr]int
	total   int
	second  int64 // which one asked counts
	asked   map[netip.Addr]int
	narrow  map[netip.Addr]time.Time
}

// find is the whole of what TFTP can give.
func (t *tftpServer) find(name string, from netip.Addr) (*io.SectionReader, bool) {
	node := t.node()
	name = strings.TrimLeft(name, "/")
	switch {
	case name == LoaderBIOS, name == LoaderUEFI, name == LoaderUEFIAll, name == LoaderShim, name == LoaderGRUB:
		f, ok := t.files.find(name)
		return f.reader(), ok
	case name == FileAutoexec:
		return ofText(autoexecScript(node)), true
	case asksGRUB(name):
		return ofText(t.scripts.begin(grub{}, node, from)), true
	case name == FileKernel, name == FileInitrd: // GRUB has no other way to fetch them
		f, ok := t.files.find(name)
		return f.reader(), ok
	}
	if ask, ok := (grub{}).asks(name); ok && t.scripts.paths.formed(ask.path) {
		ask.node, ask.from = node, from
		script, served, ok := t.scripts.of(context.Background(), grub{}, ask)
		if !ok {
			return nil, false
		}
		if served != nil {
			go served() // this one goroutine serves everybody
		}
		return ofText(script), true
	}
	return nil, false
}

// node is where machines on the link reach this one.
func (t *tftpServer) node() netip.AddrPort {
	return netip.AddrPortFrom(t.link.addr, uint16(t.bootPort))
}

func ofText(s string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(s), 0, int64(len(s)))
}

// take decides on a packet: what it asks for and whether there is such a file.
func (t *tftpServer) take(b []byte, from netip.Addr) (tftpRequest, *io.SectionReader, error) {
	req, err := parseTFTP(b)
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
	file, ok := t.find(req.name, from)
	if !ok {
		t.stats.add("tftp.refused.no such file")
		t.tellMissing(from, req.name)
		t.log.Debug("unknown file asked for over TFTP", "from", from, "file", clip(hidePath(req.name)))
		return req, nil, errTFTPNoFile
	}
	return req, file, nil
}

// largest is the longest block for a client on a link whose packets may be mtu long.
func (t *tftpServer) largest(mtu int, to netip.Addr, now time.Time) int {
	if until, ok := t.narrow[to]; ok && now.Before(until) {
		return tftpPlain
	}
	return max(min(tftpBlock, mtu-tftpHeaders), tftpPlain)
}

// shorten remembers that blocks longer than any client has to take do not reach this one.
func (t *tftpServer) shorten(to netip.Addr, now time.Time) {
	maps.DeleteFunc(t.narrow, func(_ netip.Addr, until time.Time) bool { return now.After(until) })
	if t.narrow == nil {
		t.narrow = make(map[netip.Addr]time.Time)
	}
	t.narrow[to] = now.Add(tftpNarrow)
}

// over says how a transfer went.
func (t *tftpServer) over(x *tftpTransfer, why error) {
	from := x.client.Addr()
	how := x.report(why)
	about := []any{"from", x.client, "file", how.File, "blocks", how.Blocks, "block", how.Block, "window", how.Window}
	switch how.End {
	case TFTPSent:
		t.stats.add("tftp.sent")
		t.loaders.fetched(t.sightings.holder(from), how.File, t.now())
	case TFTPProbe:
		t.stats.add("tftp.probe")
		t.log.Debug("TFTP size probe", about...)
		return
	case TFTPPanic:
		t.stats.add("tftp.panic")
		t.log.Error("a TFTP transfer caused a panic; it was ended", append(about, "err", why)...)
	default:
		t.stats.add("tftp.failed")
		t.warnFailed(append(about, "err", why)...)
		if how.Oversized() {
			t.shorten(from, time.Now())
		}
	}
	t.tellStep(from, how.sighting())
}

// warnFailed says in the log that a transfer failed, if not too many did: nobody has to
// be there for one to begin, and the counters and timelines tell of all.
func (t *tftpServer) warnFailed(about ...any) {
	if t.complaints.mayComplain(t.now()) {
		t.log.Warn("TFTP transfer failed", about...)
	}
}

// mayAsk counts the requests of an address. What is forgotten with every second
// is no more than came in it.
func (t *tftpServer) mayAsk(from netip.Addr) bool {
	if now := t.now().Unix(); now != t.second || t.asked == nil {
		t.second, t.asked = now, map[netip.Addr]int{}
	}
	t.asked[from]++
	return t.asked[from] <= requestsEach
}

func (t *tftpServer) begin(from netip.Addr) bool {
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
	t.total--
	if t.running[from]--; t.running[from] == 0 {
		delete(t.running, from)
	}
}
