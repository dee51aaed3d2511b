package consensus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// serverConfig lets members in by their certificate, and newcomers without one
// where they can do nothing but join.
func (t *TLS) serverConfig() *tls.Config {
	members := t.baseConfig()
	members.NextProtos = []string{string(KindRaft), string(KindCall)}
	members.ClientAuth = tls.RequireAnyClientCert // what it has to be is for proven to say
	members.VerifyConnection = func(cs tls.ConnectionState) error {
		return t.proven(cs, x509.ExtKeyUsageClientAuth)
	}
	newcomers := t.baseConfig()
	newcomers.NextProtos = []string{string(KindJoin)}
	members.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Equal(hello.SupportedProtos, newcomers.NextProtos) {
			return newcomers, nil
		}
		return nil, nil
	}
	return members
}

func (t *TLS) clientConfig(kind Kind) *tls.Config {
	c := t.baseConfig()
	c.NextProtos = []string{string(kind)}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.cfg.Certificate(), nil }
	// The library checks a name, and which node answers is not known before; proven
	// checks all that the library would, and more.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error { return t.proven(cs, x509.ExtKeyUsageServerAuth) }
	return c
}

func (t *TLS) baseConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: t.cfg.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.cfg.Certificate(), nil },
		// Nobody comes back by a ticket: every connection shows its certificate.
		SessionTicketsDisabled: true,
	}
}

// proven says whether the other end has shown a certificate of a node of this
// cluster, and has spoken a protocol of nodes.
func (t *TLS) proven(cs tls.ConnectionState, usage x509.ExtKeyUsage) error {
	if kind := Kind(cs.NegotiatedProtocol); kind != KindRaft && kind != KindCall {
		return errors.New("it does not say what it wants to speak")
	}
	leaf := cs.PeerCertificates[0]
	node, cluster, err := t.cfg.NodeOf(leaf)
	if err != nil {
		return err
	}
	if cluster != t.cfg.Cluster {
		return fmt.Errorf("it is of another cluster: it is node %s of cluster %s, and this is cluster %s", node, cluster, t.cfg.Cluster)
	}
	now := t.cfg.Now()
	_, err = leaf.Verify(x509.VerifyOptions{Roots: t.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("it is of another cluster: it calls itself node %s of this one, but this cluster's authority did not sign that", node)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of node %s holds from %s to %s, and the clock here says %s: set the clock that is wrong, or start that node so that it renews its certificate",
			node, leaf.NotBefore.UTC().Format(time.DateTime), leaf.NotAfter.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	case err != nil:
		return fmt.Errorf("the certificate of node %s does not do: %w", node, err)
	}
	return nil
}

// handshakeError says in words what went wrong in a handshake.
func handshakeError(err error) error {
	var noTLS tls.RecordHeaderError
	var network *net.OpError
	switch {
	case errors.As(err, &noTLS):
		return errors.New("it does not speak TLS: it is no node, or that is not its cluster address")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it did not shake hands within %s", handshakeLimit)
	case errors.Is(err, io.EOF):
		return errors.New("it hung up before it said who it is")
	case errors.Is(err, net.ErrClosed):
		return errors.New("it did not say who it is while others were waiting")
	case errors.As(err, &network) && network.Op == "remote error": // an alert
		return fmt.Errorf("the other end refused (%w); its log says why", network.Err)
	}
	return err
}
