package netboot

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Mode observe: nothing is sent and no port is taken, so it can run beside any
// server, on its very host. What machines ask and what they are answered is told on
// their timelines, as far as it comes by: broadcasts do, and what this host sends; a
// switch keeps the rest from us.
type observer struct {
	link      link
	sightings *Sightings
	stats     *counters
	log       *slog.Logger
	now       func() time.Time
}

// openRequests opens the socket that hears what machines ask DHCP servers.
func openRequests(l link) (*rawSocket, error) { return openUDPTo(l, dhcpServerPort) }

// serve listens until ctx ends.
func (o *observer) serve(ctx context.Context, s *rawSocket) error {
	return s.listen(ctx, "DHCP on "+o.link.Name, o.stats, o.log, func(packet []byte, _ net.HardwareAddr) { o.asked(packet) })
}

// asked tells what a machine asks.
func (o *observer) asked(packet []byte) {
	payload, from, ok := udpPayload(packet, dhcpServerPort)
	if !ok {
		return
	}
	req, drop := parseRequest(payload, from)
	if drop != "" {
		o.stats.add("observe.drop." + drop)
		return
	}
	text := ""
	switch req.kind {
	case dhcpv4.MessageTypeDiscover:
		text = "asked for an address as " + req.machine.Firmware.String()
	case dhcpv4.MessageTypeRequest:
		want := req.requested
		if !want.IsValid() {
			want = req.client
		}
		text = fmt.Sprintf("asked for %s as %s", want, req.machine.Firmware)
		if req.serverID.IsValid() {
			text += ", which " + req.serverID.String() + " had offered"
		}
	case dhcpv4.MessageTypeInform:
		text = "has " + from.Addr().String() + " and asked for the rest"
	case dhcpv4.MessageTypeDecline:
		text = "declined " + req.requested.String() + " because somebody else uses it"
	case dhcpv4.MessageTypeRelease:
		text = "gave " + req.client.String() + " back"
	default:
		return
	}
	if req.relay.IsValid() {
		text += ", through the relay " + req.relay.String()
	}
	o.stats.add("observe.asked")
	if req.machine.Firmware.Netboots() {
		o.sightings.netboots(req.machine.MAC, o.now())
	}
	o.tell(req.machine.MAC, text, req.client)
}

// answered tells who answered a machine, and what.
func (o *observer) answered(reply *dhcpv4.DHCPv4, src netip.Addr, card string) {
	mac, ok := macOf(net.HardwareAddr(reply.ClientHWAddr))
	if !ok {
		return
	}
	server := addrOption(reply, optServerID)
	if !server.IsValid() {
		server = src
	}
	yours := addrField(reply.YourIPAddr.To4())
	text := ""
	switch kind := reply.MessageType(); {
	case kind == dhcpv4.MessageTypeOffer && yours.IsValid():
		text = "was offered " + yours.String()
	case kind == dhcpv4.MessageTypeOffer:
		text = "was offered no address"
	case kind == dhcpv4.MessageTypeAck && yours.IsValid():
		text = "was lent " + yours.String()
		o.sightings.holds(mac, yours)
	case kind == dhcpv4.MessageTypeAck:
		text = "was answered"
	case kind == dhcpv4.MessageTypeNak:
		text = "was refused its address"
	default:
		return
	}
	text += fmt.Sprintf(" by the DHCP server %s (card %s)", server, card)
	file := reply.BootFileName
	if b := reply.Options[optBootFile]; len(b) > 0 {
		file = string(b)
	}
	if file != "" {
		text += " and the boot file " + clip(hidePath(file))
	}
	o.stats.add("observe.answered")
	o.tell(mac, text, yours)
}

func (o *observer) tell(mac, text string, addr netip.Addr) {
	o.sightings.Add(Sighting{At: o.now(), MAC: mac, Kind: KindDHCP, Addr: addr, Text: text})
}
