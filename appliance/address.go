package appliance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/lpmos/lpmos/appliance/config"
)

// listenCluster opens the address for other nodes. Those that call before this
// node answers wait in its queue.
func listenCluster(cfg config.Config) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(cfg.ClusterListen); err != nil {
		return nil, fmt.Errorf("cluster_listen: %w", err)
	}
	l, err := net.Listen("tcp", cfg.ClusterListen)
	if err != nil {
		return nil, portError("cluster_listen", cfg.ClusterListen, err)
	}
	return l, nil
}

// clusterAddress is where other nodes reach this one.
func clusterAddress(cfg config.Config, l net.Listener) string {
	if cfg.ClusterAddress != "" {
		return cfg.ClusterAddress
	}
	return l.Addr().String()
}

// resolve finds what an address with a port stands for.
func resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is no address with a port; write it as 10.0.0.1:4747", address)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || host == "" {
		return nil, fmt.Errorf("%q is no address with a port; write it as 10.0.0.1:4747", address)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("there is no host %s (%w)", host, err)
	}
	out := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		out[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return out, nil
}

// isOwn says whether whoever connects to one of these gets to this listener.
func isOwn(of []netip.AddrPort, l net.Addr) bool {
	own, err := netip.ParseAddrPort(l.String())
	if err != nil {
		return false
	}
	here := map[netip.Addr]bool{own.Addr().Unmap(): true}
	if own.Addr().IsUnspecified() {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return false
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				here[p.Addr().Unmap()] = true
			}
		}
	}
	for _, a := range of {
		if a.Port() == own.Port() && here[a.Addr()] {
			return true
		}
	}
	return false
}

// isLoopback says whether an address is of use on its own host only.
func isLoopback(of []netip.AddrPort) bool {
	for _, a := range of {
		if !a.Addr().IsLoopback() {
			return false
		}
	}
	return true
}
