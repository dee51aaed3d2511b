package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// quitLimit is how long QEMU may take to close its disks before it is killed.
const quitLimit = 5 * time.Second

// errState means that a command does not fit the state a machine or the node is in.
var errState = errors.New("not now")

// guest is a machine with its power button: while it has power there is a QEMU.
type guest struct {
	accel   string
	console *console
	say     func(format string, args ...any) // prints one event of this machine
	now     func() time.Time

	press     sync.Mutex // held while the button is pressed: on and off take their time
	mu        sync.Mutex // guards what follows
	m         Machine
	run       *qemuRun  // nil without power
	since     time.Time // of the last change of power; zero before the first
	lastReset time.Time
	wanted    bool // somebody gave it power and nobody took it
}

// qemuRun is one life of QEMU.
type qemuRun struct {
	cmd      *exec.Cmd
	qmp      *qmp
	keyboard io.WriteCloser
	gone     chan struct{} // closed when the process is reaped
	err      error         // how it ended; set before gone is closed
}

// on gives the machine power.
func (g *guest) on() error {
	g.press.Lock()
	defer g.press.Unlock()
	return g.start()
}

// start gives the machine power; the caller presses the button.
func (g *guest) start() error {
	m, run, _ := g.state()
	if run != nil {
		return fmt.Errorf("%s has power already: %w", m.Name, errState)
	}
	for _, d := range m.Disks {
		if err := makeSparse(d.Path, d.Bytes); err != nil {
			return fmt.Errorf("disk of %s: %w", m.Name, err)
		}
	}
	run, err := g.startQEMU(m)
	if err != nil {
		return fmt.Errorf("power on %s: %w", m.Name, err)
	}
	g.mu.Lock()
	g.run, g.since, g.wanted = run, g.now(), true
	g.mu.Unlock()
	g.say("power on: %s, %s, %d disk(s)", m.Firmware, m.MAC, len(m.Disks))
	go g.watch(run)
	return nil
}

// startQEMU returns once QEMU has built the machine and lets it run.
func (g *guest) startQEMU(m Machine) (*qemuRun, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	log, err := os.OpenFile(m.qemuLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		ours.Close()
		return nil, err
	}
	defer log.Close()
	run := &qemuRun{cmd: exec.Command(qemuProgram, qemuArgs(m, g.accel)...), gone: make(chan struct{})}
	run.cmd.Stdout, run.cmd.Stderr = g.console, log
	run.cmd.ExtraFiles = []*os.File{theirs} // becomes qmpFD
	run.cmd.SysProcAttr = dieWithParent()
	if run.keyboard, err = run.cmd.StdinPipe(); err != nil {
		ours.Close()
		return nil, err
	}
	if err := bear(run.cmd); err != nil {
		ours.Close()
		return nil, err
	}
	// Only QEMU may hold its end now, or its death would go unseen.
	theirs.Close()
	go func() {
		run.err = run.cmd.Wait()
		close(run.gone)
	}()
	if run.qmp, err = newQMP(ours, g.event); err != nil {
		_ = run.cmd.Process.Kill()
		<-run.gone
		return nil, fmt.Errorf("%w: %s", err, lastLine(m.qemuLog()))
	}
	return run, nil
}

// watch notices when the machine loses power, whoever took it.
func (g *guest) watch(run *qemuRun) {
	<-run.gone
	run.qmp.close()
	g.lost(run)
	g.mu.Lock()
	log, wanted := g.m.qemuLog(), g.wanted
	g.mu.Unlock()
	if run.err == nil {
		g.say("power off")
		return
	}
	g.say("power off: QEMU ended with %v: %s", run.err, lastLine(log))
	if wanted && crashed(run.err) {
		g.revive()
	}
}

// lost notes that a run has ended, whoever sees it first.
func (g *guest) lost(run *qemuRun) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run == run {
		g.run, g.since = nil, g.now()
	}
}

// crashed tells an emulator that fell over from one that was made to end.
func crashed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && (status.Signal() == syscall.SIGSEGV || status.Signal() == syscall.SIGABRT)
}

// revive gives power back to a machine whose emulator crashed: to the machine it
// is a power cut, which it has to survive. QEMU with several threads of emulated
// CPU falls over once in some hundred boots.
func (g *guest) revive() {
	time.Sleep(restartDelay)
	g.press.Lock()
	defer g.press.Unlock()
	g.mu.Lock()
	wanted := g.wanted && g.run == nil
	g.mu.Unlock()
	if !wanted {
		return
	}
	g.say("the emulator crashed: power is back")
	if err := g.start(); err != nil {
		g.say("%v", err)
	}
}

func (g *guest) event(name, reason string) {
	switch {
	case name == "RESET":
		g.sayReset(reason)
	case name == "SHUTDOWN" && reason == "guest-shutdown":
		g.say("switches itself off")
	}
}

// sayReset tells of a reset, once: SeaBIOS answers one with a hard reset of its
// own to reach a clean state, which nobody outside asked for.
func (g *guest) sayReset(reason string) {
	g.mu.Lock()
	echo := g.now().Sub(g.lastReset) < 2*time.Second
	g.lastReset = g.now()
	g.mu.Unlock()
	switch {
	case echo:
	case reason == "guest-reset":
		g.say("restarts itself")
	default:
		g.say("reset")
	}
}

// off takes the power away, as a pulled plug would. A machine without power
// stays as it is.
func (g *guest) off() {
	g.mu.Lock()
	g.wanted = false
	g.mu.Unlock()
	g.press.Lock()
	defer g.press.Unlock()
	_, run, _ := g.state()
	if run == nil {
		return
	}
	// quit lets QEMU finish the writes the guest was told are done.
	go run.qmp.execute("quit", nil)
	limit := time.NewTimer(quitLimit)
	defer limit.Stop()
	select {
	case <-run.gone:
	case <-limit.C:
		_ = run.cmd.Process.Kill()
		<-run.gone
	}
	g.lost(run) // who is told that it is off may touch its disks
}

// reset presses the reset button.
func (g *guest) reset() error {
	_, err := g.command("system_reset", nil)
	return err
}

// command hands a QMP command to the machine's QEMU.
func (g *guest) command(name string, arguments json.RawMessage) (json.RawMessage, error) {
	m, run, _ := g.state()
	if run == nil {
		return nil, fmt.Errorf("%s has no power: %w", m.Name, errState)
	}
	var args any
	if len(arguments) > 0 {
		args = arguments
	}
	return run.qmp.execute(name, args)
}

// typeText types on the serial console.
func (g *guest) typeText(text io.Reader) error {
	m, run, _ := g.state()
	if run == nil {
		return fmt.Errorf("%s has no power: %w", m.Name, errState)
	}
	if _, err := io.Copy(run.keyboard, text); err != nil {
		return fmt.Errorf("type on %s: %w", m.Name, err)
	}
	return nil
}

// setDisks changes what is in the slots; only without power.
func (g *guest) setDisks(disks []Disk) error {
	if err := validateDisks(disks); err != nil {
		return badRequest{err}
	}
	g.press.Lock()
	defer g.press.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run != nil {
		return fmt.Errorf("%s has power, switch it off before touching its disks: %w", g.m.Name, errState)
	}
	g.m.Disks = disks
	return nil
}

func (g *guest) state() (Machine, *qemuRun, time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.m, g.run, g.since
}

// socketPair returns two connected ends: one to talk on, one to give away.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "qmp")
	defer mine.Close() // FileConn works on a duplicate
	conn, err := net.FileConn(mine)
	if err != nil {
		syscall.Close(fds[1])
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return conn, os.NewFile(uintptr(fds[1]), "qmp-peer"), nil
}
