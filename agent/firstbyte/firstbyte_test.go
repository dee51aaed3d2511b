package firstbyte

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// open is a port that tells how it was spoken to.
func open(t testing.TB, cfg Config) *Listener {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate(t)}}
	l := New(raw, cfg)
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, map[bool]string{true: "TLS", false: "plain"}[r.TLS != nil])
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the server ended with %v", err)
		}
	}()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
	return l
}

// asks gives what a request to the port is answered.
func asks(scheme string, l net.Listener) (string, error) {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	res, err := c.Get(scheme + "://" + l.Addr().String())
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func TestOnePortSpeaksBoth(t *testing.T) {
	l := open(t, Config{})
	for scheme, want := range map[string]string{"http": "plain", "https": "TLS"} {
		if got, err := asks(scheme, l); err != nil || got != want {
			t.Errorf("%s: %q, %v", scheme, got, err)
		}
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	old := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	if err := old.Handshake(); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
}

// A plain connection is the kernel's own, and nothing of what was said is lost.
func TestAPlainConnectionIsHandedOnAsItIs(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(raw, Config{})
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "GET / HTTP/1.1")
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if _, ok := got.(*net.TCPConn); !ok {
		t.Errorf("it is a %T", got)
	}
	if line, err := bufio.NewReader(got).ReadString('\n'); err != nil || line != "GET / HTTP/1.1\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestS45_SilentConnectionsAreCut(t *testing.T) {
	before := runtime.NumGoroutine()
	const wait = 300 * time.Millisecond
	l := open(t, Config{Patience: wait})
	for _, says := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01\x00"} { // nothing, and handshakes that do not go on
		var all []net.Conn
		for range 1000 {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, says) // it may have been cut already
			all = append(all, c)
			if n := l.count(); n > perIP {
				t.Fatalf("%d strangers of one address are let in", n)
			}
		}
		for i, c := range all {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Fatalf("connection %d that said %q is not cut: %v", i, says, err)
			}
		}
	}
	until(t, "nobody is waited for", func() bool { return l.count() == 0 && runtime.NumGoroutine() <= before+10 })
	for scheme, want := range map[string]string{"http": "plain", "https": "TLS"} {
		if got, err := asks(scheme, l); err != nil || got != want {
			t.Errorf("afterwards, %s: %q, %v", scheme, got, err)
		}
	}
}

// Who has said what he is does not count as a stranger: a machine may have several
// connections, and one that waits for its answer holds nobody up.
func TestConnectionsThatSpeakDoNotCount(t *testing.T) {
	l := open(t, Config{PerIP: 2})
	for i := range 20 {
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
	}
}

func TestClosingEndsWhoHasSaidNothing(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(raw, Config{Patience: time.Hour})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	until(t, "it is let in", func() bool { return l.count() == 1 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepted %v, %v", got, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("it is still held: %v", err)
	}
	until(t, "nobody is waited for", func() bool { return l.count() == 0 })
}

func (l *Listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// until waits for something that is about to be.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			t.Fatalf("it is not so that %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
