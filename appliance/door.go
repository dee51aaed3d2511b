package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

const (
	// clockLimit is how far a node's clock may be off. Certificates, approvals and
	// tokens end by the clock.
	clockLimit = time.Minute
	// joinsAtOnce bounds what strangers can have this node do.
	joinsAtOnce = 4
	// bodyTime is how long a request may take to arrive.
	bodyTime = 5 * time.Second
	// reachTime is how long a node may take to answer at the address it gives.
	reachTime = 3 * time.Second
)

// membership is what letting a node in takes of the consensus node.
type membership interface {
	ID() string
	View(func(*fleet.State))
	Verify(context.Context) error
	Propose(context.Context, fleet.Body) (any, error)
	Admit(ctx context.Context, id, address string) error
}

// door lets nodes in that bring a token.
type door struct {
	cluster membership
	id      *trust.Identity
	address net.Addr // that this node listens at for others
	now     func() time.Time
	log     *slog.Logger
	busy    chan struct{} // a place for each request under way
}

func newDoor(c membership, id *trust.Identity, address net.Addr, log *slog.Logger) *door {
	return &door{cluster: c, id: id, address: address, now: time.Now, log: log, busy: make(chan struct{}, joinsAtOnce)}
}

// refusal is a sentence for the node that asks.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// ServeHTTP answers POST /join.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A stranger gets one request a connection, and not long for it.
	w.Header().Set("Connection", "close")
	answer, err := joinAnswer{}, http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	if err == nil {
		answer, err = d.answer(r)
	}
	status, body := http.StatusOK, any(answer)
	if err != nil {
		said := d.explain(err)
		status, body = said.status, joinRefusal{said.text}
		d.log.Warn("a node was not let in", "from", r.RemoteAddr, "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		d.log.Debug("a node did not wait for its answer", "from", r.RemoteAddr, "err", err)
	}
}

func (d *door) answer(r *http.Request) (joinAnswer, error) {
	if r.URL.Path != joinPath || r.Method != http.MethodPost {
		return joinAnswer{}, refuse(http.StatusNotFound, "only POST %s is answered here", joinPath)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxJoinBody))
	if err != nil {
		return joinAnswer{}, refuse(http.StatusBadRequest, "the request cannot be read: %v", err)
	}
	n, err := parseJoin(body)
	if err != nil {
		return joinAnswer{}, refuse(http.StatusBadRequest, "%v", err)
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return joinAnswer{}, fmt.Errorf("address of the newcomer: %w", err)
	}
	select {
	case d.busy <- struct{}{}:
		defer func() { <-d.busy }()
	default:
		return joinAnswer{}, refuse(http.StatusServiceUnavailable, "%d other nodes are being let in just now; try again", joinsAtOnce)
	}
	return d.letIn(r.Context(), n, from.Addr().Unmap())
}

// letIn is the whole way in. A stranger without a token learns nothing on it and
// writes nothing into the log.
func (d *door) letIn(ctx context.Context, n newcomer, from netip.Addr) (joinAnswer, error) {
	if err := d.checkClock(n.Time); err != nil {
		return joinAnswer{}, err
	}
	token, err := d.token(ctx, n)
	if err != nil {
		return joinAnswer{}, err
	}
	redeem := fleet.RedeemToken{ID: n.Token, SecretHash: trust.HashSecret(n.Secret), NodeID: n.request.Node}
	if token.Open(d.now()) || token.UsedBy == n.request.Node {
		// What is wrong with the node does not cost it its token.
		if err := d.checkNode(ctx, n, from); err != nil {
			return joinAnswer{}, err
		}
	}
	if _, err := d.cluster.Propose(ctx, redeem); err != nil {
		return joinAnswer{}, err
	}
	var record fleet.Cluster
	answer := joinAnswer{CA: d.id.CA.Raw, Secret: d.id.Secret.Text()}
	d.cluster.View(func(s *fleet.State) {
		record = *s.Cluster()
		for _, m := range s.Nodes() {
			if m.ClusterAddress != "" {
				answer.Nodes = append(answer.Nodes, m.ClusterAddress)
			}
		}
	})
	ca, err := trust.OpenCA(record.ID, record.CACert, record.Sealed, d.id.Secret)
	if err != nil {
		return joinAnswer{}, err
	}
	if answer.Certificate, err = ca.Certify(n.request, d.now()); err != nil {
		return joinAnswer{}, err
	}
	if err := d.cluster.Admit(ctx, n.request.Node, n.Address); err != nil {
		return joinAnswer{}, err
	}
	d.log.Info("let a node into the cluster", "node", n.request.Node, "name", n.Name, "region", n.Region, "address", n.Address, "token", n.Token)
	return answer, nil
}

func (d *door) checkClock(theirs time.Time) error {
	off := theirs.Sub(d.now())
	if off.Abs() <= clockLimit {
		return nil
	}
	way := "ahead of"
	if off < 0 {
		way = "behind"
	}
	return refuse(http.StatusBadRequest, "its clock is %s %s that of node %s; set the one that is wrong (timedatectl set-ntp true, or chronyc makestep) and join again, the token is not used up",
		off.Abs().Round(time.Second), way, d.cluster.ID())
}

// token finds what was made known of the token. Nobody is asked about one with a
// wrong secret but this node's own state, unless that may be old.
func (d *door) token(ctx context.Context, n newcomer) (*fleet.Token, error) {
	known := func() (t *fleet.Token) {
		d.cluster.View(func(s *fleet.State) {
			if found := s.Token(n.Token); found != nil && found.SecretHash == trust.HashSecret(n.Secret) && s.Cluster() != nil {
				t = found
			}
		})
		return t
	}
	if t := known(); t != nil {
		return t, nil
	}
	if err := d.cluster.Verify(ctx); err != nil {
		return nil, err
	}
	if t := known(); t != nil {
		return t, nil
	}
	return nil, refuse(http.StatusForbidden, "this join token is not known here; print a new one with lpmos node token")
}

// checkNode finds what would make a bad member. Its bearer has a token.
func (d *door) checkNode(ctx context.Context, n newcomer, from netip.Addr) error {
	var clash error
	d.cluster.View(func(s *fleet.State) {
		for _, m := range s.Nodes() {
			switch {
			case m.ID == n.request.Node:
			case m.Name == n.Name:
				clash = refuse(http.StatusConflict, "there is a node %s in the cluster already: give this one another name (--name), or remove the other first if it is gone (lpmos node remove %s)", n.Name, m.Name)
			case m.ClusterAddress == n.Address:
				clash = refuse(http.StatusConflict, "node %s of the cluster is at %s already: give this one another address (--cluster-listen), or remove the other first if it is gone (lpmos node remove %s)", m.Name, n.Address, m.Name)
			}
		}
	})
	if clash != nil {
		return clash
	}
	at, err := resolve(ctx, n.Address)
	switch {
	case err != nil:
		return refuse(http.StatusBadRequest, "its cluster address does not do: %v", err)
	case isOwn(at, d.address):
		return refuse(http.StatusConflict, "it says that it is at %s, which is the node it asks: set cluster_listen of the new node to an address of its own", n.Address)
	case isLoopback(at) && !from.IsLoopback():
		return refuse(http.StatusBadRequest, "it says that it is at %s, where no other host can reach it: set its cluster_listen to an address of the network (--cluster-listen %s)", n.Address, net.JoinHostPort(from.String(), "4747"))
	}
	conn, err := (&net.Dialer{Timeout: reachTime}).DialContext(ctx, "tcp", n.Address)
	if err != nil {
		return refuse(http.StatusBadRequest, "it says that it is at %s, and it cannot be reached there from node %s (%v): open that port, or say with cluster_address where it is reached", n.Address, d.cluster.ID(), err)
	}
	conn.Close()
	return nil
}

// explain is what the newcomer is told.
func (d *door) explain(err error) *refusal {
	var said *refusal
	if errors.As(err, &said) {
		return said
	}
	switch code := fleet.ErrorCode(err); {
	case code == fleet.Precondition:
		return &refusal{http.StatusForbidden, err.Error()}
	case code != "":
		return &refusal{http.StatusConflict, err.Error()}
	case errors.Is(err, consensus.ErrNotReady), errors.Is(err, consensus.ErrUncertain), errors.Is(err, consensus.ErrNoSpace):
		return &refusal{http.StatusServiceUnavailable, "nobody can be let in just now: " + err.Error()}
	}
	return &refusal{http.StatusInternalServerError, fmt.Sprintf("something went wrong at node %s; its log says what", d.cluster.ID())}
}
