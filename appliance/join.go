package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
)

// joinTime is how long the cluster may take to let a node in: it may have to
// elect a leader first.
const joinTime = time.Minute

// join is a node that asks to be let in.
type join struct {
	cfg      config.Config
	token    trust.Token
	to       string // address of a node of the cluster
	version  string
	listener net.Listener
	now      func() time.Time
	log      *slog.Logger
}

// run asks until the answer is kept on disk. Wherever it ends before, it can be
// run again with the same token: the node has its key, and so its id, before it
// asks.
func (j join) run(ctx context.Context) (*trust.Identity, error) {
	address := clusterAddress(j.cfg, j.listener)
	if err := j.checkAddresses(ctx, address); err != nil {
		return nil, err
	}
	node, err := trust.BeginJoin(j.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	request, err := node.Request()
	if err != nil {
		return nil, err
	}
	answer, err := j.ask(ctx, joinRequest{Token: j.token.ID, Secret: j.token.Secret(), Name: j.cfg.Name, Region: j.cfg.Region,
		Version: j.version, Address: address, Request: request, Time: j.now()})
	if err != nil {
		return nil, err
	}
	secret, err := trust.ParseSecret(answer.Secret)
	if err != nil {
		return nil, fmt.Errorf("the answer of the node at %s: %w", j.to, err)
	}
	id, err := node.Finish(answer.CA, answer.Certificate, secret)
	if err != nil {
		return nil, err
	}
	j.log.Info("joined a cluster", "cluster", id.Cluster, "node", id.Node, "nodes", answer.Nodes)
	return id, nil
}

// checkAddresses finds out here what could not work, before a token is spent.
func (j join) checkAddresses(ctx context.Context, address string) error {
	to, err := resolve(ctx, j.to)
	if err != nil {
		return fmt.Errorf("the address to join at: %w", err)
	}
	own, err := resolve(ctx, address)
	if err != nil {
		return fmt.Errorf("the cluster address of this node: %w", err)
	}
	switch {
	case isOwn(to, j.listener.Addr()):
		return fmt.Errorf("%s is the cluster address of this node itself: name that of a node that is in the cluster; if both are on this host, give this one another with --cluster-listen", j.to)
	case isLoopback(own) && !isLoopback(to):
		return fmt.Errorf("the cluster address of this node is %s, which nobody else can reach: set cluster_listen to an address of the network that %s is on (--cluster-listen IP:4747)", address, j.to)
	}
	return nil
}

// ask sends the request, and the secret in it, to nobody who has not proven to be
// of the token's cluster.
func (j join) ask(ctx context.Context, r joinRequest) (answer joinAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	body, err := json.Marshal(r)
	if err != nil {
		return answer, fmt.Errorf("ask to join: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+j.to+joinPath, bytes.NewReader(body))
	if err != nil {
		return answer, fmt.Errorf("ask to join: %w", err)
	}
	transport := &http.Transport{DialTLSContext: j.dial}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return answer, fmt.Errorf("join at %s: %w", j.to, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxJoinBody))
	if err != nil {
		return answer, fmt.Errorf("join at %s: %w", j.to, err)
	}
	if res.StatusCode != http.StatusOK {
		var refusal joinRefusal
		if err := json.Unmarshal(raw, &refusal); err != nil || refusal.Error == "" {
			return answer, fmt.Errorf("join at %s: it answers %s", j.to, res.Status)
		}
		return answer, fmt.Errorf("the node at %s does not let this one in: %s", j.to, refusal.Error)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, fmt.Errorf("the answer of the node at %s: %w", j.to, err)
	}
	return answer, nil
}

func (j join) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{string(consensus.KindJoin)},
		// The library knows no authority of ours; the token does.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := j.token.Prove(cs.PeerCertificates, j.now())
			return err
		}}}
	conn, err := d.DialContext(ctx, network, address)
	var noTLS tls.RecordHeaderError
	if errors.As(err, &noTLS) {
		return nil, errors.New("it does not speak TLS: is that the cluster address of a node? lpmos node list shows them")
	}
	return conn, err
}
