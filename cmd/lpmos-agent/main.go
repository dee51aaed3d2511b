// Command lpmos-agent is the first and only program of a machine that is being
// installed. It runs from RAM, shows a node what the machine is, and does what a
// person has approved there.
//
// On a running Linux system it prints the inventory it would report.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/boot"
	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/inventory"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// version is set by the linker.
var version = "dev"

// bootIDVar hands the boot's id from the first process to the agent it starts.
const bootIDVar = "LPMOS_BOOT_ID"

func main() {
	if os.Getpid() == 1 {
		firstProcess()
	}
	if id := os.Getenv(bootIDVar); id != "" && os.Getppid() == 1 {
		live(id)
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
  lpmos.node=URL    the node to report to; up to three
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
	id := agent.NewBootID()
	for {
		err := run(id)
		if err == nil {
			boot.RebootForEver(con.Printf)
		}
		con.Printf("the agent has ended (%v); starting it again", err)
		time.Sleep(3 * time.Second)
	}
}

// run starts the agent and waits for its end, which is nil when the machine is
// to restart.
func run(bootID string) error {
	p, err := os.StartProcess("/proc/self/exe", []string{"lpmos-agent"}, &os.ProcAttr{
		Env:   []string{bootIDVar + "=" + bootID, "PATH=/"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	st, err := p.Wait()
	if err == nil && !st.Success() {
		return fmt.Errorf("%s", st)
	}
	return err
}

// live is one agent's life; returning from it restarts the machine.
func live(bootID string) {
	ctx := context.Background()
	con := agent.NewConsole(boot.Consoles(), time.Now)
	line, _ := os.ReadFile("/proc/cmdline")
	cmd := boot.ParseCmdline(string(line))
	boot.SetClock(cmd.Time, con.Printf)

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
		Nodes: cmd.Nodes, MAC: mac, BootMAC: cmd.MAC, IP: lease.Address.Addr().String(), Version: version, BootID: bootID,
		Collect: func() wire.Inventory {
			rescan()
			return inventory.Collect(inventory.Options{BootMAC: mac})
		},
		Grants:    grant.NewChecker(pin.NewVerifier(cmd.Pin, time.Now)),
		Installer: installer{mac: mac, logf: con.Printf},
		Console:   con, Rand: rand.Float64,
	})
	if err != nil {
		con.Printf("%v", err)
		os.Exit(1)
	}
	banner(con, cmd, lease)
	outcome, err := a.Run(ctx)
	if err != nil {
		con.Printf("%v", err)
		os.Exit(1)
	}
	con.Printf("done: %s", outcome)
}

// banner shows which machine this is.
func banner(con *agent.Console, cmd boot.Cmdline, lease boot.Lease) {
	sys := inventory.Identity("")
	con.Banner(
		[2]string{"version", version},
		[2]string{"machine", strings.TrimSpace(sys.Vendor + " " + sys.Product)},
		[2]string{"serial", sys.Serial},
		[2]string{"MAC", lease.MAC.String()},
		[2]string{"address", lease.Address.String()},
		[2]string{"node", strings.Join(cmd.Nodes, " ")},
	)
}
