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

// find is the whole of what TFTP can give. served, if it is given, is to be called when
// the machine has the file.
func (t *tftpServer) find(name string, from netip.Addr) (file *io.SectionReader, served func(), ok bool) {
	name = strings.TrimLeft(name, "/")
	switch name {
	case LoaderBIOS, LoaderUEFI, LoaderUEFIAll, LoaderShim, LoaderGRUB, LoaderShimARM64, LoaderGRUBARM64,
		FileKernel, FileInitrd, FileKernelARM64, FileInitrdARM64: // these for GRUB, which has no HTTP
		f, ok := t.files.find(name)
		if !ok {
			return nil, nil, false
		}
		return f.reader(), nil, true
	case FileAutoexec:
		return ofText(autoexecScript(t.node())), nil, true
	case grubFirst, grubFirstARM64, grubOther:
		return ofText(grubLoop(t.link.addr)), nil, true
	case grubBegin:
		return ofText(t.scripts.begin(grub{}, t.node(), from)), nil, true
	}
	if ask, ok := (grub{}).asks(name); ok && t.scripts.paths.formed(ask.path) {
		ask.node, ask.from = t.node(), from
		script, served, ok := t.scripts.of(context.Background(), grub{}, ask)
		return ofText(script), served, ok
	}
	return nil, nil, false
}

// node is where machines on the link reach this one.
func (t *tftpServer) node() netip.AddrPort {
	return netip.AddrPortFrom(t.link.addr, uint16(t.bootPort))
}

func ofText(s string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(s), 0, int64(len(s)))
}

// take looks for what is asked for.
func (t *tftpServer) take(req tftpRequest, from netip.Addr) (*io.SectionReader, func(), error) {
	file, served, ok := t.find(req.name, from)
	if !ok {
		t.stats.add("tftp.refused.no such file")
		t.tellMissing(from, req.name)
		t.log.Debug("unknown file asked for over TFTP", "from", from, "file", clip(hidePath(req.name)))
		return nil, nil, errTFTPNoFile
	}
	return file, served, nil
}

// read takes a request apart.
func (t *tftpServer) read(b []byte) (tftpRequest, error) {
	req, err := parseTFTP(b)
	switch {
	case errors.Is(err, errTFTPMalformed):
		t.stats.add("tftp.refused.malformed")
	case errors.Is(err, errTFTPNoWrites):
		t.stats.add("tftp.refused.write")
	case err != nil:
		t.stats.add("tftp.refused.not spoken")
	}
	return req, err
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
		if x.served != nil {
			go x.served() // this one goroutine serves everybody
		}
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
