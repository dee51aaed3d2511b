package consensus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Nodes call each other over HTTP inside the mutual TLS of the Network:
//
//	POST /propose   entries for the log, to the leader (forward.go)
//	POST /verify    which index holds everything acknowledged so far, to the leader
//	POST /live      progress and contacts of machines, ahead of the log
//	POST /member    a change of the members, to the leader
//	GET  /status    how the node is
//	     /x/…       what the rooms above have for each other
//
// Other nodes are trusted with what they say, not with how much: bodies are bounded.

// maxCall is the largest body of a call, in bytes. An entry is bounded by
// maxEntry, and a live message by the machines there can be.
const maxCall = 16 << 20

// callIdle is how long a connection between nodes may have nothing to say.
const callIdle = 2 * time.Minute

// newCaller makes the client for calls; hosts in its URLs are addresses of nodes.
func newCaller(network Network) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, to string) (net.Conn, error) {
			return network.Dial(ctx, to, KindCall)
		},
		MaxIdleConnsPerHost: 16, IdleConnTimeout: callIdle / 2, DisableCompression: true,
	}}
}

// Call gives a client and a base URL for HTTP to another member: paths below
// base + "/x/" are answered by its Config.Calls.
func (n *Node) Call(nodeID string) (*http.Client, string, error) {
	if n.caller == nil {
		return nil, "", errors.New("this node has no connections to others")
	}
	for _, s := range n.servers() {
		if string(s.ID) == nodeID {
			return n.caller, "http://" + string(s.Address), nil
		}
	}
	return nil, "", fmt.Errorf("%s is no member of the cluster", nodeID)
}

// callListener gives an HTTP server the connections of other nodes.
type callListener struct{ network Network }

func (l callListener) Accept() (net.Conn, error) {
	c, peer, err := l.network.Accept(KindCall)
	if err != nil {
		return nil, err
	}
	return &callConn{Conn: c, peer: peer}, nil
}
func (l callListener) Close() error   { return nil } // the Network is closed by whoever opened it
func (l callListener) Addr() net.Addr { return address(l.network.Address()) }

type callConn struct {
	net.Conn
	peer string
}

type peerKey struct{}

// serveCalls answers other nodes until the node closes.
func (n *Node) serveCalls() {
	defer n.wg.Done()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /propose", n.answerPropose)
	mux.HandleFunc("POST /verify", n.answerVerify)
	mux.HandleFunc("POST /live", n.answerLive)
	mux.HandleFunc("POST /member", n.answerMember)
	mux.HandleFunc("GET /status", n.answerStatus)
	if n.cfg.Calls != nil {
		mux.Handle("/x/", n.cfg.Calls)
	}
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, _ := r.Context().Value(peerKey{}).(string)
			if !n.mayTalk(peer) && r.URL.Path != "/member" {
				http.Error(w, "this node is no member of the cluster", http.StatusForbidden)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxCall)
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: callIdle, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if cc, ok := c.(*callConn); ok {
				return context.WithValue(ctx, peerKey{}, cc.peer)
			}
			return ctx
		},
	}
	n.callServer.Store(srv)
	if err := srv.Serve(callListener{n.cfg.Network}); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		n.log.Error("other nodes are not answered any more", "error", err)
	}
}

// ask makes one call that carries and gives JSON. Either may be nil.
func (n *Node) ask(ctx context.Context, method, to, path string, body, into any) error {
	var r io.Reader
	if raw, ok := body.([]byte); ok {
		r = bytes.NewReader(raw)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+to+path, r)
	if err != nil {
		return err
	}
	resp, err := n.caller.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxCall))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &callError{resp.StatusCode, strings.TrimSpace(string(b))}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}

// callError is what another node said instead of doing what it was asked.
type callError struct {
	status int
	text   string
}

func (e *callError) Error() string { return e.text }

// readAll reads a body, which serveCalls has bounded.
func readAll(r *http.Request) ([]byte, error) { return io.ReadAll(r.Body) }

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // who asked has gone
}
