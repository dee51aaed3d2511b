package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// cableEnd is the far end of every cable, the only network card of who lives there.
const cableEnd = "eth0"

// nowhere is the hardware address of no card: the bridge floods what is sent to
// it, and nobody takes it.
const nowhere = "02:00:00:00:00:ff"

// cable joins a network namespace of its own to the rack's bridge. The namespace
// outlives who lives in it: a killed node leaves a host that still answers, as a
// real one would, and comes back to the same card.
type cable struct {
	port string   // the near end, on the bridge
	ns   *os.File // the far end is in here
}

// plug lays a cable to a new namespace that has the address there.
func plug(port, prefix string) (*cable, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	c := &cable{port: port, ns: ns}
	err = ip([]string{
		"link add " + port + " type veth peer name " + cableEnd + " netns /proc/self/fd/3",
		"link set " + port + " master " + bridgeName + " up",
	}, ns)
	if err == nil {
		err = c.inside(func() error {
			return ip([]string{"link set lo up", "addr add " + prefix + " dev " + cableEnd, "link set " + cableEnd + " up"})
		})
	}
	if err != nil {
		ns.Close()
		return nil, err
	}
	return c, nil
}

// newNamespace makes an empty network namespace. It lives as long as the file is
// open or a process is in it.
func newNamespace() (*os.File, error) {
	var ns *os.File
	err := apart(func() error {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// apart runs f on a thread of its own, whose namespace f may change. The thread
// ends with f, and by Pdeathsig what f has started does too.
func apart(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the runtime throws the thread away
		done <- f()
	}()
	return <-done
}

// inside runs f on a thread in the namespace.
func (c *cable) inside(f func() error) error {
	return apart(func() error {
		if err := unix.Setns(int(c.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace behind %s: %w", c.port, err)
		}
		return f()
	})
}

// start runs a program in the namespace and tells ended, once, how it ended.
func (c *cable) start(cmd *exec.Cmd, ended func(error)) error {
	started, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		failed <- c.inside(func() error {
			if err := cmd.Start(); err != nil {
				return err
			}
			close(started)
			// Waiting here keeps the thread, and by Pdeathsig the program, alive.
			ended(cmd.Wait())
			return nil
		})
	}()
	select {
	case <-started:
		return nil
	case err := <-failed:
		return err
	}
}

// toFleet sends what is for the machines of a simulated fleet to their card. All racks of
// a host share the one table of neighbours that its kernel has, by default for 1,024 of
// them, and a fleet has a thousand at each node.
func (c *cable) toFleet() error {
	card, _, _ := strings.Cut(fleetPrefix, "/")
	return c.inside(func() error { return ip([]string{"route add " + fleetNetwork + " via " + card + " dev " + cableEnd}) })
}

// pull takes the cable out of the bridge: nothing and nobody gets through.
func (c *cable) pull() error { return ip([]string{"link set " + c.port + " down"}) }

// push puts the cable back in.
func (c *cable) push() error { return ip([]string{"link set " + c.port + " up"}) }

// lose lets what is sent to an address of the wire go nowhere, in silence. A
// blackhole route would tell the sender.
func (c *cable) lose(address string) error {
	return c.inside(func() error {
		return ip([]string{"neigh replace " + address + " lladdr " + nowhere + " dev " + cableEnd + " nud permanent"})
	})
}

// find takes lose back.
func (c *cable) find(address string) error {
	return c.inside(func() error { return ip([]string{"neigh del " + address + " dev " + cableEnd}) })
}
