package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// testMember is a member that lets others in until it is closed.
type testMember struct {
	*member
	cfg   config.Config
	close func()
}

func memberConfig(dir, name string) config.Config {
	return config.Config{DataDir: dir, Name: name, Region: "dc1", ClusterListen: "127.0.0.1:0"}
}

func consensusConfig(cfg config.Config, log *slog.Logger) consensus.Config {
	return consensus.Config{Name: cfg.Name, Region: cfg.Region, Version: "test", Logger: log, Heartbeat: 200 * time.Millisecond}
}

// enter starts a member; an error is what would have ended the program.
func enter(t *testing.T, cfg config.Config, inv Invitation) (*testMember, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	m, err := openMember(ctx, cfg, inv, consensusConfig(cfg, log))
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- m.letOthersIn(running) }()
	var once atomic.Bool
	out := &testMember{member: m, cfg: cfg, close: func() {
		if once.Swap(true) {
			return
		}
		stop()
		if err := errors.Join(<-gone, m.Close()); err != nil {
			t.Errorf("close %s: %v", cfg.Name, err)
		}
	}}
	t.Cleanup(out.close)
	self := fleet.Node{ID: m.ID(), Name: cfg.Name, RegionID: cfg.Region, ClusterAddress: m.network.Address()}
	if err := announce(ctx, m.Node, self, log); err != nil {
		t.Fatal(err)
	}
	return out, nil
}

func mustEnter(t *testing.T, cfg config.Config, inv Invitation) *testMember {
	t.Helper()
	m, err := enter(t, cfg, inv)
	if err != nil {
		t.Fatalf("%s: %v", cfg.Name, err)
	}
	return m
}

func (m *testMember) invite(t *testing.T) Invitation {
	t.Helper()
	token, err := membersOf(m.member).NewToken(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(token.ExpiresAt); left < 50*time.Minute || left > time.Hour {
		t.Errorf("the token is good for %s", left)
	}
	return Invitation{Token: token.Token, Address: token.Address}
}

// sees waits until a node knows all these by name.
func (m *testMember) sees(t *testing.T, names ...string) {
	t.Helper()
	w := m.SnapshotAndWatch(func(*fleet.State) {})
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		missing := map[string]bool{}
		for _, n := range names {
			missing[n] = true
		}
		m.View(func(s *fleet.State) {
			for _, n := range s.Nodes() {
				delete(missing, n.Name)
			}
		})
		if len(missing) == 0 {
			return
		}
		if _, err := w.Next(ctx); err != nil {
			t.Fatalf("%s does not see %v: %v", m.cfg.Name, missing, err)
		}
	}
}

func TestThreeNodesBecomeOneCluster(t *testing.T) {
	n1 := mustEnter(t, memberConfig(t.TempDir(), "n1"), Invitation{})
	if n1.id.Founding() != nil {
		t.Error("the log holds the authority's key, and it still lies beside it")
	}
	inv := n1.invite(t)
	n2 := mustEnter(t, memberConfig(t.TempDir(), "n2"), inv)
	// The third joins at the second: any node lets others in.
	n3 := mustEnter(t, memberConfig(t.TempDir(), "n3"), n2.invite(t))
	for _, n := range []*testMember{n1, n2, n3} {
		n.sees(t, "n1", "n2", "n3")
		if n.id.Cluster != n1.id.Cluster || n.id.Secret != n1.id.Secret {
			t.Errorf("%s is of cluster %s", n.cfg.Name, n.id.Cluster)
		}
	}

	// A token is for one node.
	if _, err := enter(t, memberConfig(t.TempDir(), "n4"), inv); err == nil || !strings.Contains(err.Error(), "was used by node n2 already; print a new one") {
		t.Errorf("a used token: %v", err)
	}
	// On a node that is in, the same command only starts it; and so does no token.
	cfg := n2.cfg
	cfg.ClusterListen = n2.network.Address()
	n2.close()
	again := mustEnter(t, cfg, inv)
	if again.ID() != n2.ID() {
		t.Errorf("it came back as %s, it was %s", again.ID(), n2.ID())
	}
	again.close()
	mustEnter(t, cfg, Invitation{}).sees(t, "n1", "n2", "n3")
}

func TestJoiningWhatItMayNot(t *testing.T) {
	n1 := mustEnter(t, memberConfig(t.TempDir(), "n1"), Invitation{})
	stranger := mustEnter(t, memberConfig(t.TempDir(), "x1"), Invitation{})
	inv, theirs := n1.invite(t), stranger.invite(t)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 mail.example ESMTP ready\r\n"))
			conn.Close()
		}
	}()

	old := t.TempDir() // from before there were clusters
	node, err := consensus.Open(consensus.Config{Dir: raftDir(old), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	mustEnter(t, memberConfig(foreign, "x2"), theirs).close()
	damaged := t.TempDir()
	if err := os.Mkdir(filepath.Join(damaged, "trust"), 0o700); err != nil {
		t.Fatal(err)
	}

	own := consensustest.Address(t)
	for _, c := range []struct {
		name   string
		dir    string
		inv    Invitation
		change func(*config.Config)
		want   string
	}{
		{name: "no token", inv: Invitation{Token: "hello", Address: inv.Address}, want: "is no join token"},
		{name: "no address", inv: Invitation{Token: inv.Token, Address: "n1"}, want: "write it as 10.0.0.1:4747"},
		{name: "a host that is not there", inv: Invitation{Token: inv.Token, Address: "n1.invalid:4747"}, want: "there is no host n1.invalid"},
		{name: "another cluster", inv: Invitation{Token: inv.Token, Address: theirs.Address}, want: "it is of another cluster"},
		{name: "no node", inv: Invitation{Token: inv.Token, Address: plain.Addr().String()}, want: "does not speak TLS"},
		{name: "itself", inv: Invitation{Token: inv.Token, Address: own},
			change: func(c *config.Config) { c.ClusterListen = own }, want: "is the cluster address of this node itself"},
		{name: "from loopback", inv: Invitation{Token: inv.Token, Address: "192.0.2.1:4747"}, want: "which nobody else can reach"},
		{name: "a name that is taken", inv: inv, change: func(c *config.Config) { c.Name = "n1" }, want: "give this one another name"},
		{name: "another cluster's directory", dir: foreign, inv: inv, want: "is the data directory of a node of another cluster"},
		{name: "an old directory", dir: old, inv: inv, want: "holds the log of a node of its own"},
		{name: "a directory that is damaged", dir: damaged, inv: inv, want: "cluster is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.dir == "" {
				c.dir = t.TempDir()
			}
			cfg := memberConfig(c.dir, "n9")
			if c.change != nil {
				c.change(&cfg)
			}
			if _, err := enter(t, cfg, c.inv); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	// None of it has cost the token.
	mustEnter(t, memberConfig(t.TempDir(), "n2"), inv).sees(t, "n1", "n2")
}

// S46: whoever stands in the node's place learns nothing.
func TestS46_AFakeNodeIsToldNothing(t *testing.T) {
	n1 := mustEnter(t, memberConfig(t.TempDir(), "n1"), Invitation{})
	inv := n1.invite(t)
	fake, err := trust.Found(t.TempDir(), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{NextProtos: []string{string(consensus.KindJoin)},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return fake.Certificate(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan int, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			heard <- 0
			return
		}
		defer conn.Close()
		n, _ := conn.Read(make([]byte, 1024)) // what came after the handshake
		heard <- n
	}()
	_, err = enter(t, memberConfig(t.TempDir(), "n2"), Invitation{Token: inv.Token, Address: l.Addr().String()})
	if err == nil {
		t.Fatal("it joined")
	}
	for _, f := range []trust.Fingerprint{trust.FingerprintOf(n1.id.CA), trust.FingerprintOf(fake.CA)} {
		if !strings.Contains(err.Error(), f.String()) {
			t.Errorf("both fingerprints have to be told: %v", err)
		}
	}
	if n := <-heard; n != 0 {
		t.Errorf("%d bytes were told to a fake node", n)
	}
}

// A node that dies while it joins comes back with the same command, whenever that
// was: before the answer, before it is kept, and before it is used.
func TestR19_AJoinIsTakenUpAgain(t *testing.T) {
	n1 := mustEnter(t, memberConfig(t.TempDir(), "n1"), Invitation{})
	log := slog.New(slog.DiscardHandler)
	ask := func(t *testing.T, cfg config.Config, inv Invitation) (*trust.Joining, joinAnswer) {
		t.Helper()
		token, err := trust.ParseToken(inv.Token)
		if err != nil {
			t.Fatal(err)
		}
		listener, err := listenCluster(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		node, err := trust.BeginJoin(cfg.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		request, err := node.Request()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := join{cfg: cfg, token: token, to: inv.Address, listener: listener, now: time.Now, log: log}.ask(t.Context(),
			joinRequest{Token: token.ID, Secret: token.Secret(), Name: cfg.Name, Region: cfg.Region, Version: "test", Address: listener.Addr().String(), Request: request, Time: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return node, answer
	}
	for _, c := range []struct {
		name string
		die  func(t *testing.T, cfg config.Config, inv Invitation) (id string)
	}{
		{"before it asked", func(t *testing.T, cfg config.Config, _ Invitation) string {
			node, err := trust.BeginJoin(cfg.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			return node.Node
		}},
		{"before it kept the answer", func(t *testing.T, cfg config.Config, inv Invitation) string {
			node, _ := ask(t, cfg, inv)
			return node.Node
		}},
		{"before it used the answer", func(t *testing.T, cfg config.Config, inv Invitation) string {
			node, answer := ask(t, cfg, inv)
			secret, err := trust.ParseSecret(answer.Secret)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := node.Finish(answer.CA, answer.Certificate, secret); err != nil {
				t.Fatal(err)
			}
			return node.Node
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, inv := memberConfig(t.TempDir(), strings.ReplaceAll(c.name, " ", "-")), n1.invite(t)
			// The address has to stay: the cluster has been told it.
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			cfg.ClusterListen = l.Addr().String()
			l.Close()
			id := c.die(t, cfg, inv)
			if _, err := trust.Load(cfg.DataDir); errors.Is(err, fs.ErrNotExist) {
				// Without the token it says what there is to do.
				if _, err := enter(t, cfg, Invitation{}); err == nil || !strings.Contains(err.Error(), "a join that did not end: finish it with lpmos up --join") {
					t.Errorf("without the token: %v", err)
				}
			}
			m := mustEnter(t, cfg, inv)
			if m.ID() != id {
				t.Errorf("it came back as %s, it had asked as %s", m.ID(), id)
			}
			m.sees(t, "n1", cfg.Name)
			m.close()
		})
	}
}

func TestR19_AClusterIsMadeInSpiteOfACrash(t *testing.T) {
	// After its keys were kept, before its log knew them.
	cfg := memberConfig(t.TempDir(), "n1")
	made, err := trust.Found(cfg.DataDir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := mustEnter(t, cfg, Invitation{})
	if m.id.Cluster != made.Cluster || m.ID() != made.Node || m.cluster().ID != made.Cluster || m.id.Founding() != nil {
		t.Errorf("it became cluster %s, it had begun %s", m.cluster().ID, made.Cluster)
	}
}

func TestANodeFromBeforeThereWereClustersMakesOne(t *testing.T) {
	cfg := memberConfig(t.TempDir(), "n1")
	old, err := consensus.Open(consensusConfigIn(cfg))
	if err != nil {
		t.Fatal(err)
	}
	id := old.ID()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := old.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Propose(ctx, fleet.PutNode{Node: fleet.Node{ID: "n0", Name: "n0"}}); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	m := mustEnter(t, cfg, Invitation{})
	if m.ID() != id || m.id.Node != id || m.cluster().ID == "" {
		t.Errorf("node %s became %s of cluster %q", id, m.ID(), m.cluster().ID)
	}
	// It is a cluster like any other.
	mustEnter(t, memberConfig(t.TempDir(), "n2"), m.invite(t)).sees(t, "n0", "n1", "n2")
}

func consensusConfigIn(cfg config.Config) consensus.Config {
	c := consensusConfig(cfg, slog.New(slog.DiscardHandler))
	c.Dir = raftDir(cfg.DataDir)
	return c
}

func TestKeysAndLogOfTwoClusters(t *testing.T) {
	a, b := memberConfig(t.TempDir(), "a"), memberConfig(t.TempDir(), "b")
	first := mustEnter(t, a, Invitation{})
	first.close()
	mustEnter(t, b, Invitation{}).close()
	if err := os.RemoveAll(filepath.Join(a.DataDir, "trust")); err != nil {
		t.Fatal(err)
	}
	// Without its keys the node would make new ones, for a log that is of a cluster.
	if _, err := enter(t, a, Invitation{}); err == nil || !strings.Contains(err.Error(), "the log of this node is of cluster "+first.id.Cluster) {
		t.Errorf("a log without its keys: %v", err)
	}
	if err := os.RemoveAll(raftDir(b.DataDir)); err != nil {
		t.Fatal(err)
	}
	// Keys whose log is gone begin no second one.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := openMember(ctx, b, Invitation{}, consensusConfig(b, slog.New(slog.DiscardHandler))); err == nil || !errors.Is(err, consensus.ErrNotReady) {
		t.Errorf("keys without their log: %v", err)
	}
}

func TestACertificateIsRenewedInTime(t *testing.T) {
	m := mustEnter(t, memberConfig(t.TempDir(), "n1"), Invitation{})
	before := m.id.Certificate().Leaf.NotAfter
	m.renew(time.Now().AddDate(0, 0, 59))
	if !m.id.Certificate().Leaf.NotAfter.Equal(before) {
		t.Error("it was renewed too early")
	}
	later := time.Now().AddDate(0, 0, 61)
	m.renew(later)
	if got, want := m.id.Certificate().Leaf.NotAfter, later.AddDate(0, 0, 90); got.Sub(want).Abs() > time.Minute {
		t.Errorf("it ends %s, want %s", got, want)
	}
}

func TestWhatJoiningSaysIsNotPrinted(t *testing.T) {
	const secret = "canary-of-redact"
	request := joinRequest{Name: "n2", Secret: secret}
	for _, v := range []any{Invitation{Token: secret, Address: "10.0.0.1:4747"}, request, &request, newcomer{joinRequest: request}, joinAnswer{Secret: secret}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if printed := fmt.Sprintf(verb, v); strings.Contains(printed, secret) {
				t.Errorf("%s of %T prints the secret: %s", verb, v, printed)
			}
		}
	}
}
