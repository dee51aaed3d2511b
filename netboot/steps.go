package netboot

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// What each part of netboot has seen, as a sentence and as a step.

// tellLease tells a step of DHCP about an address; file is what the machine was told to load.
func (r *responder) tellLease(req request, step Step, addr netip.Addr, file, text string) {
	if step == StepAck {
		req.client = addr // it is its own from now on
	}
	r.tellStep(req, step, file, text)
}

// tellStep tells a step of DHCP. file is what the machine was told to load.
func (r *responder) tellStep(req request, step Step, file, text string) {
	fw := req.machine.Firmware
	sg := Sighting{At: r.now(), MAC: req.machine.MAC, Kind: KindDHCP, Addr: req.client, Text: text,
		Step: step, Stage: fw.Stage, Platform: fw.Platform, UUID: req.machine.sameUUID(), File: file}
	if file == "" && fw.Netboots() && fw.Stage != StageIPXE && r.loader(fw) == "" {
		sg.End, sg.Firmware = EndNoLoader, fw.String()
	}
	r.sightings.Add(sg)
}

// noAddress leaves a DISCOVER unanswered because there is nothing to offer.
func (r *responder) noAddress(req request) (reply, bool) {
	if r.mayComplain() {
		r.log.Warn("DHCP request not answered: no address is left", "interface", r.link.Name, "mac", req.machine.MAC, "range", r.lendsFrom())
	}
	fw := req.machine.Firmware
	r.sightings.Add(Sighting{At: r.now(), MAC: req.machine.MAC, Kind: KindDHCP, Text: "asked for an address, but none is left in " + r.lendsFrom(),
		Step: StepDiscover, Stage: fw.Stage, Platform: fw.Platform, UUID: req.machine.sameUUID(), End: EndNoAddress})
	return r.drop(req, "no address left", "")
}

// tellElsewhere tells that a machine which netboots took another server's address.
// Another node's is as good as ours.
func (r *responder) tellElsewhere(req request) {
	if fw := req.machine.Firmware; fw.Netboots() && !slices.Contains(nodeAddrs(r.neighbours), req.serverID) {
		r.sightings.Add(Sighting{At: r.now(), MAC: req.machine.MAC, Kind: KindDHCP, Text: "took the address that " + req.serverID.String() + " offered it",
			Step: StepElsewhere, Stage: fw.Stage, Platform: fw.Platform, UUID: req.machine.sameUUID(), Server: req.serverID})
	}
}

func proxyStep(kind dhcpv4.MessageType) Step {
	if kind == dhcpv4.MessageTypeOffer {
		return StepProxy
	}
	return StepProxyAck
}

// tellMissing tells that a machine asked for a file that is not here, unless it only
// looks whether there is one.
func (t *tftpServer) tellMissing(from netip.Addr, name string) {
	name = clip(hidePath(strings.TrimLeft(name, "/")))
	if !onlyLooks(name) {
		t.tellStep(from, Sighting{Step: StepMissing, File: name, Text: "asked for " + name + " over TFTP, which is not here"})
	}
}

// onlyLooks says whether a file is one that shim, GRUB and U-Boot do without, or that is
// not to be there.
func onlyLooks(name string) bool {
	name = strings.TrimPrefix(strings.TrimLeft(name, "/"), "boot/")
	return name == LoaderNone || name == "boot.scr.uimg" || strings.HasPrefix(name, "dtb/") || strings.HasPrefix(name, "revocations") || strings.HasPrefix(name, "shim_certificate") ||
		(strings.HasPrefix(name, "grub/x86_64-efi/") || strings.HasPrefix(name, "grub/arm64-efi/")) && strings.HasSuffix(name, ".lst")
}

// tellAsked tells that a transfer begins.
func (t *tftpServer) tellAsked(x *tftpTransfer) {
	sg := Sighting{Step: StepAsked, File: tftpTold(x.req.name), Size: x.file.Size(), Block: x.block}
	sg.Text = fmt.Sprintf("asks for %s over TFTP, in blocks of %d bytes", sg.File, sg.Block)
	t.tellStep(x.client.Addr(), sg)
}

// sighting is a transfer that is over as others are to know of it.
func (x TFTPTransfer) sighting() Sighting {
	sg := Sighting{Step: StepStopped, End: EndSilent, File: x.File, Bytes: x.Bytes, Size: x.Size, Block: x.Block, Text: x.String(), TFTP: &x}
	switch {
	case x.End == TFTPSent:
		sg.Step, sg.End = StepServed, ""
	case x.End == TFTPHungUp:
		sg.End = EndHungUp
	case !x.Answered:
		sg.End = EndUnheard
	}
	return sg
}

func (t *tftpServer) tellStep(from netip.Addr, sg Sighting) {
	sg.At, sg.MAC, sg.Kind, sg.Addr = t.now(), t.sightings.holder(from), KindTFTP, from
	t.sightings.Add(sg)
}

// tellMissing tells that a machine asked for a file that is not here.
func (h *bootHTTP) tellMissing(from netip.Addr, name string) {
	name = clip(hidePath(strings.TrimLeft(name, "/")))
	if onlyLooks(name) {
		return
	}
	h.sightings.Add(Sighting{At: h.now(), MAC: h.sightings.holder(from), Kind: KindHTTP, Addr: from, Step: StepMissing, File: name,
		Text: "asked for " + name + " over HTTP, which is not here"})
}

// watched serves a boot file with HTTP and tells of it, if it is known who asks. A
// machine that reads a file in ranges is told of once for each.
func (h *bootHTTP) watched(w http.ResponseWriter, r *http.Request, name, waited string, size int64, serve func(http.ResponseWriter)) {
	from := peer(r)
	mac := h.sightings.holder(from)
	if mac == "" || r.Method != http.MethodGet {
		serve(w)
		return
	}
	sg := Sighting{MAC: mac, Kind: KindHTTP, Addr: from, File: strings.TrimLeft(name, "/"), Size: size}
	sg.At, sg.Step, sg.Text = h.now(), StepAsked, "fetches "+sg.File+" over HTTP"+waited
	h.sightings.Add(sg)
	counted := &countedWriter{ResponseWriter: w}
	serve(counted)
	sg.At, sg.Bytes = h.now(), counted.n
	switch {
	case counted.status == http.StatusNotModified || counted.status >= 400:
		return
	case counted.n < counted.whole(size):
		sg.Step, sg.End = StepStopped, EndHungUp
		sg.Text = fmt.Sprintf("stopped fetching %s over HTTP after %d bytes", sg.File, counted.n)
	default:
		sg.Step = StepServed
		sg.Text = fmt.Sprintf("fetched %s over HTTP (%d bytes)", sg.File, counted.n)
	}
	h.sightings.Add(sg)
}

// countedWriter counts the bytes of an answer that left. Files are handed on whole,
// so that what can be copied quickly still is.
type countedWriter struct {
	http.ResponseWriter
	status int
	n      int64
}

func (c *countedWriter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *countedWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (c *countedWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *countedWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// whole is how many bytes the answer has, by its own header.
func (c *countedWriter) whole(size int64) int64 {
	if n, err := strconv.ParseInt(c.Header().Get("Content-Length"), 10, 64); err == nil {
		return n
	}
	return size
}
