package lab

import (
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/ipv6"
)

// routerInterval is the time between two advertisements nobody asked for. RFC
// 4861 section 6.2.1 has 3 seconds as the shortest a router may be set to.
const routerInterval = 3 * time.Second

// router is the rack's IPv6 router: it advertises that there is neither a
// prefix nor a way out. iPXE on UEFI holds back its boot for 15 seconds for an
// advertisement that, on most real networks, comes at once.
type router struct {
	conn  *ipv6.PacketConn
	link  *net.Interface
	asked chan struct{} // somebody sent a solicitation
	done  chan struct{}
	all   sync.WaitGroup
}

func startRouter(link string) (*router, error) {
	nic, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("ipv6 router: %w", err)
	}
	raw, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("ipv6 router: %w", err)
	}
	r := &router{conn: ipv6.NewPacketConn(raw), link: nic, asked: make(chan struct{}, 1), done: make(chan struct{})}
	if err := r.configure(); err != nil {
		raw.Close()
		return nil, fmt.Errorf("ipv6 router: %w", err)
	}
	r.all.Go(r.listen)
	r.all.Go(r.advertise)
	return r, nil
}

func (r *router) configure() error {
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := r.conn.SetICMPFilter(&only); err != nil {
		return err
	}
	if err := r.conn.JoinGroup(r.link, &net.IPAddr{IP: net.IPv6linklocalallrouters}); err != nil {
		return err
	}
	if err := r.conn.SetMulticastInterface(r.link); err != nil {
		return err
	}
	// A hop limit below 255 marks a packet that crossed a router: RFC 4861
	// section 6.1.2 has receivers drop it.
	return r.conn.SetMulticastHopLimit(255)
}

// listen turns solicitations into wishes. What they hold does not matter: the
// answer goes to everybody.
func (r *router) listen() {
	buf := make([]byte, 1500)
	for {
		if _, _, _, err := r.conn.ReadFrom(buf); err != nil {
			return // closed
		}
		select {
		case r.asked <- struct{}{}:
		default:
		}
	}
}

func (r *router) advertise() {
	tick := time.NewTicker(routerInterval)
	defer tick.Stop()
	everybody := &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: r.link.Name}
	message := advertisement(r.link.HardwareAddr)
	for {
		// It fails while no machine is plugged in; the next round is soon.
		_, _ = r.conn.WriteTo(message, nil, everybody)
		select {
		case <-tick.C:
		case <-r.asked:
		case <-r.done:
			return
		}
	}
}

// advertisement is an RFC 4861 section 4.2 message: hop limit 64, neither the
// managed nor the other flag, lifetime 0 (no default route), and the sender's
// link-layer address. The kernel fills in the checksum.
func advertisement(mac net.HardwareAddr) []byte {
	m := make([]byte, 16, 24)
	m[0] = 134
	m[4] = 64
	return append(append(m, 1, 1), mac...)
}

func (r *router) close() {
	close(r.done)
	r.conn.Close()
	r.all.Wait()
}
