package netboot

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// Stalls on a real wire: machines that stop where machines stop. They live in one
// process on the other side of a wire that loses what is longer than 1400 bytes.

const stallEnv = "LPMOS_TEST_STALLS"

// stuck is one machine of that process.
type stuck struct {
	MAC string
	How string
}

// stalling is a machine with what firmware can do on a wire.
type stalling struct {
	hw   net.HardwareAddr
	net  *pxeclient.WireClient
	addr netip.Addr
}

var nodeAt = netip.MustParseAddr("10.77.0.1")

// ways are the ways not to arrive.
var ways = map[string]func(context.Context, *stalling) error{
	"takes the loader": func(ctx context.Context, m *stalling) error { return m.load(ctx, pxeclient.UEFI, LoaderUEFI, 1024, -1) },
	"takes the loader three times": func(ctx context.Context, m *stalling) error {
		return errors.Join(m.load(ctx, pxeclient.BIOS, LoaderBIOS, 1024, -1), m.load(ctx, pxeclient.BIOS, LoaderBIOS, 1024, -1), m.load(ctx, pxeclient.BIOS, LoaderBIOS, 1024, -1))
	},
	"iPXE is told to load iPXE": func(ctx context.Context, m *stalling) error {
		err := m.load(ctx, pxeclient.UEFI, LoaderUEFI, 1024, -1)
		for range 2 {
			err = errors.Join(err, m.send(ctx, dhcpv4.MessageTypeRequest, ipxeUEFI, other), m.tftp(LoaderUEFI, 1024, -1))
		}
		return err
	},
	"asks for the BIOS loader":   func(ctx context.Context, m *stalling) error { return m.load(ctx, pxeclient.UEFI, LoaderBIOS, 1024, -1) },
	"asks for large blocks":      func(ctx context.Context, m *stalling) error { return m.load(ctx, pxeclient.UEFI, LoaderUEFI, 1468, -1) },
	"falls silent in the middle": func(ctx context.Context, m *stalling) error { return m.load(ctx, pxeclient.UEFI, LoaderUEFI, 1024, 3) },
	"hears nothing over TFTP":    func(ctx context.Context, m *stalling) error { return m.load(ctx, pxeclient.UEFI, LoaderUEFI, 1024, 0) },
	"asks for a file of another": func(ctx context.Context, m *stalling) error {
		return m.load(ctx, pxeclient.BIOS, "pxelinux.0", 1024, -1)
	},
	"takes another server's address": func(ctx context.Context, m *stalling) error {
		return errors.Join(m.send(ctx, dhcpv4.MessageTypeDiscover, uefi), m.send(ctx, dhcpv4.MessageTypeRequest, uefi, other))
	},
	"asks for an address":             func(ctx context.Context, m *stalling) error { return m.send(ctx, dhcpv4.MessageTypeDiscover, uefi) },
	"asks for an address three times": func(ctx context.Context, m *stalling) error { return m.send(ctx, dhcpv4.MessageTypeDiscover, uefi) }, // once, each time
	"is of 32 bits":                   func(ctx context.Context, m *stalling) error { return m.send(ctx, dhcpv4.MessageTypeDiscover, ia32) },
	"is two": func(ctx context.Context, m *stalling) error {
		err := m.send(ctx, dhcpv4.MessageTypeDiscover, uefi, uuid(1))
		silence := m.hear(ctx) // while one waits for its answer, the other would have to ask again
		return errors.Join(err, silence, m.send(ctx, dhcpv4.MessageTypeDiscover, uefi, uuid(2)))
	},
	"has iPXE and no HTTP":   func(ctx context.Context, m *stalling) error { return m.dhcp(ctx, pxeclient.IPXEUEFI) },
	"cannot have the kernel": func(ctx context.Context, m *stalling) error { return m.boot(ctx, FileKernel) },
	"cannot have the initrd": func(ctx context.Context, m *stalling) error { return m.boot(ctx, FileInitrd) },
	"boots":                  func(ctx context.Context, m *stalling) error { return m.boot(ctx, "nothing") },
	"boots its disk":         func(ctx context.Context, m *stalling) error { return m.boot(ctx, "nothing") },
	"boots, and has an address": func(ctx context.Context, m *stalling) error {
		return errors.Join(m.boot(ctx, "nothing"), m.dhcp(ctx, pxeclient.System))
	},
	"hangs up over HTTP": func(ctx context.Context, m *stalling) error {
		if err := m.dhcp(ctx, pxeclient.IPXEUEFI); err != nil {
			return err
		}
		// A small window, so that the node has not sent all of it before that.
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(m.addr, 0)), Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			return errors.Join(raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) }), err)
		}}
		conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(nodeAt, 80).String())
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: n\r\n\r\n", BootPath, FileInitrd); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, 1000))
		return errors.Join(err, conn.Close())
	},
	"comes back three times": func(ctx context.Context, m *stalling) error {
		return errors.Join(m.boot(ctx, "nothing"), m.boot(ctx, "nothing"), m.boot(ctx, "nothing"))
	},
}

// ends are the steps, and how many of them, that a trail has when all of a way has come to
// the node: a machine may be gone before its last packet is read.
var ends = map[string]struct {
	n     int
	steps []Step
}{
	"takes the loader":                {1, []Step{StepServed}},
	"takes the loader three times":    {3, []Step{StepServed}},
	"iPXE is told to load iPXE":       {3, []Step{StepServed}},
	"asks for the BIOS loader":        {1, []Step{StepServed}},
	"asks for large blocks":           {1, []Step{StepStopped}},
	"falls silent in the middle":      {1, []Step{StepStopped}},
	"hears nothing over TFTP":         {1, []Step{StepStopped}},
	"asks for a file of another":      {1, []Step{StepMissing}},
	"takes another server's address":  {1, []Step{StepElsewhere}},
	"asks for an address":             {1, []Step{StepOffer, StepDiscover, StepProxy}},
	"asks for an address three times": {3, []Step{StepOffer}},
	"is of 32 bits":                   {1, []Step{StepOffer}},
	"is two":                          {2, []Step{StepOffer}},
	"has iPXE and no HTTP":            {1, []Step{StepAck}},
	"cannot have the kernel":          {1, []Step{StepScript}},
	"cannot have the initrd":          {1, []Step{StepServed}},
	"boots":                           {2, []Step{StepServed}},
	"boots its disk":                  {1, []Step{StepScript}},
	"boots, and has an address":       {2, []Step{StepAck}},
	"hangs up over HTTP":              {1, []Step{StepStopped}},
	"comes back three times":          {3, []Step{StepScript}},
}

func uefi(p *dhcpv4.DHCPv4) {
	p.Options[93], p.Options[60] = []byte{0, 7}, []byte("PXEClient:Arch:00007:UNDI:003016")
}
func ia32(p *dhcpv4.DHCPv4) {
	p.Options[93], p.Options[60] = []byte{0, 6}, []byte("PXEClient:Arch:00006:UNDI:003016")
}
func ipxeUEFI(p *dhcpv4.DHCPv4) { uefi(p); p.Options[77] = []byte("iPXE") }
func other(p *dhcpv4.DHCPv4) {
	p.Options[54], p.Options[50] = []byte{10, 77, 0, 2}, []byte{10, 77, 0, 60}
}
func uuid(n byte) func(*dhcpv4.DHCPv4) {
	return func(p *dhcpv4.DHCPv4) { p.Options[97] = append(make([]byte, 16), n) }
}

// send sends one packet and hears no answer.
func (m *stalling) send(ctx context.Context, kind dhcpv4.MessageType, change ...func(*dhcpv4.DHCPv4)) error {
	zero := net.IPv4zero.To4()
	p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: dhcpv4.TransactionID(m.hw[2:6]), ClientHWAddr: m.hw, Flags: 0x8000,
		ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero, Options: dhcpv4.Options{53: {byte(kind)}}}
	for _, f := range change {
		f(p)
	}
	return m.net.SendDHCP(ctx, p.ToBytes(), netip.MustParseAddrPort("255.255.255.255:67"))
}

// hear waits for an answer to the machine; all of them hear all answers.
func (m *stalling) hear(ctx context.Context) error {
	for {
		b, err := m.net.ReceiveDHCP(ctx)
		if err != nil {
			return err
		}
		if p, err := dhcpv4.FromBytes(b); err == nil && p.ClientHWAddr.String() == m.hw.String() {
			return nil
		}
	}
}

func (m *stalling) client(shape pxeclient.Shape, n pxeclient.Network) *pxeclient.Client {
	return &pxeclient.Client{Shape: shape, MAC: m.hw, Net: n, Timeout: 5 * time.Second}
}

func (m *stalling) dhcp(ctx context.Context, shape pxeclient.Shape) error {
	lease, err := m.client(shape, m.net).DHCP(ctx)
	m.addr = lease.Addr.Addr()
	return err
}

func (m *stalling) load(ctx context.Context, shape pxeclient.Shape, name string, block, blocks int) error {
	if err := m.dhcp(ctx, shape); err != nil {
		return err
	}
	return m.tftp(name, block, blocks)
}

// tftp reads a file from the machine's own address, and falls silent after so many
// packets; never if that is -1.
func (m *stalling) tftp(name string, block, packets int) error {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.addr, 0)))
	if err != nil {
		return err
	}
	defer conn.Close()
	to := netip.AddrPortFrom(nodeAt, 69)
	if _, err := conn.WriteToUDPAddrPort(fmt.Appendf([]byte{0, 1}, "%s\x00octet\x00blksize\x00%d\x00", name, block), to); err != nil {
		return err
	}
	buf := make([]byte, 2000)
	for n := 0; ; n++ {
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		got, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil // the node fell silent, too
		case err != nil:
			return err
		case packets >= 0 && n >= packets:
			continue
		case binary.BigEndian.Uint16(buf) == tftpError:
			return nil
		}
		ack := []byte{0, tftpAck, 0, 0}
		if binary.BigEndian.Uint16(buf) == tftpData {
			copy(ack[2:], buf[2:4])
		}
		if _, err := conn.WriteToUDPAddrPort(ack, from); err != nil {
			return err
		}
		if binary.BigEndian.Uint16(buf) == tftpData && got < 4+block {
			return nil
		}
	}
}

// lame is a network that gives all but one file.
type lame struct {
	pxeclient.Network
	not string
}

func (l lame) HTTP(ctx context.Context, url string) ([]byte, error) {
	if strings.HasSuffix(url, "/"+l.not) {
		return nil, errors.New("no way there")
	}
	return l.Network.HTTP(ctx, url)
}

func (m *stalling) boot(ctx context.Context, without string) error {
	_, err := m.client(pxeclient.IPXEUEFI, lame{m.net, without}).Boot(ctx)
	return err
}

func stallMAC(n int) string { return fmt.Sprintf("52:54:00:57:%02x:%02x", n>>8, n&255) }

// TestStallProcess is the other side, when stall starts it.
func TestStallProcess(t *testing.T) {
	spec := os.Getenv(stallEnv)
	if spec == "" {
		t.Skip("started by other tests only")
	}
	var machines []stuck
	if err := json.Unmarshal([]byte(spec), &machines); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wire, err := pxeclient.OpenWire(ctx, "v1", func(_ context.Context, p netip.Prefix) error {
		return exec.Command("ip", "address", "replace", p.String(), "dev", "v1").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	var all sync.WaitGroup
	for _, one := range machines {
		hw, err := net.ParseMAC(one.MAC)
		if err != nil {
			t.Fatal(err)
		}
		m := &stalling{hw: hw, net: wire.Client()}
		all.Go(func() {
			if err := ways[one.How](ctx, m); err != nil {
				t.Errorf("%s, which %s: %v", one.MAC, one.How, err)
			}
		})
	}
	all.Wait()
}

// stall lets machines do what they do.
func (w *wire) stall(machines []stuck) {
	w.t.Helper()
	spec, err := json.Marshal(machines)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(os.Args[0], "-test.run=^TestStallProcess$", "-test.count=1")
	cmd.Env = append(os.Environ(), stallEnv+"="+string(spec))
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// provoked is a way not to arrive and what has to be said of it.
type provoked struct {
	how, id, says string
	boots         *Decision
	journey       Journey
}

// named waits, by the server's clock, until each machine's stall is named, and fails if
// one is not within a minute of the last that it did.
func (s *setup) named(t *testing.T, machines map[string]provoked) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := eventually(ctx, func() error {
		for mac, p := range machines {
			end, known := ends[p.how]
			n := 0
			for _, sg := range s.Sightings().Of(mac) {
				if slices.Contains(end.steps, sg.Step) {
					n++
				}
			}
			if !known || n < end.n {
				return fmt.Errorf("%s, which %s: %d of its last steps came, want %d of %v", mac, p.how, n, end.n, end.steps)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	missing := maps.Clone(machines)
	for range 13 {
		s.lookForStalls()
		for mac, p := range missing {
			stall, ok := s.Sightings().Stall(mac)
			if !ok {
				continue
			}
			delete(missing, mac)
			var told Sighting
			last := time.Time{}
			for _, sg := range s.Sightings().Of(mac) {
				if sg.Step == StepStalled {
					told = sg
				} else if sg.Kind != KindStall {
					last = sg.At
				}
			}
			if p.journey.AgentSpoke.After(last) {
				last = p.journey.AgentSpoke
			}
			if stall.ID != p.id || !strings.Contains(stall.Text, p.says) || told.Text != stall.Text || told.Hint == "" || told.Stall != p.id {
				t.Errorf("%s: named %q: %s (told: %s), want %q with %q", p.how, stall.ID, stall.Text, told.Text, p.id, p.says)
			}
			if wait := stall.At.Sub(last); wait > time.Minute {
				t.Errorf("%s: named after %s", p.how, wait)
			}
			t.Logf("%-32s %-16s %s", p.how, stall.ID, stall.Text)
		}
		s.pass(5 * time.Second)
	}
	for mac, p := range missing {
		var story []string
		for _, sg := range s.Sightings().Of(mac) {
			story = append(story, sg.At.Format("05.0 ")+sg.Text)
		}
		t.Errorf("%s is not named within a minute:\n%s", p.how, strings.Join(story, "\n"))
	}
}

func TestStallsOnTheWireAreNamed(t *testing.T) {
	disk := &Decision{Action: BootLocal, Reason: "it is installed"}
	w := newWire(t)
	w.inside("ip", "link", "set", "v1", "mtu", "1400")
	s := newSetup(t, ModeDHCP)
	ago := func(d time.Duration) time.Time { return s.clock().Add(-d) }
	all := []provoked{
		{how: "takes the loader", id: "loader-silent", says: "took snponly.efi, then silence for 4"},
		{how: "takes the loader three times", id: "loader-loop", says: "loaded undionly.kpxe 3 times in"},
		{how: "iPXE is told to load iPXE", id: "chainload-loop", says: "iPXE loads itself again"},
		{how: "asks for the BIOS loader", id: "wrong-platform", says: "asked for undionly.kpxe, a BIOS loader, with UEFI firmware"},
		{how: "asks for large blocks", id: "tftp-block", says: "TFTP stopped at block 1: a 1468-byte block does not pass this path"},
		{how: "falls silent in the middle", id: "tftp-stopped", says: "TFTP stopped in the middle of snponly.efi, at 2048 of 200000 bytes: the machine fell silent"},
		{how: "hears nothing over TFTP", id: "tftp-unheard", says: "asked for snponly.efi over TFTP, and nothing that it was sent came back"},
		{how: "asks for a file of another", id: "file-missing", says: "asked for the boot file pxelinux.0, which there is not here"},
		{how: "takes another server's address", id: "other-server", says: "10.77.0.2 answered first"},
		{how: "asks for an address three times", id: "offer-not-taken", says: "asked for an address 3 times and took none"},
		{how: "is of 32 bits", id: "no-loader", says: "as UEFI 386 PXE firmware, and there is none"},
		{how: "is two", id: "two-machines", says: "two machines use this MAC: one says its UUID is 00000000-0000-0000-0000-00000000000"},
		{how: "has iPXE and no HTTP", id: "script-not-asked", says: "iPXE has an address and was told where its script is, and has not come for it"},
		{how: "cannot have the kernel", id: "kernel-not-asked", says: "never asked for the kernel"},
		{how: "cannot have the initrd", id: "initrd-not-asked", says: "never asked for the initramfs"},
		{how: "hangs up over HTTP", id: "http-stopped", says: "HTTP stopped in the middle of initrd, at "},
		{how: "boots", id: "agent-never-spoke", says: "has the agent's kernel and initramfs, then nothing for 5"},
		{how: "boots, and has an address", id: "agent-unheard", says: "started and has an address, and its agent has not spoken"},
		{how: "comes back three times", id: "disk-loop", says: "was told to boot its own disk 3 times", boots: disk},
		{how: "boots", id: "agent-silent", says: "its agent spoke, then said nothing for", journey: Journey{AgentDue: true}},
		{how: "boots its disk", id: "never-came-up", says: "was installed and told to boot its disk", boots: disk, journey: Journey{Installed: ago(time.Minute), UpTook: 20 * time.Second}},
		{how: "boots", id: "two-machines", says: "may be two machines: a machine with UUID b reported", journey: Journey{Question: "a machine with UUID b reported"}},
	}
	machines, order := map[string]provoked{}, []stuck{}
	for i, p := range all {
		mac := stallMAC(i)
		machines[mac] = p
		order = append(order, stuck{MAC: mac, How: p.how})
		if p.boots != nil {
			s.fleet.boots(mac, *p.boots)
		}
	}
	var mu sync.Mutex
	s.cfg.Journey = func(mac string) Journey {
		mu.Lock()
		defer mu.Unlock()
		return machines[mac].journey
	}
	s.timePasses()
	w.start(s)
	w.stall(order)
	mu.Lock()
	for mac, p := range machines {
		if p.id == "agent-silent" { // it has just spoken
			p.journey.AgentSpoke = s.clock()
			machines[mac] = p
		}
	}
	mu.Unlock()
	// Firmware asks again after 4, 8 and 16 seconds.
	again := slices.DeleteFunc(slices.Clone(order), func(m stuck) bool { return m.How != "asks for an address three times" })
	for range 2 {
		s.pass(4 * time.Second)
		w.stall(again)
	}
	// All is lent: with every address taken, the next machine gets none.
	for i := 0; ; i++ {
		mac := fmt.Sprintf("52:54:00:58:00:%02x", i)
		addr, ok := s.leases.Offer(mac, s.responder(s.link).terms(), netip.Addr{})
		if !ok {
			break
		}
		if err := s.leases.Commit(mac, addr, s.clock().Add(time.Hour), s.responder(s.link).terms()); err != nil {
			t.Fatal(err)
		}
	}
	last := stuck{MAC: stallMAC(200), How: "asks for an address"}
	mu.Lock()
	machines[last.MAC] = provoked{how: last.How, id: "no-address", says: "asked for an address, but none is left in 10.77.0.100-10.77.0.199"}
	mu.Unlock()
	w.stall([]stuck{last})

	s.named(t, machines)
	if got := len(s.Stalls()); got != len(machines) {
		t.Errorf("%d machines are stalled, want %d", got, len(machines))
	}

	// Whoever goes on is not stalled any more, and that is told.
	mac := order[0].MAC
	w.stall([]stuck{{MAC: mac, How: "boots"}})
	s.lookForStalls()
	seen := s.Sightings().Of(mac)
	if _, still := s.Sightings().Stall(mac); still || seen[len(seen)-1].Step != StepGoesOn || seen[len(seen)-1].Stall != "loader-silent" {
		t.Errorf("it booted, and the last that is told is %q", seen[len(seen)-1].Text)
	}
}

func TestStallsBesideAnotherServerAreNamed(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeProxy)
	s.timePasses()
	w.start(s)
	first := stuck{MAC: stallMAC(0), How: "asks for an address"}
	w.stall([]stuck{first})
	s.named(t, map[string]provoked{first.MAC: {how: first.How, id: "proxy-alone", says: "asked once what to boot and has no address"}})

	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("needs dnsmasq")
	}
	startDnsmasq(t, w, dnsmasq)
	second := stuck{MAC: stallMAC(1), How: "asks for an address"}
	w.stall([]stuck{second})
	if err := eventually(t.Context(), func() error { // it has answered, or will
		if !s.othersHeard() {
			return errors.New("no other server was heard")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.named(t, map[string]provoked{second.MAC: {how: second.How, id: "proxy-not-taken", says: "was told once what to boot and never came for it"}})
}
