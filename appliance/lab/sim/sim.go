package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// Options say what fleet to be.
type Options struct {
	Device   string            // the card, "eth0"
	Dir      string            // for the disks of those that are installed; needed with Install
	Machines int               // how many
	Install  int               // so many of them are installed, the others wait in the agent
	Shapes   []pxeclient.Shape // dealt out in turn; default bios, uefi
	Stagger  time.Duration     // the span over which they get power; 0: all at once
	Loss     float64           // of DHCP packets, each way
	Short    int64             // fetch so many bytes of kernel and initramfs; 0: all
	Quick    bool              // UEFI takes the first offer in place of collecting for four seconds
	Seed     uint64            // of all dice
	Servers  int               // so many DHCP servers have to answer before anything gets power

	// Approve has the machine with that MAC installed, as an operator. Needed with Install.
	Approve func(ctx context.Context, mac, hostname string) error
	// Processes are the nodes by name, as far as they run.
	Processes func(ctx context.Context) map[string]int
	// Counters are what each node that runs has counted on the wire; nil: nobody is asked.
	Counters func(ctx context.Context) map[string]map[string]uint64
	// Fault is what happens to the nodes half-way; nil: nothing.
	Fault *Fault
	Say   func(format string, args ...any) // what happens, a line each
}

// Fault is done once, when so many of the machines have reported or so much time has
// passed, whichever is set.
type Fault struct {
	Part  float64
	After time.Duration
	What  string
	Do    func(ctx context.Context) error
}

// defaults fills in what may be left out.
func (o Options) defaults() (Options, error) {
	if len(o.Shapes) == 0 {
		o.Shapes = []pxeclient.Shape{pxeclient.BIOS, pxeclient.UEFI}
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	switch {
	case o.Machines < 1 || o.Machines > 0xffff:
		return o, fmt.Errorf("machines %d: must be 1 to 65535", o.Machines)
	case o.Install < 0 || o.Install > o.Machines:
		return o, fmt.Errorf("install %d: must be 0 to %d, the machines there are", o.Install, o.Machines)
	case o.Install > 0 && (o.Approve == nil || o.Dir == ""):
		return o, errors.New("machines that are installed need somebody who approves it and a directory for their disks")
	case o.Loss < 0 || o.Loss >= 1:
		return o, fmt.Errorf("loss %v: must be 0 or more and below 1", o.Loss)
	}
	return o, nil
}

// countersTime is how long the nodes may take to say what they have counted.
const countersTime = 10 * time.Second

// run is a fleet that is on.
type run struct {
	Options
	wire  *ethernet
	began time.Time
	fig   *figures
	bytes counter
	dials counter

	mu       sync.Mutex
	reported map[string]bool
	up       map[string]bool // installed, and booted from their disks
	changed  chan struct{}   // closed and made anew with every change
	doing    map[string]int  // how many machines are at which step
}

// Run has the fleet boot and returns when every machine has reached its goal, which is
// the agent's report or, for those that are installed, their own disk; or when ctx
// ends. What has been measured so far is given in each case.
func Run(ctx context.Context, o Options) (Result, error) {
	o, err := o.defaults()
	if err != nil {
		return Result{}, err
	}
	w, err := openEthernet(o.Device, o.Loss, o.Seed)
	if err != nil {
		return Result{}, err
	}
	defer w.Close()
	if o.Install > 0 {
		if err := os.MkdirAll(o.Dir, 0o755); err != nil {
			return Result{}, err
		}
	}
	if err := scout(ctx, w, o.Servers, rand.New(rand.NewPCG(o.Seed, 67))); err != nil {
		return Result{}, err
	}
	r := &run{Options: o, wire: w, began: time.Now(), fig: newFigures(),
		reported: map[string]bool{}, up: map[string]bool{}, changed: make(chan struct{}), doing: map[string]int{}}

	fleet, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	use := newUsage(o.Processes)
	all.Go(func() { use.watch(fleet) })
	for i := range o.Machines {
		m := r.newMachine(i)
		all.Go(func() { m.live(fleet, time.Duration(float64(o.Stagger)*float64(i)/float64(o.Machines))) })
	}
	if o.Fault != nil {
		all.Go(func() { r.fault(fleet) })
	}
	err = r.await(ctx)
	took := time.Since(r.began)
	stop()
	all.Wait()
	res := r.result(took)
	res.Nodes = use.result()
	if o.Counters != nil {
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), countersTime)
		defer cancel()
		res.Counters = o.Counters(ask)
	}
	return res, err
}

// await returns when all goals are reached, and says now and then how many are.
func (r *run) await(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		r.mu.Lock()
		changed, reported, up := r.changed, len(r.reported), len(r.up)
		r.mu.Unlock()
		if reported == r.Machines && up == r.Install {
			return nil
		}
		select {
		case <-changed:
		case <-tick.C:
			r.Say("%d of %d machines have reached the agent, %d of %d are installed; now at %s", reported, r.Machines, up, r.Install, r.atWork())
		case <-ctx.Done():
			return fmt.Errorf("%d of %d machines have reached the agent and %d of %d are installed; stuck at %s: %w", reported, r.Machines, up, r.Install, r.atWork(), context.Cause(ctx))
		}
	}
}

// atWork says how many machines are at which step.
func (r *run) atWork() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var names []string
	for name, n := range r.doing {
		if n > 0 {
			names = append(names, fmt.Sprintf("%s %d", name, n))
		}
	}
	slices.Sort(names)
	return fmt.Sprint(names)
}

// note keeps that a machine has reached a goal.
func (r *run) note(goal map[string]bool, mac string) (first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if goal[mac] {
		return false
	}
	goal[mac] = true
	close(r.changed)
	r.changed = make(chan struct{})
	return true
}

// fault waits for its moment.
func (r *run) fault(ctx context.Context) {
	if r.Fault.After > 0 {
		t := time.NewTimer(r.Fault.After)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	} else {
		for {
			r.mu.Lock()
			changed, reported := r.changed, len(r.reported)
			r.mu.Unlock()
			if float64(reported) >= r.Fault.Part*float64(r.Machines) {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
	r.Say("%s, with machines at %s", r.Fault.What, r.atWork())
	if err := r.Fault.Do(ctx); err != nil {
		r.Say("that failed: %v", err)
		r.fig.trouble("fault: " + err.Error())
	}
}

// dice are one machine's own.
func (r *run) dice(i int) *rand.Rand { return rand.New(rand.NewPCG(r.Seed, uint64(i)+1)) }
