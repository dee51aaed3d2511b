package appliance

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/firstbyte"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/ui/api/client"
)

// A node whose secret is gone, empty or not its own alone does not start: it never
// goes on with a secret that somebody could guess.
func TestS02_ANodeWithoutItsSecretDoesNotStart(t *testing.T) {
	for name, spoil := range map[string]func(string) error{
		"removed": os.Remove, "empty": func(p string) error { return os.Truncate(p, 0) }, "unreadable": func(p string) error { return os.Chmod(p, 0) },
		"of anybody": func(p string) error { return os.Chmod(p, 0o644) }, "short": func(p string) error { return os.WriteFile(p, []byte("-1\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, stop := start(t, dir, "127.0.0.1:0")
			stop()
			if err := spoil(filepath.Join(dir, "trust", "secret")); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := Run(ctx, config.Config{DataDir: dir, Listen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0", Name: "n1", Region: "dc1", BootPort: 80}, "test", slog.New(slog.DiscardHandler), nil, Teller{})
			if err == nil {
				t.Error("it started")
			}
		})
	}
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 12)) // longer than a socket's address
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also where one was left
		l, err := listenAtTheNode(dir)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(client.SocketIn(dir))
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Fatalf("it is %v (%v)", info, err)
		}
		go func() {
			if conn, err := l.Accept(); err == nil {
				fmt.Fprint(conn, "hello\n")
				conn.Close()
			}
		}()
		conn, err := client.DialAtTheNode(dir)(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
			t.Errorf("it said %q (%v)", line, err)
		}
		conn.Close()
		if found, _ := filepath.Glob(filepath.Join(dir, "*")); len(found) != 1 {
			t.Errorf("beside it lies %v", found)
		}
		_ = l.(*nodeSocket).Listener.Close() // as if it had been killed
	}
}

// One port speaks TLS and plain HTTP; who says nothing holds up nobody.
func TestTheFirstByteDecides(t *testing.T) {
	id, err := trust.Found(t.TempDir(), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.ForPeople(id.CA.Raw, id.Founding(), []string{"127.0.0.1", "lpmos.example"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := firstbyte.New(inner, firstbyte.Config{TLS: &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13}})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS != nil) })}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	for range 20 {
		silent, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	roots := x509.NewCertPool()
	roots.AddCert(id.CA)
	secure := func(name string, most uint16) *http.Client {
		return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name, MaxVersion: most}}}
	}
	for url, want := range map[string]string{"http://": "false", "https://": "true"} {
		res, err := secure("", 0).Get(url + inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(b) != want {
			t.Errorf("%s is taken for TLS: %s", url, b)
		}
	}
	if _, err := secure("lpmos.example", 0).Get("https://" + inner.Addr().String()); err != nil {
		t.Errorf("by the other name: %v", err)
	}
	if _, err := secure("evil.example", 0).Get("https://" + inner.Addr().String()); err == nil {
		t.Error("the certificate is good for any name")
	}
	if _, err := secure("", tls.VersionTLS12).Get("https://" + inner.Addr().String()); err == nil {
		t.Error("it speaks TLS 1.2")
	}
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
}

// What browsers are shown is kept over a restart and renewed in time, and it is no
// certificate of a node.
func TestTheCertificateForPeople(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	id, err := trust.Found(dir, "", now)
	if err != nil {
		t.Fatal(err)
	}
	sealed := id.Founding()
	hosts := []string{"127.0.0.1", "10.0.0.1", "lpmos.example"}
	first, err := id.ForPeople(id.CA.Raw, sealed, hosts, now)
	if err != nil {
		t.Fatal(err)
	}
	if name, _, err := trust.NodeOf(first.Leaf); err == nil {
		t.Errorf("it passes for node %s", name)
	}
	if _, err := id.ForPeople(id.CA.Raw, sealed, []string{id.Certificate().Leaf.DNSNames[0]}, now); err == nil {
		t.Error("a certificate for people is made for the name of a node")
	}
	if id, err = trust.Load(dir); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		hosts []string
		at    time.Time
		same  bool
	}{
		"again": {hosts, now.Add(time.Hour), true}, "fewer names": {hosts[:1], now, true}, "another name": {append(hosts, "new.example"), now, false},
	} {
		got, err := id.ForPeople(id.CA.Raw, sealed, c.hosts, c.at)
		if err != nil {
			t.Fatal(err)
		}
		if same := got.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0; same != c.same {
			t.Errorf("%s: the same is %v", what, same)
		}
		if !c.same {
			first = got
		}
	}
	late, err := id.ForPeople(id.CA.Raw, sealed, hosts, now.Add(61*24*time.Hour))
	if err != nil || !late.Leaf.NotAfter.After(now.Add(140*24*time.Hour)) {
		t.Errorf("it is not renewed: %v", err)
	}
}
