package appliance

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/agent/firstbyte"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/netboot"
)

// machineHandler is everything that machines ask a node for. Without TLS it gives
// what firmware and installed systems ask for, which know no cluster, and chunks,
// which are named by their own hash and checked by who asks.
func machineHandler(boot *netboot.Server, agents *agentserver.Server, images http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(netboot.BootPath, boot.Handler())
	mux.Handle("/up/", agents.Handler())
	mux.Handle("/chunk/", agentserver.Alive(images))
	mux.Handle("/api/v1/agent/", agents.Handler())
	mux.Handle("/manifest/", agentserver.OverTLS(agentserver.Alive(images)))
	return mux
}

// bothWays lets a port speak TLS as this node, and plain HTTP.
func bothWays(l net.Listener, id *trust.Identity) net.Listener {
	return firstbyte.New(l, firstbyte.Config{TLS: &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Every connection shows the certificate, which changes when it is renewed.
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
		SessionTicketsDisabled: true,
	}})
}

// claimSeam is the cluster's claim codes as netboot makes them and as the agents'
// server reads them.
type claimSeam struct{ claims trust.Claims }

func (c claimSeam) make(mac string, addr netip.Addr) (string, error) {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("claim code for MAC %.40q: %w", mac, err)
	}
	return c.claims.New([6]byte(hw), addr, time.Now())
}

func (c claimSeam) read(code string) (agentserver.Claim, error) {
	got, err := c.claims.Parse(code)
	if err != nil {
		return agentserver.Claim{}, err
	}
	return agentserver.Claim{ID: got.ID, MAC: net.HardwareAddr(got.MAC[:]).String(), IP: got.IP, Expires: got.Expires}, nil
}

// bootTrust is what a boot script says so that the agent knows its cluster.
func bootTrust(id *trust.Identity, cfg *netboot.Config) {
	cfg.Pin = pin.Of(id.CA).String()
	cfg.Claim = claimSeam{id.Claims()}.make
	cfg.PathKey = id.Secret.Derive("lpmos boot path")
}
