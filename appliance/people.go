package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/client"
	front "github.com/lpmos/lpmos/ui/door"
)

// listenAtTheNode opens the socket that the command line on this host uses. Who may
// open the file is whoever may read the node's keys anyway. The directory is this
// process's alone, so a socket that lies there is one of a life that has ended.
func listenAtTheNode(dataDir string) (net.Listener, error) {
	path := client.SocketIn(dataDir)
	// Made where nobody else gets to and moved when only its owner may open it:
	// between the two steps it would be open to others.
	dir := filepath.Join(dataDir, newSocketDir)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("open the node's socket: %w", err)
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	short, done, err := client.ShortPath(made)
	if err != nil {
		return nil, fmt.Errorf("open the node's socket: %w", err)
	}
	defer done()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("open the node's socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("open the node's socket %s: %w", path, err), l.Close())
	}
	return &nodeSocket{l, path}, nil
}

// newSocketDir is where a socket is made.
const newSocketDir = "socket.new"

type nodeSocket struct {
	net.Listener
	path string
}

func (s *nodeSocket) Close() error {
	return errors.Join(s.Listener.Close(), os.RemoveAll(s.path))
}

// serveAtTheNode answers who came by the node's own socket.
func serveAtTheNode(ctx context.Context, l net.Listener, page http.Handler, log *slog.Logger) error {
	return serve(ctx, l, front.AtTheNode(page), log)
}

// peopleTLS is how the dashboard is shown over TLS: with the certificate that was
// configured, or one of the cluster's authority.
func peopleTLS(cfg config.Config, m *member, addr net.Addr) (*tls.Config, error) {
	shown := &peopleCertificate{member: m, hosts: peopleHosts(cfg, addr), now: time.Now}
	if cfg.TLSCert != "" {
		shown.certFile, shown.keyFile = cfg.TLSCert, cfg.TLSKey
		// One that cannot be shown is found out before anybody asks. That it has ended is
		// no reason to be no node: machines boot, and other nodes count on this one.
		if _, err := shown.get(nil); errors.Is(err, errCertificateEnded) {
			m.log.Error("browsers are shown a certificate of the cluster's own", "err", err)
			shown.certFile, shown.keyFile = "", ""
		} else if err != nil {
			return nil, err
		}
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, GetCertificate: shown.get}, nil
}

// peopleHosts are the names and addresses people may reach this node by.
func peopleHosts(cfg config.Config, addr net.Addr) []string {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, cfg.Hosts...)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, strings.ToLower(name))
	}
	tcp, ok := addr.(*net.TCPAddr)
	if ok && !tcp.IP.IsUnspecified() {
		hosts = append(hosts, tcp.IP.String())
	}
	if ok && tcp.IP.IsUnspecified() {
		all, _ := net.InterfaceAddrs() // without them the certificate is for fewer addresses
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				hosts = append(hosts, p.Addr().Unmap().String())
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

var errCertificateEnded = errors.New("has ended")

// certificateCheck is how long a certificate is shown before it is looked at again.
const certificateCheck = time.Minute

// peopleCertificate is what browsers are shown.
type peopleCertificate struct {
	member            *member
	hosts             []string
	certFile, keyFile string // of the configuration; empty for the cluster's own
	now               func() time.Time

	mu      sync.Mutex
	shown   *tls.Certificate
	checked time.Time
}

func (p *peopleCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.shown != nil && now.Sub(p.checked) < certificateCheck {
		return p.shown, nil
	}
	fresh, err := p.read(now)
	p.checked = now
	if err == nil {
		p.shown = fresh
	} else if p.shown != nil {
		p.member.log.Error("the certificate for people cannot be renewed; the old one is shown", "err", err)
		err = nil
	}
	return p.shown, err
}

func (p *peopleCertificate) read(now time.Time) (*tls.Certificate, error) {
	if p.certFile == "" {
		record := p.member.cluster()
		if record.ID == "" {
			return nil, fmt.Errorf("%w: it does not know its cluster yet", consensus.ErrNotReady)
		}
		return p.member.id.ForPeople(record.CACert, record.Sealed, p.hosts, now)
	}
	cert, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("tls_cert: %w; user %d, who this node is, has to be able to read it", err, os.Getuid())
	}
	if err != nil {
		return nil, fmt.Errorf("tls_cert: %w", err)
	}
	if now.After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("tls_cert: %s %w on %s", p.certFile, errCertificateEnded, cert.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &cert, nil
}

// firstMinute tells who has just made a cluster how to get in. It goes to tell
// alone: what a log keeps and passes on must not let anybody in.
func firstMinute(ctx context.Context, m *member, d *front.Door, dashboard string, tell Teller, log *slog.Logger) {
	var users bool
	m.View(func(s *fleet.State) { users = s.HasUsers() })
	if users {
		return
	}
	if !m.founded || tell.To == nil {
		log.Info("nobody has an account in this cluster yet: lpmos setup-code prints a code to make the first, lpmos login-link a link that signs in once")
		return
	}
	ctx = fleet.WithOrigin(ctx, fleet.Origin{Name: fleet.LocalName, From: "socket"})
	var b strings.Builder
	b.WriteString("\nA new cluster. Nobody has an account yet.\n\n")
	// A link signs in whoever has it, so it is shown to a person and not to a file.
	if tell.Person && strings.HasPrefix(dashboard, "http://") {
		code, _, err := d.NewLoginCode(ctx, "", fleet.LocalName)
		if err != nil {
			log.Warn("there is no login link", "err", err)
			return
		}
		fmt.Fprintf(&b, "  dashboard    %s\n               signs in once, within %d minutes; lpmos login-link prints another\n", client.LoginLink(dashboard, code), int(front.LinkLife.Minutes()))
	} else {
		fmt.Fprintf(&b, "  dashboard    %s\n", dashboard)
	}
	code, _, err := d.NewSetupCode(ctx, fleet.LocalName)
	if err != nil {
		log.Warn("there is no setup code", "err", err)
		return
	}
	fmt.Fprintf(&b, "  setup code   %s\n               makes the first administrator, once, within %d minutes; lpmos setup-code prints another\n", code, int(front.SetupLife.Minutes()))
	fmt.Fprintf(&b, "  authority    %s\n               SHA-256 of the key of the cluster's authority, to compare when a browser or lpmos login asks\n\n", trust.FingerprintOf(m.id.CA))
	_, _ = io.WriteString(tell.To, b.String()) // nobody to tell
}

// Teller is where a new cluster says how to get in.
type Teller struct {
	To     io.Writer // nil: nowhere
	Person bool      // a person reads it now; otherwise a file keeps it
}
