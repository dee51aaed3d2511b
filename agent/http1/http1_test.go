package http1

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

func TestAgainstARealServer(t *testing.T) {
	big := strings.Repeat("0123456789", 100_000)
	var conns atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			_, _ = io.Copy(w, r.Body)
		case "/chunked":
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, big)
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/header":
			_, _ = io.WriteString(w, r.Header.Get("Authorization")+r.URL.RawQuery)
		case "/close":
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "bye")
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	c := &Client{}
	defer c.Close()
	for _, tc := range []struct {
		name   string
		req    Request
		status int
		want   string
	}{
		{"a body comes back", Request{Method: "POST", URL: "/echo", Body: []byte("hello")}, 200, "hello"},
		{"an empty body", Request{Method: "POST", URL: "/echo"}, 200, ""},
		{"a chunked reply", Request{Method: "GET", URL: "/chunked"}, 200, big},
		{"no content", Request{Method: "GET", URL: "/none"}, 204, ""},
		{"fields and query", Request{Method: "GET", URL: "/header?a=b", Header: []Field{{"Authorization", "Bearer x"}}}, 200, "Bearer xa=b"},
		{"not found", Request{Method: "GET", URL: "/header", Header: nil}, 200, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.req.URL = srv.URL + tc.req.URL
			resp, err := c.Do(context.Background(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != tc.want || resp.Status != tc.status {
				t.Fatalf("status %d, %d bytes, %v", resp.Status, len(got), err)
			}
			_ = resp.Body.Close()
		})
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for requests one after the other, want 1", n)
	}
	for range 2 {
		resp, err := c.Do(context.Background(), Request{Method: "GET", URL: srv.URL + "/close"})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(resp.Body); string(got) != "bye" {
			t.Fatalf("got %q", got)
		}
	}
}

func TestAKeptConnectionThatDiedIsReplaced(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") }))
	defer srv.Close()
	c := &Client{}
	for range 2 {
		resp, err := c.Do(context.Background(), Request{Method: "GET", URL: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(resp.Body)
		srv.CloseClientConnections()
	}
}

// serve answers each connection with one fixed reply and closes it.
func serve(t *testing.T, reply string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, reply)
			_ = c.Close()
		}
	}()
	return "http://" + l.Addr().String() + "/"
}

func TestACutReplyIsNeverSuccess(t *testing.T) {
	for name, reply := range map[string]string{
		"in the status line": "HTTP/1.1 20",
		"in the header":      "HTTP/1.1 200 OK\r\nContent-Le",
		"in a stated body":   "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
		"in a chunk":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345",
		"before last chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
		"in the trailer":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
		"at once":            "",
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := (&Client{}).Do(context.Background(), Request{Method: "GET", URL: serve(t, reply)})
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("error %v, want an unexpected end", err)
			}
		})
	}
}

func TestBadRepliesAreRefused(t *testing.T) {
	for name, reply := range map[string]string{
		"another protocol":    "SSH-2.0-OpenSSH\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a negative length":   "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"an empty length":     "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
		"an unknown coding":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"a header for ever":   "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20_000),
		"interim for ever":    strings.Repeat("HTTP/1.1 103 Early\r\n\r\n", 5_000),
		"a field with spaces": "HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readHead(bufio.NewReader(strings.NewReader(reply)), "GET"); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestContextEndsARequest(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&Client{}).Do(ctx, Request{Method: "GET", URL: srv.URL}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
}

func TestSilenceEndsARequest(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		w.(http.Flusher).Flush()
		<-release
	}))
	defer srv.Close()
	defer close(release)
	resp, err := (&Client{Stall: 50 * time.Millisecond}).Do(context.Background(), Request{Method: "GET", URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := io.ReadAll(resp.Body); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("error %v, want a timeout", err)
	}
}

// A node that works on an answer says so now and then, and is waited for; one
// that has stopped does not, and is not.
func TestAPeerThatSaysItIsAtWorkIsWaitedFor(t *testing.T) {
	const stall = 300 * time.Millisecond
	stopped := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 8 {
			time.Sleep(stall / 4)
			w.WriteHeader(http.StatusProcessing)
		}
		if r.URL.Path == "/stops" {
			<-stopped
		}
		_, _ = io.WriteString(w, "done")
	}))
	defer srv.Close()
	defer close(stopped)
	c := &Client{Stall: stall}
	resp, err := c.Do(context.Background(), Request{Method: "GET", URL: srv.URL + "/works"})
	if err != nil {
		t.Fatalf("given up after %v without a word, which it never was: %v", stall, err)
	}
	if got, err := io.ReadAll(resp.Body); string(got) != "done" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	var timeout net.Error
	if _, err := c.Do(context.Background(), Request{Method: "GET", URL: srv.URL + "/stops"}); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("error %v, want a timeout", err)
	}
}

// A peer that went silent with connections kept to it costs one wait, not one for
// each of them.
func TestSilenceIsWaitedForOnce(t *testing.T) {
	var frozen atomic.Bool
	var asked atomic.Int32
	stopped := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if frozen.Load() {
			asked.Add(1)
			<-stopped
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer srv.Close()
	defer close(stopped)
	c := &Client{Stall: 200 * time.Millisecond}
	var open []*Response
	for range 4 { // at once, so that each has its connection
		resp, err := c.Do(context.Background(), Request{Method: "POST", URL: srv.URL, Body: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	for _, resp := range open {
		_, _ = io.ReadAll(resp.Body)
	}
	frozen.Store(true)
	if _, err := c.Do(context.Background(), Request{Method: "POST", URL: srv.URL}); err == nil {
		t.Fatal("answered")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("a silent peer was asked %d times", n)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 404 No\r\n\r\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(data)), 16)
		h, err := readHead(r, "GET")
		if err != nil {
			return
		}
		if h.status < 200 || h.status > 999 {
			t.Fatalf("status %d", h.status)
		}
		if h.chunked {
			if n, err := io.Copy(io.Discard, newChunked(r)); err == nil && n > int64(len(data)) {
				t.Fatalf("%d bytes out of %d", n, len(data))
			}
		}
	})
}

// Plain requests and those over TLS to one port share no connection, and each is
// signed for the one it goes over.
func TestTLSAndPlainOnOnePort(t *testing.T) {
	var mu sync.Mutex
	conns := map[string]int{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		conns[r.RemoteAddr+map[bool]string{true: " TLS", false: " plain"}[r.TLS != nil]]++
		_, _ = io.WriteString(w, r.Header.Get("Signed")+" "+r.RequestURI)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewUnstartedServer(handler)
	defer plain.Close()
	secure.StartTLS()
	defer secure.Close()
	to := map[string]string{"http": plain.Listener.Addr().String(), "https": secure.Listener.Addr().String()}
	c := &Client{TLS: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	defer c.Close()
	for _, scheme := range []string{"http", "https", "http", "https"} {
		// One address, whose connection depends on what is asked for.
		c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, to[scheme])
		}
		resp, err := c.Do(context.Background(), Request{Method: "GET", URL: scheme + "://192.0.2.1:80/a?b=c", Sign: func(on tls.ConnectionState, uri string) ([]Field, error) {
			if on.Version != tls.VersionTLS13 || !on.HandshakeComplete {
				t.Errorf("signed for %+v", on)
			}
			return []Field{{"Signed", "for " + uri}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"http": " /a?b=c", "https": "for /a?b=c /a?b=c"}[scheme]
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", scheme, got, err)
		}
		_ = resp.Body.Close()
	}
	if len(conns) != 2 {
		t.Errorf("connections and their requests: %v", conns)
	}
	if _, err := (&Client{}).Do(context.Background(), Request{Method: "GET", URL: "https://192.0.2.1/"}); err == nil {
		t.Error("https without anybody to believe")
	}
}

func TestAPeerThatIsSilentInItsHandshakeIsLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := &Client{TLS: &tls.Config{InsecureSkipVerify: true}, Stall: 100 * time.Millisecond}
	_, err = c.Do(context.Background(), Request{Method: "GET", URL: "https://" + l.Addr().String()})
	var handshake *HandshakeError
	if !errors.As(err, &handshake) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
}
