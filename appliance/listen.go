package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/netboot"
)

// listenPeople opens the dashboard's address, or takes over an inherited socket.
func listenPeople(addr string) (net.Listener, error) {
	if fd, ok := strings.CutPrefix(addr, "fd:"); ok {
		n, err := strconv.ParseUint(fd, 10, 16)
		if err != nil || n < 3 {
			return nil, fmt.Errorf("listen: %q is no inherited socket; write fd:3", addr)
		}
		f := os.NewFile(uintptr(n), addr)
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("listen: take over %s: %w", addr, err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, portError("listen", addr, err)
	}
	return l, nil
}

// listenMachines opens the boot port at this node's address of each network, and
// nowhere else.
func listenMachines(networks []servedNetwork, port int) ([]net.Listener, error) {
	var out []net.Listener
	for _, n := range networks {
		if !n.onWire {
			continue // its machines come to the address of the interface
		}
		addr := net.JoinHostPort(n.addr.String(), fmt.Sprint(port))
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			closeAll(out)
			return nil, portError("boot_port", addr, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func portError(key, addr string, err error) error {
	_, port, _ := net.SplitHostPort(addr)
	holder := netboot.PortHolder("tcp", port)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: %s is taken%s: end it, or give this node another port (%w)", key, addr, holder, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %s may not be opened: ports below 1024 need root or CAP_NET_BIND_SERVICE (%w)", key, addr, syscall.EACCES)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// dashboardURL is where people find the dashboard: by the first name it has, and
// else by an address. A name it was not given it would refuse. One that listens on
// every address is named by that of the first network it serves, or by any other.
func dashboardURL(addr net.Addr, cfg config.Config) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() || len(cfg.Hosts) == 0 && !tcp.IP.IsUnspecified() {
		return scheme(addr.String()) + addr.String()
	}
	at := net.JoinHostPort(peopleHost(cfg), strconv.Itoa(tcp.Port))
	return scheme(at) + at
}

func peopleHost(cfg config.Config) string {
	if len(cfg.Hosts) > 0 {
		return cfg.Hosts[0]
	}
	for _, i := range cfg.Interfaces {
		if ip, err := netboot.InterfaceAddress(i.Name); err == nil {
			return ip.String()
		}
	}
	all, _ := net.InterfaceAddrs() // without them there is loopback
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr().String()
		}
	}
	return "localhost"
}

// scheme is how an address of the dashboard is reached: in the clear on this host
// alone, where nobody listens in and a certificate could prove nothing.
func scheme(at string) string {
	if addr, err := netip.ParseAddrPort(at); err == nil && addr.Addr().Unmap().IsLoopback() {
		return "http://"
	}
	return "https://"
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		l.Close()
	}
}

// serve answers HTTP until ctx ends, then lets running requests finish for a
// moment; long polls and sockets are cut.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := srv.Shutdown(grace); err != nil {
			srv.Close()
		}
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}

// served is what other nodes and their machines are to know of the networks this
// node serves: where its boot port is, and which subnets they are.
func served(all []servedNetwork, boot []net.Listener) (urls, networks []string) {
	for _, l := range boot {
		urls = append(urls, "http://"+l.Addr().String())
	}
	for _, n := range all {
		networks = append(networks, n.network.String())
	}
	return urls, networks
}
