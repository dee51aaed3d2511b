package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// responder answers the DHCP packets of one link. It holds no socket: bytes in,
// at most one reply out, which is why the same tests can run it on a wire and
// without one.
type responder struct {
	link       link   // the network that is answered for
	networks   []link // all of the interface
	bootPort   int
	paths      paths
	bound      *bound
	leases     *Leases
	fleet      Fleet
	reserved   *reserving
	neighbours Neighbours // nil: this node is alone
	files      *Files
	loaders    *loaders
	uefiLoader UEFILoader
	tries      *tries
	strangers  *bucket // DISCOVERs of machines nobody knows
	complaints *pace   // lines of the log that a packet can cause
	shortages  *shortages
	quiet      func() string                                            // why nothing is lent to new machines; empty: it is. nil: always
	probe      func(ctx context.Context, addr netip.Addr) (card string) // who uses an address; nil: nobody is asked
	echo       func(ctx context.Context, addr netip.Addr) (who string)  // the same of one behind relays
	waiting    *arpWaiting                                              // DISCOVERs that wait for that
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time
}

// answer decides on a request, and waits until the answer may be sent.
func (r *responder) answer(ctx context.Context, req request) (reply, bool) {
	out, ok := r.decide(ctx, req)
	return out.wait(ok)
}

// decide is the server's half of RFC 2131: which packet, if any, answers req. It does
// not wait for anything but what is in memory, except for a RELEASE.
func (r *responder) decide(ctx context.Context, req request) (reply, bool) {
	r.reserved.saw(req.machine)
	r, known := r.of(req)
	if !known || r.foreign(req) {
		return r.drop(req, "another network", "")
	}
	if req.kind != dhcpv4.MessageTypeDiscover {
		r.netboots(req)
	}
	switch req.kind {
	case dhcpv4.MessageTypeDiscover:
		return r.discover(ctx, req)
	case dhcpv4.MessageTypeRequest:
		return r.request(ctx, req)
	case dhcpv4.MessageTypeInform:
		return r.inform(ctx, req)
	case dhcpv4.MessageTypeDecline:
		return r.decline(req)
	case dhcpv4.MessageTypeRelease:
		return r.release(req)
	}
	return r.drop(req, "message type", "")
}

// netboots notes a machine that boots from the network.
func (r *responder) netboots(req request) {
	if req.machine.Firmware.Netboots() {
		r.sightings.netboots(req.machine.MAC, r.now())
	}
}

// foreign reports whether a packet is of a network that is not served here. The
// answer would go wherever the packet says, and so to anybody's victim. A probe of
// another node, too, is nothing to be answered (see rogue.go).
func (r *responder) foreign(req request) bool {
	if req.client.IsValid() && !r.link.subnet.Contains(req.client) {
		// Who renews an address of another network is told so, by a NAK to everybody.
		return req.kind != dhcpv4.MessageTypeRequest || req.serverID.IsValid()
	}
	from := req.from.Addr()
	return req.kind == dhcpv4.MessageTypeDiscover && from.IsValid() && !from.IsUnspecified() && slices.Contains(nodeAddrs(r.neighbours), from)
}

// When the power of a room full of racks comes back, all of its machines ask at once,
// and a firmware that is not answered waits for four seconds, and then for eight. So
// many DISCOVERs of unknown machines are looked at in one go, and when those are spent
// so many in a second.
const (
	strangersAtOnce = 2000
	strangersEach   = 200
)

// stranger reports whether nobody knows the machine: the fleet has no address for it,
// and it has come to no lease here, which made-up machines do not get for a packet. A
// lease that cannot be lent on does not count: else one card that has declined its own
// could ask without end.
func (r *responder) stranger(mac string) bool {
	_, known := r.fixed(mac)
	return !known && !r.holds(mac)
}

// complaintsEach is how many lines in ten seconds the packets of a link may cause.
const complaintsEach = 20

func (r *responder) mayComplain() bool {
	return r.complaints.allow(r.now(), 10*time.Second, complaintsEach)
}

// discover offers an address. Nothing is written: an offer that is lost is
// asked for again.
func (r *responder) discover(ctx context.Context, req request) (reply, bool) {
	r.stats.add("dhcp.discover")
	_, known := r.fixed(req.machine.MAC)
	stranger := r.stranger(req.machine.MAC)
	if stranger && !r.strangers.allow(r.now()) {
		// Made-up machines cost nothing to send. Those that are known are answered.
		return r.drop(req, "too many strangers", "")
	}
	r.netboots(req) // and not before, or they would push out what is remembered of others
	if r.leave(req) {
		return r.drop(req, "left to another node", "")
	}
	if why := r.silent(); why != "" && stranger && !r.past(req) {
		return r.quieted(req, why)
	}
	if r.prober(req) == nil || known {
		return r.offer(ctx, req, stranger)
	}
	return reply{later: func(ready func(finish)) {
		go ready(func() (reply, bool) { return r.offer(ctx, req, stranger) })
	}}, true
}

// offer finds an address for a DISCOVER, which may take a question on the wire.
func (r *responder) offer(ctx context.Context, req request, stranger bool) (reply, bool) {
	_, known := r.fixed(req.machine.MAC)
	if stranger && r.prober(req) != nil {
		first, room := r.waiting.enter(req.machine.MAC)
		if !first {
			return r.drop(req, "asks again while it waits", "")
		}
		defer r.waiting.leave(req.machine.MAC)
		if !room {
			r.stats.add("arp.not asked")
			r = r.at(r.link)
			r.probe, r.echo = nil, nil
		}
	}
	addr, ok := r.unused(ctx, req)
	if !ok && !req.relay.IsValid() {
		// Another network of the same wire does as well.
		for _, n := range r.onWire() {
			if other := r.at(n); n.subnet != r.link.subnet && !known {
				if addr, ok = other.unused(ctx, req); ok {
					r = other
					break
				}
			}
		}
	}
	if !ok {
		r.shortages.note(r.link.subnet, r.now(), r.shortage)
		return r.noAddress(req)
	}
	if !known {
		r.shortages.over(r.link.subnet)
	}
	return r.lease(ctx, req, dhcpv4.MessageTypeOffer, addr), true
}

// silent says why new machines are not lent anything.
func (r *responder) silent() string {
	if r.quiet == nil {
		return ""
	}
	return r.quiet()
}

// holds reports whether the machine has a running lease of this node's, which it can
// be offered again.
func (r *responder) holds(mac string) bool { return r.leases.Holds(mac, r.terms()) }

// quieted leaves a new machine without an answer and says so on its timeline.
func (r *responder) quieted(req request, why string) (reply, bool) {
	r.tell(req, "asked for an address as "+req.machine.Firmware.String()+" and was not answered: "+why)
	return r.drop(req, "beside another server", "")
}

// request tells the four states of a REQUEST apart by which fields are set
// (RFC 2131 section 4.3.2) and answers them.
func (r *responder) request(ctx context.Context, req request) (reply, bool) {
	r.stats.add("dhcp.request")
	mac := req.machine.MAC
	switch {
	case req.serverID.IsValid() && !r.ours(req, req.serverID):
		// It took another server's offer. A NAK here would make it lose that. Nor is there
		// one for a node of the cluster that is known to be dead, although RFC 2131 lets the
		// client begin anew then (section 3.1, step 4): EDK2 ends its boot at a NAK, where it
		// would have asked for a minute in which a node that was started anew answers; the
		// iPXE that is served here knows none; and the agent begins anew by itself after 6 s,
		// which is hardly later than a node is known to be dead. An ACK is out of the
		// question: the other may be alive after all, and lend the address to somebody else.
		r.tries.forget(req.who())
		r.tellElsewhere(req)
		return r.drop(req, "other server", "")

	case req.serverID.IsValid(): // selecting
		want := req.requested
		if !want.IsValid() {
			want = req.client
		}
		return r.grant(ctx, req, want)

	case req.requested.IsValid() && !req.client.IsValid(): // init-reboot
		if !r.link.subnet.Contains(req.requested) {
			if r.silent() != "" && !r.past(req) {
				return r.drop(req, "unknown client", "") // the other server's, which may well serve that network here
			}
			return r.nak(req, "that address is of another network"), true
		}
		have, known := r.binding(mac)
		if !known || have != req.requested && !r.judges(mac, req.requested) {
			// Perhaps another server's client: RFC 2131 wants silence.
			return r.drop(req, "unknown client", "")
		}
		if have != req.requested {
			return r.nak(req, "that address is not yours here"), true
		}
		return r.renew(ctx, req, have)

	case req.client.IsValid(): // renewing (to us alone) or rebinding (to everybody)
		have, known := r.binding(mac)
		if !req.unicast && (!known || have != req.client && !r.judges(mac, req.client)) {
			return r.drop(req, "unknown client", "")
		}
		if !known || have != req.client {
			return r.nak(req, "that address is not yours here"), true
		}
		return r.renew(ctx, req, have)
	}
	return r.drop(req, "request without address", "")
}

// grant lends addr for real. The acknowledgement leaves only when the lease is
// on disk: one that is forgotten in a power cut is an address given twice.
func (r *responder) grant(ctx context.Context, req request, addr netip.Addr) (reply, bool) {
	mac := req.machine.MAC
	if fixed, ok := r.fixed(mac); ok {
		if fixed != addr {
			return r.nak(req, "another address is kept for you"), true
		}
		return r.lease(ctx, req, dhcpv4.MessageTypeAck, addr), true
	}
	if !addr.IsValid() {
		return r.nak(req, "that address is not to be had"), true
	}
	return r.commit(ctx, req, addr, func(err error) (reply, bool) {
		if errors.Is(err, errAddressHeld) {
			return r.nak(req, "that address is another machine's"), true
		}
		return r.nak(req, "that address is not to be had"), true
	})
}

// renew is grant for a machine that has the address. A node that may not lend it
// on, because it has not heard of the others for too long, leaves the machine the
// time it has: another node may answer it, and a NAK would take that away.
func (r *responder) renew(ctx context.Context, req request, addr netip.Addr) (reply, bool) {
	if _, ok := r.fixed(req.machine.MAC); ok {
		return r.lease(ctx, req, dhcpv4.MessageTypeAck, addr), true
	}
	return r.commit(ctx, req, addr, func(err error) (reply, bool) {
		if errors.Is(err, errAddressHeld) {
			return r.nak(req, "that address is another machine's"), true
		}
		return r.drop(req, "not this node's to lend", "")
	})
}

// commit lends addr and acknowledges it when that is on disk. What may not be lent is
// refused.
func (r *responder) commit(ctx context.Context, req request, addr netip.Addr, refuse func(error) (reply, bool)) (reply, bool) {
	until := r.now().Add(req.leaseTime(leaseFor(req.machine.Firmware)))
	return reply{later: func(ready func(finish)) {
		r.leases.lend(req.machine.MAC, addr, until, r.terms(), func(new lent, err error) {
			ready(func() (reply, bool) {
				if err != nil {
					return r.notLent(req, addr, err, refuse)
				}
				if new.offered {
					r.strangers.giveBack() // it was none that somebody made up for a packet
				}
				return r.lease(ctx, req, dhcpv4.MessageTypeAck, addr), true
			})
		})
	}}, true
}

// notLent refuses what may not be lent. What could not be written down is left unanswered.
func (r *responder) notLent(req request, addr netip.Addr, err error, refuse func(error) (reply, bool)) (reply, bool) {
	if r.mayComplain() {
		r.log.Warn("address not lent", "interface", r.link.Name, "mac", req.machine.MAC, "addr", addr, "err", err)
	}
	if errors.Is(err, errAddressHeld) || errors.Is(err, errNotLent) {
		return refuse(err)
	}
	return r.drop(req, "lease not stored", "")
}

// inform answers a client that has an address from elsewhere and wants only
// the rest: no address, no lease.
func (r *responder) inform(ctx context.Context, req request) (reply, bool) {
	r.stats.add("dhcp.inform")
	if !req.client.IsValid() {
		return r.drop(req, "inform without address", "")
	}
	p := newReply(req, dhcpv4.MessageTypeAck, r.link.addr)
	p.ClientIPAddr = req.client.AsSlice()
	describe(p, req, r.link)
	// The answer goes where the packet says. The path of a machine's script goes to
	// that machine alone; loaders are anybody's.
	if req.machine.Firmware.Stage != StageIPXE || r.has(req.machine.MAC, req.client) {
		if file, _ := r.bootFile(ctx, req, req.client); file != "" {
			bootFrom(p, req, r.link.addr, file)
		}
	}
	r.stats.add("dhcp.ack")
	return r.finish(req, p, dhcpv4.MessageTypeAck, netip.Addr{}), true
}

// decline: the client found the address in use. Never answered.
func (r *responder) decline(req request) (reply, bool) {
	r.stats.add("dhcp.decline")
	if !r.ours(req, req.serverID) || !r.leases.Decline(req.machine.MAC, req.requested) {
		return r.drop(req, "decline not ours", "")
	}
	if r.mayComplain() {
		r.log.Warn("a machine found its address in use by another", "interface", r.link.Name, "mac", req.machine.MAC, "addr", req.requested)
	}
	r.tell(req, "declined "+req.requested.String()+" because somebody else uses it")
	return reply{}, false
}

// release: the client gives the address back. Never answered.
func (r *responder) release(req request) (reply, bool) {
	r.stats.add("dhcp.release")
	if !r.ours(req, req.serverID) {
		return r.drop(req, "release not ours", "")
	}
	ok, err := r.leases.Release(req.machine.MAC, req.client)
	if err != nil && r.mayComplain() {
		r.log.Warn("released address not stored", "interface", r.link.Name, "mac", req.machine.MAC, "err", err)
	}
	if !ok {
		return r.drop(req, "release not ours", "")
	}
	r.tell(req, "gave "+req.client.String()+" back")
	return reply{}, false
}

// lease builds an offer or acknowledgement of addr, with what to boot.
func (r *responder) lease(ctx context.Context, req request, kind dhcpv4.MessageType, addr netip.Addr) reply {
	p := newReply(req, kind, r.link.addr)
	lend(p, addr, req.leaseTime(leaseFor(req.machine.Firmware)))
	describe(p, req, r.link)
	if kind == dhcpv4.MessageTypeAck && req.client.IsValid() {
		p.ClientIPAddr = req.client.AsSlice()
	}
	file, note := r.bootFile(ctx, req, addr)
	if file != "" {
		bootFrom(p, req, r.link.addr, file)
		file = told(req, file)
		note = " and the boot file " + file
	}
	if req.machine.Firmware.Stage == StageIPXE {
		// 176 = no-pxedhcp: iPXE need not wait for proxyDHCP offers, which saves
		// every machine three seconds.
		p.Options[optIPXE] = []byte{176, 1, 1}
	}
	if kind == dhcpv4.MessageTypeOffer {
		r.stats.add("dhcp.offer")
		r.tellLease(req, StepOffer, addr, file, fmt.Sprintf("asked for an address as %s; was offered %s%s", req.machine.Firmware, addr, note))
	} else {
		r.stats.add("dhcp.ack")
		r.sightings.holds(req.machine.MAC, addr)
		r.tellLease(req, StepAck, addr, file, fmt.Sprintf("as %s, was lent %s%s", req.machine.Firmware, addr, note))
	}
	return r.finish(req, p, kind, addr)
}

// nak refuses an address the client believes in.
func (r *responder) nak(req request, why string) reply {
	r.stats.add("dhcp.nak")
	r.tellStep(req, StepRefused, "", "was refused its address: "+why)
	p := newReply(req, dhcpv4.MessageTypeNak, r.link.addr)
	p.Options[optMessageText] = []byte(why)
	if req.relay.IsValid() {
		p.SetBroadcast() // the relay must not send it to the address in doubt
	}
	return r.finish(req, p, dhcpv4.MessageTypeNak, netip.Addr{})
}

func (r *responder) finish(req request, p *dhcpv4.DHCPv4, kind dhcpv4.MessageType, addr netip.Addr) reply {
	return reply{packet: marshal(p, req.maxSize()), from: r.link.addr, to: addressReply(req, kind, addr)}
}

// bootFile is what the machine's firmware is given to boot; empty for systems
// and when there is nothing, then with a note for the timeline. addr is where the
// machine will ask from, if this node knows.
func (r *responder) bootFile(ctx context.Context, req request, addr netip.Addr) (file, note string) {
	fw := req.machine.Firmware
	if !fw.Netboots() {
		return "", ""
	}
	d := r.fleet.Decide(ctx, req.machine)
	action := d.Action
	if action == BootNothing {
		return "", " and nothing to boot"
	}
	loader := r.loader(fw)
	signed := r.signedOnly(req, d.SecureBoot)
	switch {
	case loader == LoaderGRUBARM64 && action != BootAgent && action != BootHold:
		return LoaderNone, "" // as for a machine that is given shim
	case signed && (fw.Stage == StageHTTP || action != BootAgent && action != BootHold):
		// What shim starts cannot leave the machine to its disk; its firmware can, and
		// does so at once when there is no such file. Without a name it asks for a minute.
		// GRUB in Debian 12 finds no network after HTTP boot, so that shim is of no use there.
		return r.where(req, LoaderNone), ""
	case signed:
		files, _ := agentFor(fw.CPU)
		loader = files.shim
	case loader == LoaderUEFI && r.uefiLoader == UEFILoaderDrivers:
		loader = LoaderUEFIAll
	}
	switch {
	case fw.Stage == StageIPXE:
		r.loaders.runs(req.machine.MAC)
		return bootURL(r.link.addr, r.bootPort, ipxe{}.name(r.paths.new(req.machine.MAC, addr))), ""
	case loader == "":
		r.stats.add("dhcp.no loader")
		if r.mayComplain() {
			r.log.Warn("no boot loader for this firmware", "mac", req.machine.MAC, "firmware", fw.String(), "arch", fw.ArchCode)
		}
		if fw.Loader() != "" {
			return "", " but no boot file, because this node was built without those for " + fw.CPU
		}
		return "", " but no boot file, because there is none for this architecture"
	}
	return r.where(req, loader), ""
}

// loader is the boot file for the firmware, or empty when this node has none.
func (r *responder) loader(fw Firmware) string {
	if fw.CPU == "arm64" && !(r.files.hasAgent(fw.CPU) && r.files.has(LoaderGRUBARM64)) {
		return ""
	}
	return fw.Loader()
}

// where is a loader as the machine's firmware wants to be told of it.
func (r *responder) where(req request, loader string) string {
	if req.machine.Firmware.Stage == StageHTTP {
		return bootURL(r.link.addr, r.bootPort, loader)
	}
	return loader
}

// signedOnly says whether the machine's firmware starts signed loaders alone; secure is
// whether its agent said so once.
func (r *responder) signedOnly(req request, secure bool) bool {
	fw := req.machine.Firmware
	files, ok := agentFor(fw.CPU)
	if !ok || fw.Platform != "uefi" || fw.Loader() == "" || !r.files.has(files.shim, files.grub) {
		return false
	}
	switch r.uefiLoader {
	case UEFILoaderShim:
		return true
	case UEFILoaderIPXE, UEFILoaderDrivers:
		return false
	}
	signed, vain := r.loaders.asks(req.machine.MAC, secure, r.now())
	if vain != "" {
		r.stats.add("dhcp.loader not started")
		r.tell(req, refused(vain))
	}
	return signed
}

// told is a boot file as people may read of it: the path of a boot is between a
// machine and its node.
func told(req request, file string) string {
	switch {
	case req.machine.Firmware.Stage == StageIPXE:
		return "script"
	case strings.HasSuffix(file, LoaderNone) && req.machine.Firmware.Stage == StageHTTP && req.machine.Firmware.CPU == "arm64":
		return file + ", which is none: arm64 machines start the agent by PXE only; its firmware goes on with its boot order"
	case strings.HasSuffix(file, LoaderNone):
		return file + ", which is none: its firmware goes on to its disk"
	}
	return file
}

// choose finds the address to offer.
func (r *responder) choose(req request) (netip.Addr, bool) {
	if fixed, ok := r.fixed(req.machine.MAC); ok {
		return fixed, true
	}
	return r.leases.Offer(req.machine.MAC, r.terms(), req.requested)
}

// terms are what this node may lend to strangers now: the whole range when it is
// alone, else its share.
func (r *responder) terms() Terms {
	now := r.now()
	t := Terms{From: []Range{r.link.Range}, Keeps: r.link.Range.Contains, Usable: r.available, Heard: now}
	if r.neighbours == nil {
		return t
	}
	share := r.neighbours.Share(r.link.subnet)
	if share.stale(now) {
		return Terms{Keeps: func(netip.Addr) bool { return false }, Usable: r.available}
	}
	return Terms{From: share.fresh(), Keeps: share.has, Usable: r.available, Heard: share.Heard}
}

// lendsFrom is where strangers' addresses come from, for people.
func (r *responder) lendsFrom() string {
	if r.neighbours == nil {
		return r.link.Range.String()
	}
	return "this node's part of " + r.link.Range.String()
}

// judges says whether this node may tell a machine that it has no right to addr:
// it may be another node's client. It may of its own addresses, and of what a
// known machine has, which every node knows.
func (r *responder) judges(mac string, addr netip.Addr) bool {
	if r.neighbours == nil {
		return true
	}
	_, known := r.fixed(mac)
	return known || r.neighbours.Share(r.link.subnet).has(addr)
}

// binding is the address the machine may believe it has: the fleet's, or the
// one in the book.
func (r *responder) binding(mac string) (netip.Addr, bool) {
	if fixed, ok := r.fixed(mac); ok {
		return fixed, true
	}
	lease, ok := r.leases.Of(mac)
	if !ok || !r.available(lease.Addr) {
		return netip.Addr{}, false
	}
	return lease.Addr, true
}

// has reports whether this node knows the machine to have addr now.
func (r *responder) has(mac string, addr netip.Addr) bool {
	if fixed, ok := r.fixed(mac); ok {
		return fixed == addr
	}
	lease, ok := r.leases.Of(mac)
	return ok && lease.Addr == addr && r.now().Before(lease.Until)
}

// fixed is the address a known machine keeps for ever, if it is of this network.
func (r *responder) fixed(mac string) (netip.Addr, bool) {
	a, ok := r.fleet.Address(mac)
	return a, ok && r.link.usable(a)
}

// available says whether a stranger may have addr.
func (r *responder) available(a netip.Addr) bool {
	return r.link.Range.Contains(a) && r.link.usable(a) && !r.fleet.Taken(a)
}

// drop counts why a packet goes unanswered, and tells it when there is
// something to tell.
func (r *responder) drop(req request, reason, text string) (reply, bool) {
	r.stats.add("dhcp.drop." + reason)
	if text != "" {
		if r.mayComplain() {
			r.log.Warn("DHCP request not answered", "interface", r.link.Name, "mac", req.machine.MAC, "reason", reason)
		}
		r.tell(req, text)
	}
	return reply{}, false
}

func (r *responder) tell(req request, text string) {
	r.sightings.Add(Sighting{At: r.now(), MAC: req.machine.MAC, Kind: KindDHCP, Addr: req.client, Text: text})
}

func leaseFor(f Firmware) time.Duration {
	if f.Netboots() {
		return leaseBooting
	}
	return leaseSystem
}
