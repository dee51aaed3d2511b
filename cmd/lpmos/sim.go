package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/appliance/lab/sim"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot/pxeclient"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

// fleetPlan is what "lab sim" tells "lab fleet", which runs at the end of a cable of
// the rack.
type fleetPlan struct {
	Dir      string            `json:"dir"` // of the rack
	Machines int               `json:"machines"`
	Install  int               `json:"install"`
	Image    string            `json:"image"`
	Shapes   []pxeclient.Shape `json:"shapes"`
	Stagger  time.Duration     `json:"stagger"`
	Loss     float64           `json:"loss"`
	Short    int64             `json:"short"`
	Quick    bool              `json:"quick"`
	Seed     uint64            `json:"seed"`
	Kill     string            `json:"kill"` // the node that is killed; "" is none
	Part     float64           `json:"part"`
	After    time.Duration     `json:"after"`
	Limit    time.Duration     `json:"limit"`
}

// fleetLine is a line of what "lab fleet" prints.
type fleetLine struct {
	Say    string      `json:"say,omitempty"`
	Result *sim.Result `json:"result,omitempty"`
}

func labSim(node *nodeFlags, dir *string) *cobra.Command {
	p := fleetPlan{}
	var nodes int
	var kill, image string
	var shapes []string
	var shortMB float64
	cmd := &cobra.Command{Use: "sim", Short: "Boot a fleet of simulated machines against a node or a cluster",
		Long: "Has any number of machines power on, boot as firmware does and run the agent's own code, on a\n" +
			"network of their own, and prints how long every step took. Uses the rack that runs in --dir,\n" +
			"which lpmos lab up --fleet has made, or makes one and takes it down. Ends with an error\n" +
			"unless every machine has reached the agent and every one that is to be installed its own disk.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range shapes {
				p.Shapes = append(p.Shapes, pxeclient.Shape(s))
			}
			p.Short = int64(shortMB * 1e6)
			name, file, _ := strings.Cut(image, "=")
			p.Image = name
			if err := p.check(file, nodes, kill); err != nil {
				return &usageError{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			f := &fleetRun{plan: p, file: file, out: cmd.OutOrStdout(), json: node.json}
			return f.run(ctx, *dir, nodes)
		}}
	f := cmd.Flags()
	f.IntVar(&p.Machines, "machines", 100, "how many machines")
	f.IntVar(&p.Install, "install", 0, "install so many of them, on sparse files; needs --image")
	f.StringVar(&image, "image", "", "import this image to install, as `NAME=FILE`")
	f.IntVar(&nodes, "nodes", 1, "how many nodes the rack gets")
	f.StringSliceVar(&shapes, "firmware", []string{"bios", "uefi"}, "their `firmware`, dealt out in turn: bios, uefi, uefi-http, ipxe, ipxe-uefi")
	f.DurationVar(&p.Stagger, "stagger", 0, "give them power over this span in place of all at once")
	f.Float64Var(&p.Loss, "loss", 0, "lose this part of the DHCP packets, each way, for instance 0.1")
	f.StringVar(&kill, "kill-node", "", "kill a node for good, `[NAME@]WHEN`: 50% is when half of the machines have reported, 20s is a time; n1 if not named")
	f.Float64Var(&shortMB, "short", 0, "fetch so many `MB` of kernel and initramfs in place of all")
	f.BoolVar(&p.Quick, "quick", false, "UEFI takes the first offer in place of collecting for four seconds")
	f.Uint64Var(&p.Seed, "seed", 1, "of all dice")
	f.DurationVar(&p.Limit, "limit", 10*time.Minute, "give up after this time")
	return cmd
}

// shapesOf are the firmwares a fleet may have.
var shapesOf = []pxeclient.Shape{pxeclient.BIOS, pxeclient.UEFI, pxeclient.UEFIHTTP, pxeclient.IPXE, pxeclient.IPXEUEFI}

// check looks at what was asked for before anything is built.
func (p *fleetPlan) check(file string, nodes int, kill string) error {
	for _, s := range p.Shapes {
		if !slices.Contains(shapesOf, s) {
			return fmt.Errorf("--firmware %s: must be bios, uefi, uefi-http, ipxe or ipxe-uefi", s)
		}
	}
	switch {
	case p.Machines < 1 || p.Machines > 10000:
		return fmt.Errorf("--machines %d: must be 1 to 10000", p.Machines)
	case p.Install < 0 || p.Install > p.Machines:
		return fmt.Errorf("--install %d: must be 0 to %d, the machines there are", p.Install, p.Machines)
	case p.Install > 0 && file == "":
		return errors.New("--install needs an image: --image NAME=FILE")
	case p.Loss < 0 || p.Loss >= 1:
		return fmt.Errorf("--loss %v: must be 0 or more and below 1", p.Loss)
	}
	if file != "" {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("--image: %w", err)
		}
	}
	if kill == "" {
		return nil
	}
	var err error
	p.Kill, p.Part, p.After, err = parseKill(kill)
	switch {
	case err != nil:
		return err
	case nodes < 3:
		return fmt.Errorf("--kill-node with %d node(s): the others go on from three nodes on (--nodes 3)", nodes)
	}
	return nil
}

// parseKill reads [NAME@]WHEN.
func parseKill(s string) (name string, part float64, after time.Duration, err error) {
	name, at, named := strings.Cut(s, "@")
	if !named {
		name, at = "n1", s
	}
	if percent, ok := strings.CutSuffix(at, "%"); ok {
		part, err = strconv.ParseFloat(percent, 64)
		part /= 100
		if err == nil && (part <= 0 || part >= 1) {
			err = errors.New("out of range")
		}
	} else if after, err = time.ParseDuration(at); err == nil && after <= 0 {
		err = errors.New("out of range")
	}
	if err != nil || name == "" {
		return "", 0, 0, fmt.Errorf("--kill-node %q: write 50%%, 20s or n2@50%%", s)
	}
	return name, part, after, nil
}

// fleetRun is "lab sim" seen from outside of the rack.
type fleetRun struct {
	plan   fleetPlan
	file   string
	out    io.Writer
	json   bool
	begun  time.Time
	result *sim.Result
	rest   []byte // of a line that has not come whole
}

func (f *fleetRun) run(ctx context.Context, dir string, nodes int) error {
	f.begun = time.Now()
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	f.plan.Dir = abs
	rack := lab.NewClient(abs)
	if _, err := rack.State(ctx); err != nil {
		story := f.out
		if f.json {
			story = io.Discard
		}
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		made, err := lab.Start(ctx, lab.Options{Dir: abs, Reset: true, Nodes: nodes, Simulated: true, Listen: "127.0.0.1:0", Out: story, NoRestart: true})
		if err != nil {
			return err
		}
		defer func() { stop(); _ = made.Wait() }()
	}
	if err := f.prepare(ctx, rack); err != nil {
		return err
	}
	plan, err := json.Marshal(f.plan)
	if err != nil {
		return err
	}
	err = rack.Simulate(ctx, plan, f)
	if f.result != nil {
		if f.json {
			enc := json.NewEncoder(f.out)
			enc.SetIndent("", "  ")
			err = errors.Join(err, enc.Encode(f.result))
		} else {
			fmt.Fprintln(f.out)
			f.result.Print(f.out)
		}
	}
	return err
}

// prepare gives the nodes the image, and has one word install any number of machines:
// they are all one person's.
func (f *fleetRun) prepare(ctx context.Context, rack *lab.Client) error {
	if f.plan.Install == 0 {
		return nil
	}
	return (&operator{rack: rack}).ask(ctx, func(ctx context.Context, c *client.Client, again bool) error {
		if _, err := c.SetPolicy(ctx, api.ErasePolicyWish{ApprovalCap: 1000, ApprovalWindowMinutes: 1, SecondApprover: fleet.SecondNever}); err != nil {
			return fmt.Errorf("let one word install every machine: %w", err)
		}
		known, err := c.Images(ctx)
		if err != nil {
			return err
		}
		for _, i := range known {
			if i.Name == f.plan.Image {
				return nil
			}
		}
		if _, err := importImage(ctx, c, api.ImageOrder{Name: f.plan.Image}, f.file, nil, nil); err != nil && !refusedAgain(err, again) {
			return fmt.Errorf("import image %s: %w", f.plan.Image, err)
		}
		return nil
	})
}

// Write takes the lines that the fleet prints.
func (f *fleetRun) Write(p []byte) (int, error) {
	f.rest = append(f.rest, p...)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		f.rest = rest
		var l fleetLine
		if err := json.Unmarshal(line, &l); err != nil {
			return 0, fmt.Errorf("the fleet says %.100q: %w", line, err)
		}
		if l.Result != nil {
			f.result = l.Result
		}
		if l.Say != "" && !f.json {
			fmt.Fprintf(f.out, "%8.1fs  fleet %s\n", time.Since(f.begun).Seconds(), l.Say)
		}
	}
}

// labFleet is the fleet itself, in the rack.
func labFleet() *cobra.Command {
	return &cobra.Command{Use: "fleet", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var p fleetPlan
		if err := json.NewDecoder(cmd.InOrStdin()).Decode(&p); err != nil {
			return fmt.Errorf("read the fleet's plan: %w; this command is for lab sim alone", err)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		ctx, cancel := context.WithTimeoutCause(ctx, p.Limit, fmt.Errorf("the limit of %s is over", p.Limit))
		defer cancel()
		var printing sync.Mutex
		out := json.NewEncoder(cmd.OutOrStdout())
		tell := func(l fleetLine) {
			printing.Lock()
			defer printing.Unlock()
			_ = out.Encode(l) // nobody listens any more: the end comes by ctx
		}
		o := &operator{rack: lab.NewClient(p.Dir), image: p.Image}
		options := sim.Options{
			Device: "eth0", Dir: filepath.Join(p.Dir, "machines"), Machines: p.Machines, Install: p.Install, Shapes: p.Shapes, Stagger: p.Stagger,
			Loss: p.Loss, Short: p.Short, Quick: p.Quick, Seed: p.Seed, Servers: len(o.processes(ctx)), Approve: o.approve, Processes: o.processes, Counters: o.counters,
			Say: func(format string, args ...any) { tell(fleetLine{Say: fmt.Sprintf(format, args...)}) },
		}
		if p.Kill != "" {
			options.Fault = &sim.Fault{Part: p.Part, After: p.After, What: "killing " + p.Kill,
				Do: func(ctx context.Context) error { return o.rack.KillNode(ctx, p.Kill, false) }}
		}
		res, err := sim.Run(ctx, options)
		tell(fleetLine{Result: &res})
		return err
	}}
}

// operator does what a person would, at any node that is well.
type operator struct {
	rack  *lab.Client
	image string

	mu sync.Mutex
	at *lab.NodeState // asked last
}

// ask asks a node that is well, and another or the same again while those are away.
func (o *operator) ask(ctx context.Context, f func(ctx context.Context, c *client.Client, again bool) error) error {
	for again := false; ; again = true {
		c, err := o.choose(ctx, again)
		if err == nil {
			try, cancel := context.WithTimeout(ctx, 2*time.Minute)
			err = f(try, c, again)
			cancel()
			if err == nil || !away(err) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(askAgain):
		}
	}
}

// choose gives a node that is well: the same one until it has failed.
func (o *operator) choose(ctx context.Context, again bool) (*client.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.at == nil || again {
		state, err := o.rack.State(ctx)
		if err != nil {
			return nil, err
		}
		if o.at = wellNode(state.Nodes, ""); o.at == nil {
			return nil, errors.New("no node is well")
		}
	}
	return client.AtTheNode(o.at.DataDir()), nil
}

// approve asks for the image on a machine and approves the plan, which erases a file.
func (o *operator) approve(ctx context.Context, mac, hostname string) error {
	osType, osVersion, _ := strings.Cut(o.image, "-")
	wish := api.Wish{TargetMAC: mac, OSType: osType, OSVersion: osVersion, NetworkConfig: &fleet.NetworkConfig{Hostname: hostname}}
	return o.ask(ctx, func(ctx context.Context, c *client.Client, again bool) error {
		p, err := c.Plan(ctx, wish)
		switch {
		case refusedAgain(err, again):
			return nil // the first try was heard
		case err != nil:
			return err
		case p.Plan == nil:
			return fmt.Errorf("no plan: %s", p.Problem)
		}
		wish.Approve = &api.WishApproval{PlanHash: p.PlanHash, ConfirmSerial: p.Confirm, Notes: "approved by the simulated fleet"}
		if _, err = c.CreateTask(ctx, wish); refusedAgain(err, again) {
			return nil
		}
		return err
	})
}

// processes are the nodes that run.
func (o *operator) processes(ctx context.Context) map[string]int {
	state, err := o.rack.State(ctx)
	if err != nil {
		return nil
	}
	all := map[string]int{}
	for _, n := range state.Nodes {
		if n.PID != 0 {
			all[n.Name] = n.PID
		}
	}
	return all
}

// counters are what the nodes that are well have counted on the wire.
func (o *operator) counters(ctx context.Context) map[string]map[string]uint64 {
	state, err := o.rack.State(ctx)
	if err != nil {
		return nil
	}
	all := map[string]map[string]uint64{}
	for _, n := range state.Nodes {
		if !n.Well() {
			continue
		}
		if seen, err := client.AtTheNode(n.DataDir()).Network(ctx); err == nil {
			all[n.Name] = seen.Counters
		}
	}
	return all
}
