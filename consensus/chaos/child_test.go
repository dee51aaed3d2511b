package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// childNode makes this binary a node of its own process, which is killed: it
// answers clients over HTTP on loopback until its end.
const childNode = "LPMOS_TEST_CHAOS_NODE"

// plan is what a child is told.
type plan struct {
	ID, Dir, Wire, Client string
	Join                  bool
	Log                   string
}

// order is what a client asks of a child, and told what it answers.
type order struct {
	Kind      string // "create", "cancel", "retry", "all", "admit", "transfer", "status"
	ID        string
	Address   string
	TimeoutMS int
}

type told struct {
	Result     result
	Text       string
	Generation uint64
	Status     consensus.Status
	Created    []string // ids of all tasks
}

const notTaken result = "not taken"

func TestMain(m *testing.M) {
	if raw := os.Getenv(childNode); raw != "" {
		if err := serve(raw); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serve(raw string) error {
	var p plan
	if err := json.Unmarshal([]byte(raw), &p); err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler)
	if p.Log != "" {
		f, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		logger = slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	place, err := consensustest.NewNetwork().Join(p.ID, p.Wire)
	if err != nil {
		return err
	}
	n, err := consensus.Open(consensus.Config{Dir: p.Dir, NodeID: p.ID, Name: p.ID, Region: "dc1", Version: "test", Logger: logger,
		Network: place, Join: p.Join, SettleAfter: time.Second, SnapshotBytes: 256 << 10, TrailingEntries: 64})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", p.Client)
	if err != nil {
		return err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // the process ends
		var o order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		json.NewEncoder(w).Encode(carry(n, o)) //nolint:errcheck // who asked has gone
	}))
	go func() {
		err := <-n.Failed()
		fmt.Fprintln(os.Stderr, p.ID, "failed:", err)
		os.Exit(2)
	}()
	// The end of the parent is the end of the child; its word is a close in peace.
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if line != "" {
		return n.Close()
	}
	return nil
}

func macOf(id string) string {
	sum := uint32(2166136261)
	for _, b := range []byte(id) {
		sum = (sum ^ uint32(b)) * 16777619
	}
	return fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

// carry does what a client asks of the node.
func carry(n *consensus.Node, o order) (t told) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(o.TimeoutMS)*time.Millisecond)
	defer cancel()
	var got any
	var err error
	switch o.Kind {
	case "create":
		got, err = n.Propose(ctx, fleet.CreateTask{ID: o.ID, RegionID: "dc1", TargetMAC: macOf(o.ID), PhoneToken: "phone-" + o.ID, Spec: fleet.Spec{OSType: "debian", OSVersion: "12"}})
	case "cancel":
		got, err = n.Propose(ctx, fleet.CancelTask{TaskID: o.ID, By: "ann"})
	case "retry":
		got, err = n.Propose(ctx, fleet.RetryTask{TaskID: o.ID, By: "ann", PhoneToken: "phone-" + o.ID})
	case "image":
		got, err = n.Propose(ctx, fleet.PutImage{Image: fleet.Image{Name: "debian-12", OSType: "debian", OSVersion: "12", Digest: fmt.Sprintf("%064d", 1), SizeBytes: 2e9, Sector: 512}})
	case "node":
		got, err = n.Propose(ctx, fleet.PutNode{Node: fleet.Node{ID: o.ID, Name: o.ID, RegionID: "dc1"}})
	case "all":
		if err = n.Verify(ctx); err == nil {
			n.View(func(s *fleet.State) {
				for _, one := range s.Tasks() {
					t.Created = append(t.Created, one.ID+" "+strconv.FormatUint(one.Generation, 10))
				}
			})
		}
	case "admit":
		err = n.Admit(ctx, o.ID, o.Address)
	case "transfer":
		err = n.TransferLeadership(ctx, o.ID, "ann")
	case "verify":
		err = n.Verify(ctx)
	case "status":
		t.Status = n.Status()
	}
	var refusal *fleet.Error
	switch {
	case err == nil:
		t.Result = done
		if task, ok := got.(*fleet.Task); ok {
			t.Generation = task.Generation
		}
	case errors.Is(err, consensus.ErrUncertain):
		t.Result, t.Text = uncertain, err.Error()
	case errors.As(err, &refusal):
		t.Result, t.Text = refused, err.Error()
	case errors.Is(err, consensus.ErrNotReady), errors.Is(err, consensus.ErrNoSpace):
		t.Result, t.Text = notTaken, err.Error()
	default:
		t.Result, t.Text = uncertain, err.Error()
	}
	return t
}

// processes are the nodes of one cluster.
type processes struct {
	t     testing.TB
	nodes []*process
	http  *http.Client
}

type process struct {
	plan  plan
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}
}

// newProcesses starts three nodes and waits until all vote.
func newProcesses(t testing.TB) *processes {
	p := &processes{t: t, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	root := t.TempDir()
	for i := range 3 {
		id := fmt.Sprintf("n%d", i+1)
		one := &process{plan: plan{ID: id, Dir: filepath.Join(root, id), Wire: consensustest.Address(t), Client: consensustest.Address(t), Join: i > 0}}
		if dir := os.Getenv("LPMOS_CHAOS_LOG"); dir != "" {
			one.plan.Log = filepath.Join(dir, id)
		}
		p.nodes = append(p.nodes, one)
	}
	t.Cleanup(func() {
		for i := range p.nodes {
			p.kill(i)
		}
	})
	for i, one := range p.nodes {
		p.start(i)
		if i > 0 {
			p.until("n1 admits "+one.plan.ID, func() bool {
				return p.ask(0, order{Kind: "admit", ID: one.plan.ID, Address: one.plan.Wire}).Result == done
			})
		}
		p.until(one.plan.ID+" is known", func() bool { return p.ask(i, order{Kind: "node", ID: one.plan.ID}).Result == done })
	}
	p.whole()
	p.until("there is an image", func() bool { return p.ask(0, order{Kind: "image"}).Result == done })
	return p
}

func (p *processes) until(what string, is func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			for i := range p.nodes {
				p.t.Logf("%s: %+v", p.nodes[i].plan.ID, p.ask(i, order{Kind: "status"}))
			}
			p.t.Fatalf("waited a minute until %s", what)
		}
	}
}

// whole waits until all nodes run, follow one leader and vote.
func (p *processes) whole() {
	p.t.Helper()
	p.until("all three are one cluster", func() bool {
		for i := range p.nodes {
			st := p.ask(i, order{Kind: "status"}).Status
			votes := 0
			for _, m := range st.Members {
				if m.Voter && m.Reachable {
					votes++
				}
			}
			if st.Leader == "" || votes != 3 || p.ask(i, order{Kind: "verify"}).Result != done {
				return false
			}
		}
		return true
	})
}

func (p *processes) start(i int) {
	one := p.nodes[i]
	raw, err := json.Marshal(one.plan)
	if err != nil {
		p.t.Fatal(err)
	}
	one.cmd = exec.Command(os.Args[0])
	one.cmd.Env = append(os.Environ(), childNode+"="+string(raw))
	one.cmd.Stderr = os.Stderr
	if one.stdin, err = one.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	if err := one.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	one.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait() //nolint:errcheck // it is killed
		close(ended)
	}(one.cmd, one.ended)
}

func (p *processes) signal(i int, s syscall.Signal) {
	if c := p.nodes[i].cmd; c != nil {
		c.Process.Signal(s) //nolint:errcheck // it may have ended
	}
}

// kill ends a node at once.
func (p *processes) kill(i int) {
	one := p.nodes[i]
	if one.cmd == nil {
		return
	}
	p.signal(i, syscall.SIGKILL)
	<-one.ended
	one.cmd = nil
}

// ask gives a node an order. A node that cannot be reached has not taken it.
func (p *processes) ask(i int, o order) told {
	if o.TimeoutMS == 0 {
		o.TimeoutMS = 5000
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return told{Result: uncertain, Text: err.Error()}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(o.TimeoutMS+500)*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.nodes[i].plan.Client, bytes.NewReader(raw))
	if err != nil {
		return told{Result: uncertain, Text: err.Error()}
	}
	req.GetBody = nil // nothing is sent twice
	resp, err := p.http.Do(req)
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return told{Result: notTaken, Text: err.Error()}
	}
	if err != nil {
		return told{Result: uncertain, Text: err.Error()}
	}
	defer resp.Body.Close()
	var t told
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil {
		return told{Result: uncertain, Text: err.Error()}
	}
	return t
}

// leader is the place of the node that all in reach follow, -1 for none.
func (p *processes) leader() int {
	for i := range p.nodes {
		if p.nodes[i].cmd == nil {
			continue
		}
		if st := p.ask(i, order{Kind: "status", TimeoutMS: 300}).Status; st.Role == "leader" {
			return i
		}
	}
	return -1
}
