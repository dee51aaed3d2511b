package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// takedownLimit is how long the inside may take to put everything away before
// it is killed, and with it, by the kernel, everything that is left.
const takedownLimit = 30 * time.Second

// Rack is a running rack seen from the host.
type Rack struct {
	dir   string
	nodes []Node
	start time.Time
	cmd   *exec.Cmd
	lock  *os.File
	gone  chan struct{}
	err   error
}

// Up builds a rack and runs it until ctx ends; see Start.
func Up(ctx context.Context, o Options) error {
	r, err := Start(ctx, o)
	if err != nil {
		return err
	}
	if err := r.Wait(); err != nil {
		return err
	}
	if o.Out != nil {
		fmt.Fprintf(o.Out, "%8.1fs  rack  taken down, nothing of it runs any more; disks and logs stay in %s\n", time.Since(r.start).Seconds(), r.dir)
	}
	return nil
}

// Start builds a rack and returns when its nodes are one cluster, the control
// socket answers and, unless told otherwise, the machines have power. The rack
// is taken down when ctx ends. Errors say what is missing on this host, that a rack
// is already running in the directory, or what of the rack did not start.
func Start(ctx context.Context, o Options) (*Rack, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	missing := checkNeeds(needs(o), hasProgramOrFile)
	if !o.Simulated {
		missing = errors.Join(missing, checkTun())
	}
	if missing != nil {
		return nil, fmt.Errorf("lab: %w", missing)
	}
	o.Out = &lockedWriter{w: o.Out} // the inside prints too
	r := &Rack{dir: o.Dir, start: time.Now(), gone: make(chan struct{})}
	if r.lock, err = lockRack(o.Dir); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := r.launch(ctx, o); err != nil {
		r.lock.Close()
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := r.powerOn(ctx, o); err != nil {
		// What broke the rack says more than how it was noticed.
		if broke := r.Stop(); broke != nil {
			err = broke
		}
		return nil, fmt.Errorf("lab: %w", err)
	}
	return r, nil
}

// powerOn gives the machines power once there are nodes to boot from.
func (r *Rack) powerOn(ctx context.Context, o Options) error {
	if err := r.form(ctx); err != nil || o.StartOff {
		return err
	}
	for _, m := range machines(o) {
		if err := r.Client().PowerOn(ctx, m.Name); err != nil {
			return err
		}
	}
	return nil
}

// listen opens the dashboards' addresses on the host.
func (r *Rack) listen(first string) (listeners []*os.File, err error) {
	for i := range r.nodes {
		address, err := listenAddress(first, i)
		if err != nil {
			return listeners, err
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return listeners, fmt.Errorf("open the dashboard's address of %s: %w (choose another one to listen on)", r.nodes[i].Name, err)
		}
		defer l.Close()
		r.nodes[i].URL = "http://" + l.Addr().String()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return listeners, fmt.Errorf("hand on the listener: %w", err)
		}
		listeners = append(listeners, f)
	}
	return listeners, nil
}

// launch starts the inside and waits for its word that it is ready.
func (r *Rack) launch(ctx context.Context, o Options) error {
	list := machines(o)
	r.nodes = nodes(o)
	if err := prepare(o, r.nodes, list); err != nil {
		return err
	}
	accel, why, err := "none", "its machines are simulated", error(nil)
	if !o.Simulated {
		accel, why, err = accelerator(ctx, o.Dir, o.Kernel)
	}
	if err != nil {
		return err
	}
	host, err := networkNamespace()
	if err != nil {
		return err
	}
	listeners, err := r.listen(o.Listen)
	defer closeAll(listeners)
	if err != nil {
		return err
	}
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer readyEnd.Close()
	plan, err := json.Marshal(spec{
		Dir: o.Dir, Binary: o.Binary, Accel: accel, Host: host, Start: r.start,
		Restart: !o.NoRestart, ExternalDHCP: o.ExternalDHCP, Simulated: o.Simulated, Nodes: r.nodes, Machines: list,
	})
	if err != nil {
		return err
	}

	// Cancel asks first; what still lives after WaitDelay is killed.
	r.cmd = exec.CommandContext(ctx, o.Binary, "lab", "inner")
	r.cmd.Cancel = func() error { return r.cmd.Process.Signal(syscall.SIGTERM) }
	r.cmd.WaitDelay = takedownLimit
	r.cmd.Stdin = bytes.NewReader(plan)
	var complaint strings.Builder
	r.cmd.Stdout, r.cmd.Stderr = o.Out, &complaint
	r.cmd.ExtraFiles = append([]*os.File{readyEnd, r.lock}, listeners...)
	r.cmd.SysProcAttr = namespaceAttr(os.Geteuid(), os.Getegid())
	if err := bear(r.cmd); err != nil {
		return fmt.Errorf("enter a new network namespace: %w (in a container, allow unprivileged user namespaces or CAP_SYS_ADMIN)", err)
	}
	go func() {
		err := r.cmd.Wait()
		r.lock.Close()
		r.err = innerError(ctx, err, complaint.String())
		close(r.gone)
	}()
	readyEnd.Close() // or its end would never be seen here
	if n, _ := ready.Read(make([]byte, 1)); n == 0 {
		if err := r.Wait(); err != nil {
			return err
		}
		return errors.New("the rack was stopped before it was ready")
	}
	fmt.Fprintf(o.Out, "%8.1fs  rack  %d node(s) and %d machine(s) on a network of their own (%s: %s), this host's links stay as they are\n",
		time.Since(r.start).Seconds(), len(r.nodes), len(list), accel, why)
	for _, n := range r.nodes {
		fmt.Fprintf(o.Out, "%8.1fs  %-5s dashboard: %s  log: %s\n", time.Since(r.start).Seconds(), n.Name, n.URL, n.Log())
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// innerError turns the inside's end into an error, nil when it was asked to end.
func innerError(ctx context.Context, err error, complaint string) error {
	complaint = strings.TrimPrefix(strings.TrimSpace(complaint), "error: ")
	switch {
	case err == nil, ctx.Err() != nil && complaint == "":
		return nil
	case complaint != "":
		return fmt.Errorf("the rack broke: %s", complaint)
	default:
		return fmt.Errorf("the rack broke: %w", err)
	}
}

// namespaceAttr is how the inside starts: in a network namespace of its own,
// for which anybody but root needs a user namespace too. Its process group is
// its own, so that Ctrl-C reaches only us and the taking down keeps its order.
func namespaceAttr(uid, gid int) *syscall.SysProcAttr {
	attr := dieWithParent()
	attr.Setpgid = true
	attr.Cloneflags = syscall.CLONE_NEWNET
	if uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return attr
}

// URL is the first node's dashboard on the host, such as http://127.0.0.1:8080.
func (r *Rack) URL() string { return r.nodes[0].URL }

// Nodes are the rack's nodes as they were built.
func (r *Rack) Nodes() []Node { return slices.Clone(r.nodes) }

// Started is the moment all elapsed times count from.
func (r *Rack) Started() time.Time { return r.start }

// Client returns a client for the rack.
func (r *Rack) Client() *Client { return NewClient(r.dir) }

// Wait returns when the rack is gone: nil when it was asked to go, otherwise
// what broke it.
func (r *Rack) Wait() error {
	<-r.gone
	return r.err
}

// Stop takes the rack down and waits until nothing of it is left.
func (r *Rack) Stop() error {
	// It may be gone already: then there is nobody to signal, and Wait knows why.
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	return r.Wait()
}

// lockedWriter lets two goroutines print whole lines to one place.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
