package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/ui/api/client"
)

const (
	// formLimit is how long the nodes may take to become one cluster.
	formLimit = 3 * time.Minute
	// askLimit is how long a node may take to answer what it has at hand.
	askLimit = 10 * time.Second
	askEvery = 100 * time.Millisecond
)

// form starts the nodes and returns when they are one cluster and all answer.
// The first makes it; each of the others is given a token and joins once, and
// from then on knows where it belongs.
func (r *Rack) form(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, formLimit, fmt.Errorf("the nodes are no cluster after %s", formLimit))
	defer cancel()
	// Members first, and together: they may need each other to agree on anything.
	for i, n := range r.nodes {
		if i > 0 && !n.hasJoined() {
			continue
		}
		if err := r.Client().StartNode(ctx, n.Name); err != nil {
			return err
		}
	}
	if err := r.awaitNode(ctx, r.nodes[0]); err != nil {
		return err
	}
	for _, n := range r.nodes[1:] {
		if n.hasJoined() {
			continue
		}
		if err := r.join(ctx, n); err != nil {
			return err
		}
	}
	for _, n := range r.nodes[1:] {
		if err := r.awaitNode(ctx, n); err != nil {
			return err
		}
	}
	if len(r.nodes) == 1 {
		return nil
	}
	return r.awaitCluster(ctx, func(s consensus.Status) error { return incomplete(r.nodes, s) })
}

// join makes a node a member of the cluster that the first one made.
func (r *Rack) join(ctx context.Context, n Node) error {
	first := r.nodes[0]
	var made struct {
		Token string `json:"token"`
	}
	// Making a token is a write, for which the cluster may not be ready yet.
	err := r.again(ctx, func() error { return r.ask(ctx, http.MethodPost, first, "/api/v1/cluster/tokens", &made) })
	if err != nil {
		return fmt.Errorf("get a token for %s from %s: %w", n.Name, first.Name, err)
	}
	if err := r.Client().joinNode(ctx, n.Name, made.Token, first.ClusterAddress()); err != nil {
		return err
	}
	if err := r.awaitCluster(ctx, func(s consensus.Status) error { return absent(n, s) }); err != nil {
		return err
	}
	if err := os.WriteFile(n.joinedFile(), nil, 0o644); err != nil {
		return fmt.Errorf("note that %s has joined: %w", n.Name, err)
	}
	return nil
}

// absent says why a node is no member in reach, nil if it is one.
func absent(n Node, s consensus.Status) error {
	i := slices.IndexFunc(s.Members, func(m consensus.Member) bool { return m.Address == n.ClusterAddress() })
	switch {
	case i < 0:
		return fmt.Errorf("%s is no member, see %s", n.Name, n.Log())
	case !s.Members[i].Reachable:
		return fmt.Errorf("%s is a member out of reach, see %s", n.Name, n.Log())
	}
	return nil
}

// incomplete says what is missing of a cluster that may lose any node, nil if nothing is.
func incomplete(nodes []Node, s consensus.Status) error {
	var missing []error
	voters := 0
	for _, n := range nodes {
		missing = append(missing, absent(n, s))
	}
	for _, m := range s.Members {
		if m.Voter {
			voters++
		}
	}
	if len(nodes) >= 3 && voters < 3 {
		missing = append(missing, fmt.Errorf("only %d of %d nodes may vote", voters, len(nodes)))
	}
	return errors.Join(missing...)
}

// awaitCluster waits until the first node's view of the cluster has no more
// to complain of.
func (r *Rack) awaitCluster(ctx context.Context, complaint func(consensus.Status) error) error {
	return r.again(ctx, func() error {
		var s consensus.Status
		if err := r.ask(ctx, http.MethodGet, r.nodes[0], "/api/v1/cluster", &s); err != nil {
			return fmt.Errorf("ask %s for the cluster: %w", r.nodes[0].Name, err)
		}
		return complaint(s)
	})
}

// awaitNode returns when a node serves.
func (r *Rack) awaitNode(ctx context.Context, n Node) error {
	return r.again(ctx, func() error {
		if err := r.ask(ctx, http.MethodHead, n, "/", nil); err != nil {
			return fmt.Errorf("%s does not answer, see %s: %w", n.Name, n.Log(), err)
		}
		return nil
	})
}

// again repeats f until it succeeds; what it said last is the error when the
// rack ends or the time is up.
func (r *Rack) again(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-r.gone:
			return errors.New("the rack ended before its nodes were ready")
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(askEvery):
		}
	}
}

// ask sends a request without a body to a node, by its own socket.
func (r *Rack) ask(ctx context.Context, method string, n Node, path string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return err
	}
	// A node's life may end with any of our requests in its hands.
	caller := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: client.DialAtTheNode(n.DataDir())}}
	resp, err := caller.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("answer to %s: %w", req.URL.Path, err)
	}
	return nil
}
