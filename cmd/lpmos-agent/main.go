// Command lpmos-agent is the first and only program of a machine that is being
// installed. It runs from RAM, shows a node what the machine is, and does what a
// person has approved there.
//
// On a running Linux system it prints the inventory it would report.
package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/boot"
	"github.com/lpmos/lpmos/agent/inventory"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// version is set by the linker.
var version = "dev"

// handedVar says that the first process has handed a life over, on descriptor 3.
const handedVar = "LPMOS_AGENT"

// untrusted is what the agent ends with when there is nobody that it can believe.
const untrusted = 3

// stopTime is how long a machine stands still that can believe nobody, for people
// to read why. Then it starts anew: what its node says may have been put right.
const stopTime = 10 * time.Minute

func main() {
	if os.Getpid() == 1 {
		firstProcess()
	}
	if os.Getenv(handedVar) != "" && os.Getppid() == 1 {
		live(takeLife())
		return
	}
	os.Exit(tool(os.Args[1:]))
}

// tool is what the program does on a running system.
func tool(args []string) int {
	switch strings.Join(args, " ") {
	case "--version":
		fmt.Println("lpmos-agent", version)
	case "--inventory":
		b, err := json.MarshalIndent(inventory.Collect(inventory.Options{}), "", "  ")
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			return 1
		}
		fmt.Println(string(b))
	case "", "-h", "--help":
		fmt.Print(usage)
	default:
		fmt.Fprintf(os.Stderr, "error: %q is not known\nhint: lpmos-agent --help lists what is\n", strings.Join(args, " "))
		return 2
	}
	return 0
}

const usage = `lpmos-agent installs bare machines; a node of LPMOS boots it over the network.

  lpmos-agent --inventory   print what this machine is, as JSON (root sees more)
  lpmos-agent --version     print the version

As process 1 it reads the kernel command line:
  lpmos.node=URL    the node to report to, https; up to three
  lpmos.pin=HEX     the SHA-256 of the public key of the cluster's authority
  lpmos.claim=CODE  begins this boot's session
  lpmos.mac=MAC     the interface the machine booted from
  lpmos.time=N      the node's time in seconds since 1970
`

// firstProcess prepares the machine and keeps an agent running. It never
// returns: the kernel panics when its first process ends, so the work is done in
// a second one that may crash, or be killed when memory is short, and is begun
// again with the same boot id, which lets an install go on.
func firstProcess() {
	var early []string // there is no console before /dev and /proc are there
	boot.Mount(func(format string, args ...any) { early = append(early, fmt.Sprintf(format, args...)) })
	boot.StandardFiles()
	con := agent.NewConsole(boot.Consoles(), time.Now)
	for _, line := range early {
		con.Printf("%s", line)
	}
	boot.QuietKernel()
	cmd := commandLine()
	if err := cmd.Check(); err != nil {
		con.Printf("STOPPED: %v", err)
		stop(con)
	}
	l := newLife(cmd)
	for {
		err := run(l)
		switch {
		case err == nil:
			boot.RebootForEver(con.Printf)
		case errors.Is(err, errUntrusted):
			stop(con)
		}
		con.Printf("the agent has ended (%v); starting it again", err)
		time.Sleep(3 * time.Second)
	}
}

// stop is the end of a boot that nobody can be believed in. Its reason is on the
// console already.
func stop(con *agent.Console) {
	con.Printf("nothing was changed on this machine; it starts anew in %s, or when it is switched off and on", stopTime)
	time.Sleep(stopTime)
	boot.RebootForEver(con.Printf)
}

func commandLine() boot.Cmdline {
	line, _ := os.ReadFile("/proc/cmdline")
	return boot.ParseCmdline(string(line))
}

// life is what outlives an agent that crashes: a boot has one id, one key and one
// clock that was found wrong.
type life struct {
	BootID   string
	Seed     []byte // of the session's key
	ClockOff int64
}

func newLife(cmd boot.Cmdline) life {
	return life{BootID: agent.NewBootID(), Seed: agent.NewKey().Seed(), ClockOff: boot.ClockOff(time.Now(), boot.Clock(cmd.Time)())}
}

// hand gives the life to a process that is about to start. The key stands in no
// environment and on no command line.
func (l life) hand() (*os.File, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(b) // a pipe holds far more
	return r, errors.Join(err, w.Close())
}

// takeLife reads what hand gave.
func takeLife() (l life) {
	if err := json.NewDecoder(os.NewFile(3, "life")).Decode(&l); err != nil || len(l.Seed) != ed25519.SeedSize {
		fmt.Fprintln(os.Stderr, "error: the first process has handed nothing over:", err)
		os.Exit(1)
	}
	return l
}

// errUntrusted says that there is nobody that the agent can believe.
var errUntrusted = errors.New("no node is believed")

// run starts the agent and waits for its end, which is nil when the machine is
// to restart.
func run(l life) error {
	handed, err := l.hand()
	if err != nil {
		return err
	}
	defer handed.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"lpmos-agent"}, &os.ProcAttr{
		Env:   []string{handedVar + "=1", "PATH=/"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, handed},
	})
	if err != nil {
		return err
	}
	st, err := p.Wait()
	if err == nil && st.ExitCode() == untrusted {
		return errUntrusted
	}
	if err == nil && !st.Success() {
		return fmt.Errorf("%s", st)
	}
	return err
}

// live is one agent's life; returning from it restarts the machine.
func live(l life) {
	ctx := context.Background()
	con := agent.NewConsole(boot.Consoles(), time.Now)
	cmd, key := commandLine(), ed25519.NewKeyFromSeed(l.Seed)
	clock := boot.Clock(cmd.Time)

	rescan := func() {}
	if drivers, err := boot.OpenDrivers(); err != nil {
		con.Printf("%v; going on with what the kernel has built in", err)
	} else {
		con.Printf("drivers: %d loaded", drivers.Coldplug(con.Printf))
		for _, name := range []string{"ipmi_si", "ipmi_devintf", "efivarfs"} { // no device asks for these
			drivers.Load(name, con.Printf)
		}
		rescan = func() { drivers.Coldplug(con.Printf) }
	}
	boot.MountEFIVariables(con.Printf)
	boot.LoopbackUp(con.Printf)

	network := boot.Network{BootMAC: cmd.MAC, Rand: rand.Uint32, Say: con.Printf, Rescan: rescan}
	lease, err := network.Up(ctx)
	if err != nil {
		con.Printf("%v", err)
		os.Exit(1)
	}
	con.Printf("network: %s has address %s from %s", lease.Interface, lease.Address, lease.Server)
	boot.Settle(ctx, rescan)
	network.Rescan = nil // from here on Collect does it, in the agent's goroutine
	go network.Keep(ctx, lease)
	mac := lease.MAC.String()

	a, err := agent.New(agent.Config{
		Nodes: cmd.Nodes, MAC: mac, BootMAC: cmd.MAC, IP: lease.Address.Addr().String(), Version: version, BootID: l.BootID,
		Trust: pin.NewVerifier(cmd.Pin, clock), Claim: cmd.Claim, Key: key, ClockOff: l.ClockOff,
		// Not before: until then nobody has proved that this is the time.
		Believed: func() { boot.SetClock(clock(), con.Printf) },
		Collect: func() wire.Inventory {
			rescan()
			return inventory.Collect(inventory.Options{BootMAC: mac})
		},
		Installer: installer{mac: mac, logf: con.Printf},
		Console:   con, Rand: rand.Float64,
	})
	if err != nil {
		con.Printf("%v", err)
		os.Exit(1)
	}
	banner(con, cmd, lease, wire.PairingCode(wire.SessionOf(key.Public().(ed25519.PublicKey))))
	outcome, err := a.Run(ctx)
	var nobody *agent.Untrusted
	switch {
	case errors.As(err, &nobody):
		con.Printf("STOPPED: %v", nobody)
		os.Exit(untrusted)
	case errors.Is(err, agent.ErrClaim):
		con.Printf("%v; starting the machine anew, which gives it another claim code", err)
		return
	case err != nil:
		con.Printf("%v", err)
		os.Exit(1)
	}
	con.Printf("done: %s", outcome)
}

// banner shows which machine this is.
func banner(con *agent.Console, cmd boot.Cmdline, lease boot.Lease, pairing string) {
	sys := inventory.Identity("")
	con.Banner(
		[2]string{"version", version},
		[2]string{"machine", strings.TrimSpace(sys.Vendor + " " + sys.Product)},
		[2]string{"serial", sys.Serial},
		[2]string{"MAC", lease.MAC.String()},
		[2]string{"address", lease.Address.String()},
		[2]string{"node", strings.Join(cmd.Nodes, " ")},
		[2]string{"pairing", pairing + " (the same on the screen where you approve)"},
	)
}
