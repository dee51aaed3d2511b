package netboot

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What can be found out of an interface before a node serves it, by the same code
// that would serve it. Nothing here stays open, and only FindServers
// and FindHosts send anything.

// CheckInterface says what is wrong with an interface as it is configured: that it
// is not there, has no address, or is of another network than its range.
func CheckInterface(in Interface) error {
	_, err := findLink(in)
	return err
}

// Ports are the UDP ports that a server in this mode needs.
func Ports(mode Mode) []int {
	switch mode {
	case ModeDHCP:
		return []int{dhcpServerPort, 69}
	case ModeProxy:
		return []int{dhcpServerPort, 69, proxyServerPort}
	}
	return nil
}

// TryPort opens a UDP port of an interface as a server would, and closes it. The
// error says who has it.
func TryPort(ctx context.Context, in Interface, port int) error {
	conn, err := listenUDP(ctx, in.Name, port, in.Mode == ModeProxy && port != 69)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Holder is a process that has a port open.
type Holder struct {
	Name string
	PID  int
}

// Holders are the processes that have a local port open, as far as /proc tells;
// other users' are told to root alone.
func Holders(network string, port int) []Holder {
	inodes := make(map[string]bool)
	for _, table := range []string{network, network + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			if inode, ok := socketOnPort(sc.Text(), port); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return nil
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	var out []Holder
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		number := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + number + "/comm")
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(number)
		h := Holder{Name: strings.TrimSpace(string(name)), PID: pid}
		if err == nil && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// DHCPServer is one that answered on a network.
type DHCPServer struct {
	Addr  netip.Addr
	Card  string // hardware address
	Lends bool   // it offered an address
	Boots bool   // it says what to boot
}

// moreServers is how long others may be slower than the first.
const moreServers = time.Second

// FindServers asks for an address on an interface, as a BIOS machine that is not
// there, and listens until wait is over, or a second after the first, to who answers
// anybody. It is the probe of a running node, by which other nodes of its cluster
// know not to answer. dnsmasq looks for three seconds whether an address is free
// before it offers it.
func FindServers(ctx context.Context, name string, wait time.Duration) ([]DHCPServer, error) {
	l, err := findLink(Interface{Name: name})
	if err != nil {
		return nil, err
	}
	s, err := openOthers(l)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	asker := &otherServers{link: l, stats: &counters{}}
	probe := asker.probe()
	over, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	stop := context.AfterFunc(over, func() { s.Close() })
	defer stop()
	if err := s.send(probe, broadcastCard); err != nil {
		return nil, err
	}
	// Once more, for a packet that was lost and a server that wants to be asked twice.
	again := time.AfterFunc(wait/2, func() { s.send(probe, broadcastCard) }) //nolint:errcheck // the first was sent
	defer again.Stop()

	var found []DHCPServer
	buf := make([]byte, 2048)
	for {
		n, from, err := s.receive(buf)
		if over.Err() != nil {
			return found, ctx.Err()
		}
		if err != nil {
			return found, err
		}
		reply, src, ok := parseServerReply(buf[:n])
		card, isCard := macOf(from)
		if !ok || !isCard || card == l.mac.String() {
			continue
		}
		if len(found) == 0 {
			time.AfterFunc(moreServers, cancel)
		}
		heard := DHCPServer{Addr: addrOption(reply, optServerID), Card: card, Lends: addrField(reply.YourIPAddr.To4()).IsValid(),
			Boots: reply.BootFileName != "" || reply.Options[optBootFile] != nil}
		if !heard.Addr.IsValid() {
			heard.Addr = src
		}
		i := slices.IndexFunc(found, func(s DHCPServer) bool { return s.Addr == heard.Addr && s.Card == heard.Card })
		if i < 0 {
			if len(found) < maxOthers {
				found = append(found, heard)
			}
			continue
		}
		found[i].Lends, found[i].Boots = found[i].Lends || heard.Lends, found[i].Boots || heard.Boots
	}
}

// FindHosts asks who has the addresses of a range (ARP, RFC 826), up to a thousand
// of them, and listens until wait is over.
func FindHosts(ctx context.Context, name string, in Range, wait time.Duration) ([]netip.Addr, error) {
	l, err := findLink(Interface{Name: name})
	if err != nil {
		return nil, err
	}
	s, err := openARP(l)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	over, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	stop := context.AfterFunc(over, func() { s.Close() })
	defer stop()
	a := in.First
	for range 1000 {
		if !in.Contains(a) {
			break
		}
		if err := s.send(arpProbe(l.mac, a), broadcastCard); err != nil {
			return nil, fmt.Errorf("ask on %s who has %s: %w", name, a, err)
		}
		a = a.Next()
	}
	var found []netip.Addr
	buf := make([]byte, 64)
	for {
		n, _, err := s.receive(buf)
		if over.Err() != nil {
			slices.SortFunc(found, netip.Addr.Compare)
			return found, ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("listen on %s who has an address: %w", name, err)
		}
		if _, has, ok := parseARP(buf[:n]); ok && in.Contains(has) && has != l.addr && !slices.Contains(found, has) {
			found = append(found, has)
		}
	}
}
