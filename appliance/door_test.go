package appliance

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// gate is a membership by the real rules, without a log under it.
type gate struct {
	now func() time.Time

	mu       sync.Mutex
	state    *fleet.State
	broken   error // what every question is answered with
	verified int
	written  int
	admitted map[string]string // address by id
}

func (g *gate) ID() string { return "n1" }

func (g *gate) View(f func(*fleet.State)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g.state)
}

func (g *gate) Verify(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.verified++
	return g.broken
}

func (g *gate) Propose(_ context.Context, body fleet.Body) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.broken != nil {
		return nil, g.broken
	}
	g.written++
	result, _, err := g.state.Apply(g.state.Index()+1, fleet.Command{At: g.now(), Body: body})
	return result, err
}

func (g *gate) Admit(_ context.Context, id, address string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted[id] = address
	return nil
}

// porch is a door with a clock and a token, and what stands before it.
type porch struct {
	*door
	gate  *gate
	token trust.Token
	at    time.Time
	taken net.Listener // a port that answers, for newcomers
}

func newPorch(t *testing.T) *porch {
	t.Helper()
	p := &porch{at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	p.gate = &gate{now: func() time.Time { return p.at }, state: fleet.NewState(), admitted: map[string]string{}}
	id, err := trust.Found(t.TempDir(), "n1", p.at)
	if err != nil {
		t.Fatal(err)
	}
	if p.token, err = trust.NewToken(id.CA.Raw); err != nil {
		t.Fatal(err)
	}
	for _, body := range []fleet.Body{
		fleet.PutCluster{Cluster: fleet.Cluster{ID: id.Cluster, CACert: id.CA.Raw, Sealed: id.Founding()}},
		fleet.PutNode{Node: fleet.Node{ID: "n1", Name: "n1", RegionID: "dc1", ClusterAddress: "127.0.0.1:4747"}},
		fleet.CreateToken{ID: p.token.ID, SecretHash: p.token.SecretHash(), ExpiresAt: p.at.Add(time.Hour), By: "test"},
	} {
		if _, err := p.gate.Propose(t.Context(), body); err != nil {
			t.Fatal(err)
		}
	}
	p.gate.written = 0
	p.door = newDoor(p.gate, id, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4747}, slog.New(slog.DiscardHandler))
	p.now = p.gate.now
	if p.taken, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.taken.Close() })
	return p
}

// newcomer is a node that may come in, and its key.
func (p *porch) newcomer(t testing.TB, name string) (joinRequest, *trust.Joining) {
	t.Helper()
	node, err := trust.BeginJoin(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	request, err := node.Request()
	if err != nil {
		t.Fatal(err)
	}
	return joinRequest{Token: p.token.ID, Secret: p.token.Secret(), Name: name, Region: "dc1", Version: "test",
		Address: p.taken.Addr().String(), Request: request, Time: p.at}, node
}

// knock sends a request from an address.
func (p *porch) knock(t testing.TB, from string, body []byte) (status int, answer joinAnswer, refusal string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, joinPath, bytes.NewReader(body))
	r.RemoteAddr = from
	w := &deadlineWriter{httptest.NewRecorder()}
	p.ServeHTTP(w, r)
	var said struct {
		joinAnswer
		joinRefusal
	}
	if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return w.Code, said.joinAnswer, said.Error
}

// deadlineWriter takes a deadline as the real one does.
type deadlineWriter struct{ *httptest.ResponseRecorder }

func (*deadlineWriter) SetReadDeadline(time.Time) error { return nil }

func (p *porch) ask(t testing.TB, r joinRequest) (status int, answer joinAnswer, refusal string) {
	t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return p.knock(t, "127.0.0.1:40000", body)
}

func TestANodeWithATokenIsLetIn(t *testing.T) {
	p := newPorch(t)
	r, node := p.newcomer(t, "n2")
	for try := range 3 { // it dies before it has kept the answer, and asks again
		status, answer, refusal := p.ask(t, r)
		if status != http.StatusOK {
			t.Fatalf("try %d: %d %s", try, status, refusal)
		}
		if p.gate.admitted[node.Node] != r.Address || len(p.gate.admitted) != 1 {
			t.Fatalf("admitted: %v", p.gate.admitted)
		}
		if len(answer.Nodes) != 1 || answer.Nodes[0] != "127.0.0.1:4747" {
			t.Errorf("the nodes are %v", answer.Nodes)
		}
		cert, err := x509.ParseCertificate(answer.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if who, cluster, err := trust.NodeOf(cert); who != node.Node || cluster != p.id.Cluster || err != nil {
			t.Errorf("the certificate is for %s of %s: %v", who, cluster, err)
		}
		if answer.Secret != p.id.Secret.Text() || !bytes.Equal(answer.CA, p.id.CA.Raw) {
			t.Error("it was given another secret or authority")
		}
		p.at = p.at.Add(2 * time.Hour) // also when the token has expired meanwhile
		r.Time = p.at
		r.Request, err = node.Request()
		if err != nil {
			t.Fatal(err)
		}
	}
	p.gate.View(func(s *fleet.State) {
		if used := s.Token(p.token.ID).UsedBy; used != node.Node {
			t.Errorf("the token was used by %q", used)
		}
	})
}

func TestWhoIsNotLetIn(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(t *testing.T, p *porch, r *joinRequest)
		from   string
		status int
		want   string
		unused bool // the token can be used later
	}{
		{name: "unknown token", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Token = "0000000000000000" }, status: 403, want: "this join token is not known here; print a new one", unused: true},
		{name: "wrong secret", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Secret = strings.Repeat("0", 32) }, status: 403, want: "not known here", unused: true},
		{name: "expired token", before: func(_ *testing.T, p *porch, r *joinRequest) {
			p.at = p.at.Add(2 * time.Hour)
			r.Time = p.at
		}, status: 403, want: "expired at 2026-05-01T13:00:00Z; print a new one with lpmos node token", unused: true},
		{name: "used token", before: func(t *testing.T, p *porch, _ *joinRequest) {
			other, _ := p.newcomer(t, "n3")
			if status, _, refusal := p.ask(t, other); status != http.StatusOK {
				t.Fatal(refusal)
			}
		}, status: 409, want: "was used by node"},
		{name: "clock ahead", before: func(_ *testing.T, p *porch, r *joinRequest) { r.Time = p.at.Add(3*time.Minute + 12*time.Second) }, status: 400, want: "its clock is 3m12s ahead of that of node n1; set the one that is wrong", unused: true},
		{name: "clock behind", before: func(_ *testing.T, p *porch, r *joinRequest) { r.Time = p.at.Add(-90 * time.Second) }, status: 400, want: "its clock is 1m30s behind", unused: true},
		{name: "no clock", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Time = time.Time{} }, status: 400, want: "behind", unused: true},
		{name: "a name that is taken", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Name = "n1" }, status: 409, want: "give this one another name (--name)", unused: true},
		{name: "an address that is taken", before: func(t *testing.T, p *porch, r *joinRequest) {
			if _, err := p.gate.Propose(t.Context(), fleet.PutNode{Node: fleet.Node{ID: "n5", Name: "n5", ClusterAddress: r.Address}}); err != nil {
				t.Fatal(err)
			}
		}, status: 409, want: "node n5 of the cluster is at 127.0.0.1:", unused: true},
		{name: "itself", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Address = "localhost:4747" }, status: 409, want: "which is the node it asks", unused: true},
		{name: "loopback of another host", from: "10.1.2.3:40000", status: 400, want: "--cluster-listen 10.1.2.3:4747", unused: true},
		{name: "no address", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Address = "n2" }, status: 400, want: "no address with a port", unused: true},
		{name: "an address where nobody is", before: func(_ *testing.T, p *porch, _ *joinRequest) { p.taken.Close() }, status: 400, want: "cannot be reached there from node n1", unused: true},
		{name: "no name", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Name = "" }, status: 400, want: "names no name", unused: true},
		{name: "a name of two lines", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Name = "n2\nlevel=ERROR" }, status: 400, want: "cannot be printed", unused: true},
		{name: "no key", before: func(_ *testing.T, _ *porch, r *joinRequest) { r.Request = nil }, status: 400, want: "certificate request cannot be read", unused: true},
		{name: "no majority", before: func(_ *testing.T, p *porch, _ *joinRequest) { p.gate.broken = consensus.ErrCutOff }, status: 503, want: "nobody can be let in just now: this node cannot reach a majority"},
		{name: "a disk that broke", before: func(_ *testing.T, p *porch, _ *joinRequest) { p.gate.broken = fmt.Errorf("disk 7 smells of smoke") }, status: 500, want: "something went wrong at node n1; its log says what"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPorch(t)
			r, node := p.newcomer(t, "n2")
			if c.before != nil {
				c.before(t, p, &r)
			}
			body, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			from := "127.0.0.1:40000"
			if c.from != "" {
				from = c.from
			}
			status, answer, refusal := p.knock(t, from, body)
			if status != c.status || !strings.Contains(refusal, c.want) {
				t.Errorf("%d %s", status, refusal)
			}
			if answer.Certificate != nil || answer.Secret != "" || p.gate.admitted[node.Node] != "" {
				t.Error("it was let in all the same")
			}
			p.gate.View(func(s *fleet.State) {
				if used := s.Token(p.token.ID).UsedBy; c.unused && used != "" {
					t.Errorf("the token is used up, by %s", used)
				}
			})
		})
	}
}

func TestStrangersWriteNothing(t *testing.T) {
	p := newPorch(t)
	r, _ := p.newcomer(t, "n2")
	r.Secret = strings.Repeat("f", 32)
	if status, _, refusal := p.ask(t, r); status != http.StatusForbidden {
		t.Errorf("%d %s", status, refusal)
	}
	if p.gate.written != 0 {
		t.Errorf("%d commands were written for somebody without a token", p.gate.written)
	}
	if p.gate.verified != 1 {
		t.Errorf("this node's state may be old, and it asked %d times whether it is", p.gate.verified)
	}
	for _, body := range []string{"", "null", "[]", "{}", strings.Repeat("[", 200000)} {
		if status, _, _ := p.knock(t, "127.0.0.1:40000", []byte(body)); status != http.StatusBadRequest {
			t.Errorf("%.10q: %d", body, status)
		}
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(&deadlineWriter{w}, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusNotFound || w.Header().Get("Connection") != "close" {
		t.Errorf("another page: %d %v", w.Code, w.Header())
	}
}

func TestS06_OneTokenLetsOneNodeIn(t *testing.T) {
	p := newPorch(t)
	p.busy = make(chan struct{}, 100)
	var wg sync.WaitGroup
	statuses := make(chan int, 100)
	for i := range cap(statuses) {
		r, _ := p.newcomer(t, fmt.Sprint("n", i+2))
		wg.Go(func() {
			status, _, _ := p.ask(t, r)
			statuses <- status
		})
	}
	wg.Wait()
	close(statuses)
	in := 0
	for status := range statuses {
		switch status {
		case http.StatusOK:
			in++
		case http.StatusConflict:
		default:
			t.Errorf("one was answered %d", status)
		}
	}
	if in != 1 || len(p.gate.admitted) != 1 {
		t.Errorf("%d were let in, %d are members", in, len(p.gate.admitted))
	}
}

func TestThereIsRoomForFewAtTheDoor(t *testing.T) {
	p := newPorch(t)
	r, _ := p.newcomer(t, "n2")
	for range cap(p.busy) {
		p.busy <- struct{}{}
	}
	if status, _, refusal := p.ask(t, r); status != http.StatusServiceUnavailable || !strings.Contains(refusal, "try again") {
		t.Errorf("%d %s", status, refusal)
	}
}

func FuzzJoinRequest(f *testing.F) {
	f.Add([]byte(`{"token":"a","secret":"b","name":"n2","region":"dc1","version":"1","cluster_address":"10.0.0.2:4747","csr":"MA==","time":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"csr":[1,2]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parseJoin(body)
		if err == nil && (n.Name == "" || strings.ContainsAny(n.Name, "\n\x00") || !trust.ValidID(n.request.Node)) {
			t.Errorf("%+v", n.joinRequest)
		}
	})
}
