// Package agent is the life of the agent on one machine: report what the machine
// is, wait for a person's decision, install when told to, tell how it went, and
// hand the machine over to its own disk.
//
// It knows up to three nodes and talks to one of them. A node that is at work on
// an answer says so every two seconds; one that has been silent for five, refuses
// connections or cannot reach the other nodes is left for the next, with session
// and task as they are: what one node has acknowledged all others know. Chunks
// that were verified are on the disk and are never fetched again.
//
// It believes nodes alone that prove to be of the cluster whose pin it was given,
// whatever time the machine's clock shows. The key it makes is its session: every
// request is signed with it, for the one connection it is sent on.
//
// The network, the inventory and the installer are given to it, so that the same
// life runs as the first process of a bare machine, in a test, and a thousand
// times over in a simulated fleet.
package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// Source is where an installer gets an image from. The agent's client is one;
// agent/install declares the same methods on its side.
type Source interface {
	// Manifest fetches the manifest of an image.
	Manifest(ctx context.Context, digest string) (wire.Manifest, error)
	// Next asks the node what to fetch next and from where.
	Next(ctx context.Context, req wire.NextRequest) (wire.NextResponse, error)
	// Fetch opens one chunk, as the gzip member it is stored as.
	Fetch(ctx context.Context, url string) (io.ReadCloser, error)
}

// Installer writes an image to a disk as a grant allows. It asks allowed right
// before the first byte: a grant ends. It fails with a *wire.TaskError.
type Installer interface {
	Install(ctx context.Context, grant wire.Grant, allowed func() error, src Source, report func(wire.Progress)) error
}

// Grants opens the permission to erase that a node sends, if it is one for this
// machine.
type Grants interface {
	Open(signed *wire.SignedGrant, machineID string) (grant wire.Grant, allowed func() error, err error)
}

// Config is what an agent lives by. Nodes, Trust, MAC, Collect and Installer are needed.
type Config struct {
	Nodes     []string                                                             // base URLs, wire.MaxNodes at most, tried in order
	Trust     *pin.Verifier                                                        // whom to believe; nobody else is told anything
	Claim     string                                                               // the code of this boot, which begins a session
	Key       ed25519.PrivateKey                                                   // of the session; nil makes one
	Believed  func()                                                               // called once, when a node has proved to be of the cluster; nil: nothing
	Reported  func(machineID string)                                               // called after every report that a node has taken; nil: nothing
	ClockOff  int64                                                                // seconds that the machine's clock is ahead, if that is far
	MAC       string                                                               // of the interface the agent came up on; lower case, colons
	BootMAC   string                                                               // of the interface the firmware booted from; "" if it did not say
	IP        string                                                               // its address there
	Version   string                                                               // of the agent
	BootID    string                                                               // random, new in each start; "" makes one
	Collect   func() wire.Inventory                                                // looks at the machine
	Grants    Grants                                                               // opens what a node grants; nil: what Trust stands for
	Installer Installer                                                            // writes the disk
	Console   *Console                                                             // nil: silence
	Rand      func() float64                                                       // 0 to 1, spreads retries; nil: no spread
	Now       func() time.Time                                                     // nil: time.Now
	Sleep     func(context.Context, time.Duration) error                           // nil: really sleeps; ends early with ctx's error
	Dial      func(ctx context.Context, network, address string) (net.Conn, error) // nil: TCP
	Silence   time.Duration                                                        // after which a node is left for another; 0: 5 s
}

// Outcome says why Run came back.
type Outcome string

// The outcomes. Both end in a restart of the machine.
const (
	OutcomeInstalled Outcome = "installed" // the disk is written and the node knows
	OutcomeOwnDisk   Outcome = "own disk"  // the node says: boot your own disk
)

// Agent is one machine's agent.
type Agent struct {
	cfg    Config
	node   *client
	con    *Console
	reason string // last sentence shown while waiting
	known  string // hash of the inventory the node has
	id     string // of this machine, as the node told
}

// New checks the configuration.
func New(cfg Config) (*Agent, error) {
	switch {
	case len(wire.Nodes(cfg.Nodes)) == 0:
		return nil, errors.New("no node to talk to: the kernel command line has no lpmos.node=https://ADDRESS")
	case cfg.Trust == nil:
		return nil, errors.New("nobody to believe: the kernel command line has no lpmos.pin")
	case cfg.MAC == "":
		return nil, errors.New("no MAC address: the agent does not know which interface it came up on")
	case cfg.Collect == nil || cfg.Installer == nil:
		return nil, errors.New("agent: Collect and Installer must be given")
	}
	if cfg.Grants == nil {
		cfg.Grants = grant.NewChecker(cfg.Trust)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = sleep
	}
	if cfg.Rand == nil {
		cfg.Rand = func() float64 { return 0.5 }
	}
	if cfg.Console == nil {
		cfg.Console = NewConsole(io.Discard, cfg.Now)
	}
	if cfg.Key == nil {
		cfg.Key = NewKey()
	}
	if cfg.BootID == "" {
		cfg.BootID = NewBootID()
	}
	return &Agent{cfg: cfg, node: newClient(cfg), con: cfg.Console}, nil
}

// Run lives until the machine is to restart, or until ctx ends.
func (a *Agent) Run(ctx context.Context) (Outcome, error) {
	logs, stop := context.WithCancel(ctx)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		a.con.ship(logs, a.node, a.cfg.Sleep)
	}()
	defer func() { stop(); <-sent }()
	defer a.node.http.Close()

	if err := a.report(ctx); err != nil {
		return "", err
	}
	for {
		answer, err := a.node.approval(ctx)
		if err != nil {
			if err := a.setBack(ctx, err); err != nil {
				return "", err
			}
			continue
		}
		switch answer.Verdict {
		case wire.VerdictReboot:
			a.con.Printf("%s", orElse(answer.Reason, "the node says: boot the disk of this machine"))
			return OutcomeOwnDisk, nil
		case wire.VerdictReport:
			a.con.Printf("the node asks for a new report")
			// Two machines with the same ids take the session from each other for
			// ever; without a rest they would do so as fast as they can.
			if err := a.cfg.Sleep(ctx, refusedPause); err != nil {
				return "", err
			}
			if err := a.report(ctx); err != nil {
				return "", err
			}
		case wire.VerdictInstall:
			done, err := a.work(ctx, answer.SignedGrant)
			if err != nil {
				return "", err
			}
			if done {
				return OutcomeInstalled, nil
			}
		default:
			a.waiting(answer.Reason)
			if answer.Elsewhere {
				a.node.nodes.turn(a.node.base())
				if err := a.cfg.Sleep(ctx, refusedPause); err != nil {
					return "", err
				}
			}
			if err := a.lookAgain(ctx); err != nil {
				return "", err
			}
		}
	}
}

// report looks at the machine and tells the node, for as long as it takes.
func (a *Agent) report(ctx context.Context) error {
	inv := a.cfg.Collect()
	a.known = inv.Hash()
	a.node.setReport(wire.ReportRequest{
		BootID: a.cfg.BootID, MAC: a.cfg.MAC, BootMAC: a.cfg.BootMAC, IP: a.cfg.IP, Version: a.cfg.Version, Inventory: inv,
		Claim: a.cfg.Claim, ClockOff: a.cfg.ClockOff,
	})
	for {
		resp, err := a.node.report(ctx)
		if err == nil {
			a.id = resp.MachineID
			a.con.Printf("reported to %s: this is machine %s", a.node.base(), resp.MachineID)
			if a.cfg.Reported != nil {
				a.cfg.Reported(a.id)
			}
			return nil
		}
		var untrusted *Untrusted
		switch {
		case errors.As(err, &untrusted):
			return err
		case errors.Is(err, errSession):
			return fmt.Errorf("%w: %w", ErrClaim, err)
		}
		if err := a.setBack(ctx, err); err != nil {
			return err
		}
	}
}

// ErrClaim ends an agent that may not begin a session, or not go on with it: the
// machine has to be started anew, which gives it another code.
var ErrClaim = errors.New("this boot is not accepted")

// lookAgain reports anew when the machine has changed while it waited: a disk
// that came up late, a card that was plugged in.
func (a *Agent) lookAgain(ctx context.Context) error {
	inv := a.cfg.Collect()
	if inv.Hash() == a.known {
		return nil
	}
	a.con.Printf("the machine has changed (%d disks, %d network cards now); reporting again", len(inv.Disks), len(inv.NICs))
	return a.report(ctx)
}

// setBack is what to do about a request the node refused: say so, and give the
// node time. It fails only when ctx has ended.
func (a *Agent) setBack(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.con.Printf("%v; trying again in %s", err, refusedPause)
	return a.cfg.Sleep(ctx, refusedPause)
}

// refusedPause is the rest after a refusal that repeating at once cannot mend.
const refusedPause = 5 * time.Second

// waiting shows what is awaited, once for each reason the node gives.
func (a *Agent) waiting(reason string) {
	reason = orElse(reason, "nobody has approved anything for this machine; approve it at "+a.node.base())
	if reason != a.reason {
		a.reason = reason
		a.con.Printf("waiting: %s", reason)
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
