package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"golang.org/x/sync/errgroup"
)

// story runs a rack and tells what happens in it, one line an event with the
// seconds since its start.
type story struct {
	out         io.Writer
	images      []storyImage
	autoApprove bool
	untilUp     bool

	rack     *lab.Rack
	at       string // name of the node that was asked last
	machines []lab.MachineState
	asked    map[string]bool // machines a task was made for

	mu      sync.Mutex
	told    map[string]string    // task or machine → the last thing told of it
	tasks   map[string]api.Task  // MAC → its newest task
	powered map[string]time.Time // machine's name → when it got power
	reports map[string]time.Time // MAC → when its agent first reported
	logins  map[string]lab.Match // machine's name → its login prompt
}

type storyImage struct{ name, file string }

// errUp ends the story when all machines are up.
var errUp = errors.New("every machine is up")

func (s *story) run(ctx context.Context, o lab.Options) error {
	s.told, s.tasks, s.asked = map[string]string{}, map[string]api.Task{}, map[string]bool{}
	s.powered, s.reports, s.logins = map[string]time.Time{}, map[string]time.Time{}, map[string]lab.Match{}
	o.StartOff = true
	rackCtx, stop := context.WithCancel(ctx)
	defer stop()
	rack, err := lab.Start(rackCtx, o)
	if err != nil {
		return err
	}
	s.rack = rack
	err = s.tell(ctx)
	stop()
	if gone := rack.Wait(); gone != nil {
		return gone
	}
	if errors.Is(err, errUp) {
		s.figures()
		return nil
	}
	if s.untilUp && err == nil {
		return errors.New("stopped before every machine was up")
	}
	return err
}

// tell prepares the cluster, gives the machines power and follows what they do.
func (s *story) tell(ctx context.Context) error {
	node, err := s.choose(ctx)
	if err != nil {
		return err
	}
	for _, i := range s.images {
		s.say(s.at, "importing image %s from %s", i.name, i.file)
		img, err := importImage(ctx, node, api.ImageOrder{Name: i.name}, i.file, nil, nil)
		if err != nil {
			return fmt.Errorf("import image %s: %w", i.name, err)
		}
		s.say(s.at, "image %s is ready: %s, stored %s", img.Name, size(img.SizeBytes), size(img.StoredBytes))
	}
	if s.autoApprove {
		// However many machines the rack has, they are all one person's.
		if _, err := node.SetPolicy(ctx, api.ErasePolicyWish{ApprovalCap: 1000, ApprovalWindowMinutes: 1, SecondApprover: fleet.SecondNever}); err != nil {
			return fmt.Errorf("let one word install every machine: %w", err)
		}
	}
	state, err := s.rack.Client().State(ctx)
	if err != nil {
		return err
	}
	s.machines = state.Machines
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { // a rack that breaks ends the story
		gone := make(chan error, 1)
		go func() { gone <- s.rack.Wait() }()
		select {
		case err := <-gone:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		return followAt(ctx, &ring{named: node, reach: s.reach}, func(u client.Update) error { return s.update(ctx, u) })
	})
	for _, m := range s.machines {
		s.mu.Lock()
		s.powered[m.Name] = time.Now()
		s.mu.Unlock()
		if err := s.rack.Client().PowerOn(ctx, m.Name); err != nil {
			return errors.Join(err, group.Wait())
		}
		if s.untilUp {
			group.Go(func() error { return s.awaitLogin(ctx, m) })
		}
	}
	if err := s.invite(ctx, state.Nodes); err != nil {
		return errors.Join(err, group.Wait())
	}
	return group.Wait()
}

// invite prints where to look: a link that signs in once is good for all nodes, for
// they are one cluster.
func (s *story) invite(ctx context.Context, nodes []lab.NodeState) error {
	var code api.OneCode
	err := s.ask(ctx, func(ctx context.Context, c *client.Client, _ bool) (err error) {
		code, err = c.NewLoginCode(ctx, "")
		return err
	})
	if err != nil {
		return fmt.Errorf("make a login link: %w", err)
	}
	fmt.Fprintf(s.out, "\n          open %s\n", client.LoginLink(nodes[0].URL, code.Code))
	for _, n := range nodes[1:] {
		fmt.Fprintf(s.out, "          then also %s\n", n.URL)
	}
	fmt.Fprintf(s.out, "          (it signs in once; LPMOS_DATA_DIR=%s lpmos login-link prints another. Ctrl-C ends the rack)\n\n", nodes[0].DataDir())
	return nil
}

// update tells a change, and in a rack that approves by itself acts on it.
func (s *story) update(ctx context.Context, u client.Update) error {
	if u.Snapshot != nil {
		return s.catchUp(ctx, u.Snapshot)
	}
	f := u.Frame
	switch f.Type {
	case "hardware":
		if f.Machine == nil {
			return nil
		}
		s.reported(f.Machine)
		s.sayOnce(f.MachineID, s.machineName(firstMAC(f.Machine)), "reported: "+hardware(f.Machine.Summary))
		return s.install(ctx, f.Machine)
	case "machine":
		if f.Machine != nil {
			return s.install(ctx, f.Machine)
		}
	case "task_created", "status", "progress":
		if f.Task != nil {
			s.task(*f.Task)
		}
	case api.FrameProgressBatch:
		for _, it := range f.Items {
			s.progress(it.TaskID, it.Progress)
		}
	case api.FrameSighting:
		if f.Kind != "dhcp" && f.Kind != "router" && f.Step != "asked" { // those are told on the machine's page
			s.say(s.machineName(f.MAC), "%s", f.Text)
		}
	}
	if f.Task != nil {
		return s.given(f.Task)
	}
	return nil
}

// catchUp takes in how things are now: what changed while nobody was listened to
// is not told again.
func (s *story) catchUp(ctx context.Context, snap *api.Snapshot) error {
	for _, t := range snap.Tasks {
		s.task(t)
		if err := s.given(&t); err != nil {
			return err
		}
	}
	for _, m := range snap.Machines {
		s.reported(&m)
		if err := s.install(ctx, &m); err != nil {
			return err
		}
	}
	return nil
}

// given gives up when a task failed that had to succeed.
func (s *story) given(t *api.Task) error {
	if t.Status == wire.StatusFailed && s.untilUp {
		return fmt.Errorf("task %s failed: %s", t.ID, t.Error.Message)
	}
	return nil
}

// reported notes when a machine's agent was first heard.
func (s *story) reported(m *api.Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mac := firstMAC(m); s.reports[mac].IsZero() {
		s.reports[mac] = m.ReportedAt
	}
}

func (s *story) task(t api.Task) {
	s.mu.Lock()
	s.tasks[t.TargetMAC] = t
	s.mu.Unlock()
	if t.Status == wire.StatusInstalling {
		s.progress(t.ID, t.Progress)
		return
	}
	s.sayOnce(t.ID, s.machineName(t.TargetMAC), t.PhaseText)
}

// progress tells each new stage and each further tenth of an install.
func (s *story) progress(taskID string, p *wire.Progress) {
	if p == nil {
		return
	}
	who := ""
	s.mu.Lock()
	for mac, t := range s.tasks {
		if t.ID == taskID {
			who = s.machineName(mac)
		}
	}
	s.mu.Unlock()
	s.sayOnce(taskID, who, fmt.Sprintf("%s, %d %%", p.Stage, int(p.Percentage)/10*10))
}

// install asks for the first image on a machine that waits, and approves the
// plan: the disks of this rack belong to nobody.
func (s *story) install(ctx context.Context, m *api.Machine) error {
	if !s.autoApprove || m.Phase != api.PhaseDiscovered || len(m.IDs.MACs) == 0 {
		return nil
	}
	if s.asked[m.ID] {
		return nil
	}
	mac := firstMAC(m)
	osType, osVersion, _ := strings.Cut(s.images[0].name, "-")
	wish := api.Wish{MachineID: m.ID, OSType: osType, OSVersion: osVersion,
		NetworkConfig: &fleet.NetworkConfig{Hostname: s.hostname(mac)}}
	var p api.Preview
	err := s.ask(ctx, func(ctx context.Context, c *client.Client, _ bool) (err error) {
		p, err = c.Plan(ctx, wish)
		return err
	})
	if err != nil {
		return err
	}
	if p.Plan == nil {
		return fmt.Errorf("no plan for %s: %s", s.machineName(mac), p.Problem)
	}
	s.say(s.machineName(mac), "approving by itself: erase %s (%s), install %s", p.Plan.Erase, size(p.Plan.Erase.SizeBytes), p.Plan.Image.Name)
	wish.Approve = &api.WishApproval{PlanHash: p.PlanHash, ConfirmSerial: p.Confirm, Notes: "approved by the virtual rack"}
	err = s.ask(ctx, func(ctx context.Context, c *client.Client, again bool) error {
		t, err := c.CreateTask(ctx, wish)
		if refusedAgain(err, again) {
			return nil // the feed tells of the task
		}
		if err == nil {
			s.task(t)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.asked[m.ID] = true
	return nil
}

func firstMAC(m *api.Machine) string {
	if len(m.IDs.MACs) == 0 {
		return ""
	}
	return m.IDs.MACs[0]
}

// hostname of a machine of this rack: its name and its firmware.
func (s *story) hostname(mac string) string {
	for _, m := range s.machines {
		if m.MAC == mac {
			return m.Name + "-" + m.Firmware
		}
	}
	return ""
}

// machineName is what the rack calls a machine.
func (s *story) machineName(mac string) string {
	for _, m := range s.machines {
		if m.MAC == mac {
			return m.Name
		}
	}
	return mac
}

// awaitLogin waits for the login prompt of the installed system, with the
// hostname it was given.
func (s *story) awaitLogin(ctx context.Context, m lab.MachineState) error {
	found, err := s.rack.Client().WaitSerial(ctx, m.Name, m.Name+"-"+m.Firmware+` login:`, 0)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	s.say(m.Name, "login prompt on its own disk: %s", strings.TrimSpace(found.Text))
	if err := s.awaitUp(ctx, m.MAC); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins[m.Name] = found
	if len(s.logins) == len(s.machines) {
		return errUp
	}
	return nil
}

// awaitUp waits until the node has heard from the installed system.
func (s *story) awaitUp(ctx context.Context, mac string) error {
	for {
		s.mu.Lock()
		t := s.tasks[mac]
		s.mu.Unlock()
		if t.CameUp != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// figures prints what took how long.
func (s *story) figures() {
	err := (&nodeFlags{}).print(s.out, nil, func(w io.Writer) {
		fmt.Fprintln(w)
		row(w, "machine", "power-on to agent", "approve to installed", "approve to login", "hostname")
		for _, m := range s.machines {
			t, login := s.tasks[m.MAC], s.logins[m.Name]
			if t.Approval == nil || t.CameUp == nil {
				continue
			}
			row(w, m.Name, seconds(s.reports[m.MAC].Sub(s.powered[m.Name])), seconds(t.FinishedAt.Sub(t.Approval.At)),
				seconds(login.At.Sub(t.Approval.At)), t.CameUp.Hostname)
		}
	})
	if err != nil {
		s.say("rack", "the figures cannot be printed: %v", err)
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// say prints a line the way the rack prints its own.
func (s *story) say(who, format string, args ...any) {
	fmt.Fprintf(s.out, "%8.1fs  %-5s %s\n", time.Since(s.rack.Started()).Seconds(), who, fmt.Sprintf(format, args...))
}

// sayOnce says what has changed about a thing, and nothing twice in a row.
func (s *story) sayOnce(thing, who, text string) {
	s.mu.Lock()
	again := s.told[thing] == text
	s.told[thing] = text
	s.mu.Unlock()
	if !again {
		s.say(who, "%s", text)
	}
}
