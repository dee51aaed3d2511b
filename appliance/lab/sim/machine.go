package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/boot"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// Steps beside those of pxeclient.
const (
	stepLate      = "answer → noticed" // what the fleet itself took to look at answers to DHCP
	stepPower     = "power-on → agent"
	stepReport    = "report" // from the agent's start: TLS, the claim and the inventory
	stepApproval  = "approval"
	stepFirstByte = "approval → first byte"
	stepInstalled = "approval → installed"
	stepUp        = "approval → up"
)

// machine is one of the fleet.
type machine struct {
	r     *run
	n     int
	mac   net.HardwareAddr
	shape pxeclient.Shape
	card  *card
	dice  *rand.Rand
	hw    hardware

	install bool
	powered time.Time

	mu       sync.Mutex
	at       string // the step it is at
	asked    bool   // for an install
	approved time.Time
	homes    []string // where an installed system says that it is up
}

func (r *run) newMachine(i int) *machine {
	mac := net.HardwareAddr{0x52, 0x54, 0x01, 0x77, byte(i >> 8), byte(i)}
	m := &machine{r: r, n: i, mac: mac, shape: r.Shapes[i%len(r.Shapes)], dice: r.dice(i), install: i < r.Install}
	m.card = r.wire.newCard(mac, r.Short, &r.bytes)
	m.card.late = func(d time.Duration) { r.fig.add(stepLate, d, 0, nil) }
	m.hw = newHardware(i, mac, m.shape)
	if m.install {
		m.hw.disk = filepath.Join(r.Dir, fmt.Sprintf("sim%d.raw", i))
	}
	return m
}

// live is from power-on to the end of the fleet: a machine whose boot fails goes
// through its firmware's boot order and begins anew.
func (m *machine) live(ctx context.Context, after time.Duration) {
	if pause(ctx, after) != nil {
		return
	}
	m.powered = time.Now()
	defer m.is("")
	for ctx.Err() == nil {
		err := m.boot(ctx)
		m.card.off()
		if err == nil || ctx.Err() != nil {
			continue
		}
		m.r.fig.restart(err)
		m.is("rest after a failed boot")
		// What firmware takes to find that there is no disk to boot, and to start anew.
		if pause(ctx, 3*time.Second+time.Duration(m.dice.Int64N(int64(2*time.Second)))) != nil {
			return
		}
	}
}

// boot is one start of the machine. Nil asks for the next.
func (m *machine) boot(ctx context.Context) error {
	m.is("firmware")
	res, err := m.firmware(m.shape).Boot(ctx)
	if err != nil {
		return err
	}
	switch res.Outcome {
	case pxeclient.Kernel:
		return m.agent(ctx, res.Cmdline)
	case pxeclient.Disk:
		return m.disk(ctx, res.Script)
	}
	return errors.New("the boot script failed")
}

// firmware is the client that plays the shape.
func (m *machine) firmware(shape pxeclient.Shape) *pxeclient.Client {
	return &pxeclient.Client{
		Shape: shape, MAC: m.mac, UUID: m.hw.uuid, Net: m.card, Unicast: true,
		Retries: retries(shape), Wait: m.wait, Collect: m.collect, Told: m.told,
	}
}

// wait is how long firmware waits for an answer: PXE doubles from four seconds
// (Preboot Execution Environment 2.1, section 2.2.5.1), with a second more or less as
// RFC 2131 section 4.1 has it; iPXE and the agent double from one.
func (m *machine) wait(shape pxeclient.Shape, try int) time.Duration {
	switch shape {
	case pxeclient.BIOS, pxeclient.UEFI, pxeclient.UEFIHTTP:
		m.mu.Lock()
		spread := time.Duration(m.dice.Int64N(int64(2*time.Second))) - time.Second
		m.mu.Unlock()
		return 4*time.Second<<try + spread
	}
	return min(time.Second<<try, 10*time.Second)
}

func retries(shape pxeclient.Shape) int {
	switch shape {
	case pxeclient.IPXE, pxeclient.IPXEUEFI:
		return 4
	case pxeclient.Agent:
		return 2
	}
	return 3
}

// collect is how long EDK2 collects offers.
func (m *machine) collect(shape pxeclient.Shape) time.Duration {
	if !m.r.Quick && (shape == pxeclient.UEFI || shape == pxeclient.UEFIHTTP) {
		return 4 * time.Second
	}
	return 0
}

// next is what a machine is at when a step has ended.
var next = map[string]string{
	pxeclient.StepOffer: "ack", pxeclient.StepAck: "loader", pxeclient.StepLoader: "iPXE",
	pxeclient.StepScript: "script", pxeclient.StepKernel: "initrd", pxeclient.StepInitrd: "kernel's start",
}

// told counts a step of the firmware.
func (m *machine) told(s pxeclient.Step) {
	name := s.Name
	switch {
	case name == pxeclient.StepOffer || name == pxeclient.StepAck:
		m.r.fig.add("dhcp", s.Took, s.Again, s.Err)
		name = stage(s.Shape) + " " + name
	}
	m.r.fig.add(name, s.Took, s.Again, s.Err)
	if s.Err == nil {
		m.is(next[s.Name])
	}
}

// stage is which of the three that ask for an address a shape is.
func stage(s pxeclient.Shape) string {
	switch s {
	case pxeclient.IPXE, pxeclient.IPXEUEFI:
		return "iPXE"
	case pxeclient.Agent:
		return "agent"
	}
	return "firmware"
}

// is notes what the machine is at.
func (m *machine) is(at string) {
	m.mu.Lock()
	was := m.at
	m.at = at
	m.mu.Unlock()
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	if was != "" {
		m.r.doing[was]--
	}
	if at != "" {
		m.r.doing[at]++
	}
}

// agent is what the kernel would start.
func (m *machine) agent(ctx context.Context, cmdline string) error {
	cmd := boot.ParseCmdline(cmdline)
	if err := cmd.Check(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	began := time.Now()
	clock := func() time.Time { return cmd.Time.Add(time.Since(began)) }
	m.is("agent's address")
	lease, err := m.firmware(pxeclient.Agent).DHCP(ctx)
	for err != nil { // as agent/boot does: round after round
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		lease, err = m.firmware(pxeclient.Agent).DHCP(ctx)
	}
	m.is("report")
	begun := time.Now()
	a, err := agent.New(agent.Config{
		Nodes: cmd.Nodes, MAC: m.mac.String(), BootMAC: cmd.MAC, IP: lease.Addr.Addr().String(), Version: "simulated",
		Trust: pin.NewVerifier(cmd.Pin, clock), Claim: cmd.Claim,
		Collect: m.hw.collect, Installer: m, Rand: m.random, Dial: m.dial,
		Reported: func(string) { m.reported(ctx, begun) },
	})
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	outcome, err := a.Run(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("agent: %w", err)
	case outcome == agent.OutcomeInstalled:
		m.r.fig.add(stepInstalled, time.Since(m.approvedAt()), 0, nil)
	}
	return nil
}

// dial connects the agent from the machine's address.
func (m *machine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2500*time.Millisecond) // as the agent's own
	defer cancel()
	m.r.dials.add(1)
	return m.card.dial(ctx, network, address)
}

func (m *machine) random() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dice.Float64()
}

// reported is told when a node knows the machine.
func (m *machine) reported(ctx context.Context, begun time.Time) {
	m.r.fig.add(stepReport, time.Since(begun), 0, nil)
	m.is("agent")
	if m.r.note(m.r.reported, m.mac.String()) {
		m.r.fig.add(stepPower, time.Since(m.powered), 0, nil)
	}
	m.mu.Lock()
	ask := m.install && !m.asked
	m.asked = m.asked || ask
	if ask {
		m.approved = time.Now()
	}
	m.mu.Unlock()
	if ask {
		go func() {
			err := m.r.Approve(ctx, m.mac.String(), fmt.Sprintf("sim%d", m.n))
			if ctx.Err() != nil {
				return
			}
			m.r.fig.add(stepApproval, time.Since(m.approvedAt()), 0, err)
			if err != nil {
				m.r.fig.trouble("approval: " + err.Error())
			}
		}()
	}
}

func (m *machine) approvedAt() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.approved
}

// disk is a machine that boots its own: one that was installed tells where it was told
// to that it is up.
func (m *machine) disk(ctx context.Context, script string) error {
	m.mu.Lock()
	homes := m.homes
	m.mu.Unlock()
	if len(homes) == 0 {
		return fmt.Errorf("told to boot a disk on which nothing is: %s", said(script))
	}
	m.is("own disk")
	if _, err := m.firmware(pxeclient.System).DHCP(ctx); err != nil {
		return fmt.Errorf("installed system: %w", err)
	}
	form := url.Values{"hostname": {fmt.Sprintf("sim%d", m.n)}}
	for try := 0; ; try++ { // one node after the other: that which it was installed by may be gone
		err := m.phone(ctx, homes[try%len(homes)], form)
		if err == nil {
			break
		}
		if pause(ctx, time.Second) != nil {
			return nil
		}
	}
	m.r.fig.add(stepUp, time.Since(m.approvedAt()), 0, nil)
	m.r.note(m.r.up, m.mac.String())
	<-ctx.Done()
	return nil
}

func (m *machine) phone(ctx context.Context, home string, form url.Values) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, home, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := m.card.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("POST /up: %s", resp.Status)
	}
	return nil
}

// said is what a boot script shows on the screen.
func said(script string) string {
	for _, line := range strings.Split(script, "\n") {
		if text, ok := strings.CutPrefix(line, "echo "); ok {
			return text
		}
	}
	return "it does not say why"
}

// pause waits, or fails with the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isLong says whether what a URL names is a file of many megabytes.
func isLong(url string) bool {
	return strings.HasSuffix(url, "/vmlinuz") || strings.HasSuffix(url, "/initrd")
}

// Install implements agent.Installer on the machine's file.
func (m *machine) Install(ctx context.Context, grant wire.Grant, allowed func() error, src agent.Source, report func(wire.Progress)) error {
	m.is("install")
	m.mu.Lock()
	m.homes = append([]string{grant.PhoneHome}, grant.PhoneAlso...)
	m.mu.Unlock()
	first := sync.OnceFunc(func() { m.r.fig.add(stepFirstByte, time.Since(m.approvedAt()), 0, nil) })
	return m.hw.install(ctx, grant, func() error {
		err := allowed()
		if err == nil {
			first()
		}
		return err
	}, src, m.mac.String(), report)
}
