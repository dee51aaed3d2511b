package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/memory"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// order is what the parent tells a node, as a line of JSON; the answer is one too.
type order struct {
	Do      string        `json:"do"` // "admit", "voters", "prepare" or "run"
	ID      string        `json:"id,omitempty"`
	Address string        `json:"address,omitempty"`
	Writers []int         `json:"writers,omitempty"`
	For     time.Duration `json:"for,omitempty"`
}

type answer struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Voters  int    `json:"voters"`
	Error   string `json:"error,omitempty"`
	Result  result `json:"result"`
}

// node is one of the three processes.
func node(args []string) error {
	dir, join := args[0], args[1] == "join"
	id, err := trust.Load(dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	network := consensus.NewTLS(consensus.TLSConfig{Listener: l, Cluster: id.Cluster, CA: id.CA, Certificate: id.Certificate,
		NodeOf: trust.NodeOf, Now: time.Now, Logger: log})
	n, err := consensus.Open(consensus.Config{Dir: filepath.Join(dir, "raft"), NodeID: id.Node, Name: id.Node, Logger: log,
		Network: network, Join: join, SettleAfter: time.Second})
	if err != nil {
		return err
	}
	defer n.Close()
	memory.Tune() // as every node does
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{ID: n.ID(), Address: network.Address()}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			return err
		}
		var a answer
		if err := obey(n, o, &a); err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return in.Err()
}

func obey(n *consensus.Node, o order, a *answer) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), o.For+time.Minute)
	defer cancel()
	switch o.Do {
	case "ready":
		err = n.Ready(ctx)
	case "admit":
		err = n.Admit(ctx, o.ID, o.Address)
	case "voters":
		for _, m := range n.Status().Members {
			if m.Voter {
				a.Voters++
			}
		}
	case "prepare":
		err = prepare(ctx, n)
	case "run":
		pad := strings.Repeat("x", valueBytes)
		a.Result, err = writeAll(ctx, len(o.Writers), o.For, func(ctx context.Context, w, i int) error {
			_, err := n.Propose(ctx, fleet.Advance{Items: []fleet.AdvanceItem{{TaskID: taskID(o.Writers[w]), Generation: 1,
				Progress: wire.Progress{Stage: wire.StageDownloading, Percentage: 20, Message: pad,
					Details: wire.ProgressDetails{BytesDownloaded: uint64(i)}}}}})
			return err
		})
	}
	return err
}

func taskID(i int) string { return fmt.Sprintf("t-%03d", i) }

// prepare makes the tasks that are updated: machines whose disks are being written.
func prepare(ctx context.Context, n *consensus.Node) error {
	propose := func(b fleet.Body) (any, error) { return n.Propose(ctx, b) }
	if _, err := propose(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("ab", 32), SizeBytes: 64 << 20, Sector: 512}}); err != nil {
		return err
	}
	if _, err := propose(fleet.PutPolicy{ApprovalCap: 1000, ApprovalWindow: time.Minute, SecondApprover: fleet.SecondNever, By: "bench"}); err != nil {
		return err
	}
	for i := range tasks {
		mac := fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)
		session := fmt.Sprintf("session-%d", i)
		if _, err := propose(fleet.ReportMachine{NewID: fmt.Sprintf("m-%03d", i), BootID: "boot-1", SessionHash: session, MAC: mac,
			Inventory: wire.Inventory{NICs: []wire.NIC{{Name: "eth0", MAC: mac}}, Disks: []wire.Disk{{Name: "vda", Serial: fmt.Sprintf("D%d", i), SizeBytes: 8 << 30, LogicalSector: 512}}}}); err != nil {
			return err
		}
		made, err := propose(fleet.CreateTask{ID: taskID(i), TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "phone-" + mac})
		if err != nil {
			return err
		}
		hash := made.(*fleet.Task).PlanHash
		if _, err := propose(fleet.DecideTask{TaskID: taskID(i), Approved: true, PlanHash: hash, By: "bench"}); err != nil {
			return err
		}
		if _, err := propose(fleet.StartInstall{TaskID: taskID(i), Generation: 1, PlanHash: hash, SessionHash: session}); err != nil {
			return err
		}
	}
	return nil
}

// nodes is the cluster as its parent sees it.
type nodes struct{ all []*child }

type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	id  answer
}

func startNodes(ctx context.Context, dir string) (*nodes, error) {
	first := filepath.Join(dir, "n1")
	if err := os.MkdirAll(first, 0o700); err != nil {
		return nil, err
	}
	id, err := trust.Found(first, "", time.Now())
	if err != nil {
		return nil, err
	}
	ca, err := trust.OpenCA(id.Cluster, id.CA.Raw, id.Founding(), id.Secret)
	if err != nil {
		return nil, err
	}
	n := &nodes{}
	for i := range members {
		own, how := filepath.Join(dir, fmt.Sprintf("n%d", i+1)), "found"
		if i > 0 {
			how = "join"
			if err := invite(ca, own, id.Secret); err != nil {
				n.close()
				return nil, err
			}
		}
		c, err := startChild(ctx, own, how)
		if err != nil {
			n.close()
			return nil, err
		}
		n.all = append(n.all, c)
		if i > 0 {
			if _, err := n.all[0].tell(order{Do: "admit", ID: c.id.ID, Address: c.id.Address}); err != nil {
				n.close()
				return nil, err
			}
		}
		if _, err := c.tell(order{Do: "ready"}); err != nil {
			n.close()
			return nil, err
		}
	}
	for a := (answer{}); a.Voters < members; {
		if a, err = n.all[0].tell(order{Do: "voters"}); err != nil || ctx.Err() != nil {
			n.close()
			return nil, errors.Join(err, ctx.Err())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := n.all[0].tell(order{Do: "prepare"}); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// invite gives a new node its keys.
func invite(ca *trust.CA, dir string, secret trust.Secret) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	j, err := trust.BeginJoin(dir)
	if err != nil {
		return err
	}
	der, err := j.Request()
	if err != nil {
		return err
	}
	req, err := trust.ParseRequest(der)
	if err != nil {
		return err
	}
	cert, err := ca.Certify(req, time.Now())
	if err != nil {
		return err
	}
	_, err = j.Finish(ca.Certificate(), cert, secret)
	return err
}

func startChild(ctx context.Context, dir, how string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, self, "node", dir, how)}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.id, err = c.hear()
	return c, err
}

func (c *child) tell(o order) (answer, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return answer{}, err
	}
	if _, err := c.in.Write(append(b, '\n')); err != nil {
		return answer{}, err
	}
	return c.hear()
}

func (c *child) hear() (a answer, err error) {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return a, fmt.Errorf("a node has ended: %w", err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (n *nodes) run(_ context.Context, writers int, d time.Duration) (result, error) {
	mine := make([][]int, members)
	for w := range writers {
		mine[w%members] = append(mine[w%members], w)
	}
	type one struct {
		a   answer
		err error
	}
	done := make(chan one, members)
	count := 0
	for i, c := range n.all {
		if len(mine[i]) == 0 {
			continue
		}
		count++
		go func() {
			a, err := c.tell(order{Do: "run", Writers: mine[i], For: d})
			done <- one{a, err}
		}()
	}
	var r result
	for range count {
		o := <-done
		if o.err != nil {
			return r, o.err
		}
		r.Ops += o.a.Result.Ops
		r.Took = max(r.Took, o.a.Result.Took)
		r.Lat = append(r.Lat, o.a.Result.Lat...)
	}
	slices.Sort(r.Lat)
	return r, nil
}

func (n *nodes) pids() (out []int) {
	for _, c := range n.all {
		out = append(out, c.cmd.Process.Pid)
	}
	return out
}

func (n *nodes) close() {
	for _, c := range n.all {
		c.in.Close()
		_ = c.cmd.Wait() // it ends when nobody tells it anything any more
	}
}
