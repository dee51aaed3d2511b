package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/ui/api/client"
)

// fakeNode is a node that says who it is and what it sees. It is a member of a
// cluster of which the first knows everything: enough to join by a token over the
// rack's wire, and to see who is in reach.
type fakeNode struct {
	name, dir, address string

	mu      sync.Mutex
	members map[string]string // name → address
	token   string
}

type nodeView struct {
	Name  string
	PID   int
	Links []string
	Args  []string // how it was started, behind the configuration
}

// runFakeNode is "lpmos up --config FILE [--join TOKEN ADDRESS]".
func runFakeNode(config string, args []string) error {
	content, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var c struct {
		Name          string `yaml:"name"`
		Fail          bool   `yaml:"fail"`
		DataDir       string `yaml:"data_dir"`
		ClusterListen string `yaml:"cluster_listen"`
	}
	if err := yaml.Unmarshal(content, &c); err != nil {
		return err
	}
	if c.Fail {
		return fmt.Errorf("configuration line 1: bad key")
	}
	n := &fakeNode{name: c.Name, dir: c.DataDir, address: c.ClusterListen}
	if err := n.remember(); err != nil {
		return err
	}
	people, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	socket := client.SocketIn(n.dir)
	if err := os.RemoveAll(socket); err != nil { // of an earlier life
		return err
	}
	local, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	nodes, err := net.Listen("tcp", n.address)
	if err != nil {
		return err
	}
	if len(args) == 3 && args[0] == "--join" {
		if err := n.join(args[1], args[2]); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go http.Serve(nodes, n.forNodes())
	server := &http.Server{Handler: n.forPeople(args)}
	go server.Serve(people)
	go server.Serve(local)
	<-ctx.Done()
	return server.Close()
}

// remember reads the members of an earlier life.
func (n *fakeNode) remember() error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	n.members = map[string]string{n.name: n.address}
	b, err := os.ReadFile(filepath.Join(n.dir, "members"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, json.Unmarshal(b, &n.members))
}

func (n *fakeNode) join(token, address string) error {
	res, err := http.PostForm("http://"+address+"/join", url.Values{"token": {token}, "name": {n.name}, "address": {n.address}})
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("join: %s", res.Status)
	}
	return nil
}

func (n *fakeNode) forNodes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /join", func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if r.FormValue("token") != n.token || n.token == "" {
			http.Error(w, "wrong token", http.StatusForbidden)
			return
		}
		n.token = ""
		n.members[r.FormValue("name")] = r.FormValue("address")
		b, _ := json.Marshal(n.members)
		if err := os.WriteFile(filepath.Join(n.dir, "members"), b, 0o644); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

func (n *fakeNode) forPeople(args []string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		seen := nodeView{Name: n.name, PID: os.Getpid(), Args: args}
		links, _ := net.Interfaces()
		for _, l := range links {
			seen.Links = append(seen.Links, l.Name)
		}
		json.NewEncoder(w).Encode(seen)
	})
	mux.HandleFunc("POST /api/v1/cluster/tokens", func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.token = fmt.Sprintf("token-%d", len(n.members))
		json.NewEncoder(w).Encode(map[string]string{"token": n.token})
	})
	mux.HandleFunc("GET /api/v1/cluster", func(w http.ResponseWriter, _ *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		var s consensus.Status
		for name, address := range n.members {
			s.Members = append(s.Members, consensus.Member{Name: name, Address: address, Voter: true, Reachable: reaches(address)})
		}
		json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("GET /reaches", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(reaches(r.FormValue("address")))
	})
	return mux
}

// reaches asks over the rack's wire. On it an answer takes less than a millisecond.
func reaches(address string) bool {
	caller := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := caller.Get("http://" + address)
	if err != nil {
		return false
	}
	res.Body.Close()
	return true
}

// askNode asks a node by the dashboard's address on the host.
func askNode(t *testing.T, url string) nodeView {
	t.Helper()
	var v nodeView
	ask(t, url, &v)
	return v
}

func ask(t *testing.T, url string, out any) {
	t.Helper()
	caller := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := caller.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		t.Fatal(err)
	}
}

// reach draws who reaches whom over the rack's wire, by the nodes that answer
// people: "n1>n2 n1>n3 ...".
func reach(t *testing.T, from ...Node) string {
	t.Helper()
	var lines []string
	for _, a := range from {
		for _, b := range from {
			var yes bool
			if a != b {
				ask(t, a.URL+"/reaches?address="+b.ClusterAddress(), &yes)
			}
			if yes {
				lines = append(lines, a.Name+">"+b.Name)
			}
		}
	}
	return strings.Join(lines, " ")
}
