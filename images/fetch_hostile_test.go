package images

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// serverAt is an HTTP server with an address of the loopback network, and how often
// it was asked.
func serverAt(t *testing.T, addr string, h http.HandlerFunc) (host string, asked *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int32)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h(w, r)
	})}}
	srv.Start()
	t.Cleanup(srv.Close)
	return l.Addr().String(), asked
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// S37: the node goes nowhere for somebody who could not go there himself.
func TestS37_SSRF(t *testing.T) {
	inside, asked := serverAt(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") })
	_, port, _ := net.SplitHostPort(inside)
	f := NewFetcher(nil)
	for _, u := range []string{
		"file:///etc/shadow", "FILE:///etc/shadow", "ftp://10.0.0.1/x", "gopher://127.0.0.1:" + port + "/x", "unix:///run/x.sock", "//127.0.0.1:" + port, "127.0.0.1:" + port, "http:127.0.0.1:" + port,
		"http://127.0.0.1:" + port, "http://127.1.2.3:" + port, "http://localhost:" + port, "http://LOCALHOST.:" + port, "http://[::1]:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://[::127.0.0.1]:" + port,
		"http://0.0.0.0:" + port, "http://[::]:" + port, "http://0:" + port, "http://0x7f.1:" + port, "http://0x7f000001:" + port, "http://2130706433:" + port, "http://0177.0.0.1:" + port, "http://127.1:" + port,
		"http://:" + port, "http://a@127.0.0.1:" + port, "http://8.8.8.8@127.0.0.1:" + port, "http://127.0.0.1:" + port + "#@8.8.8.8", "http://[64:ff9b::7f00:1]:" + port, "http://[2002:7f00:1::]:" + port,
		"http://169.254.169.254/latest/meta-data/", "http://[::ffff:169.254.169.254]/", "http://[fe80::1%25lo]/", "http://100.100.100.200/", "http://[fd00:ec2::254]/", "http://192.0.0.192/", "http://224.0.0.1/", "http://255.255.255.255/",
	} {
		body, _, err := f.Fetch(t.Context(), u, 1<<20)
		if err == nil {
			body.Close()
			t.Errorf("%s was fetched", u)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("a service of the node itself was asked %d times", n)
	}

	// What may be dialled, whatever it was called.
	f.own = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(64, 128)}}, nil
	}
	for address, may := range map[string]bool{
		"10.0.0.2:80": true, "192.168.7.7:443": true, "8.8.8.8:443": true, "[2001:db8::2]:443": true, "[fd00::7]:80": true,
		"10.0.0.1:80": false, "[::ffff:10.0.0.1]:80": false, "[2001:db8::1]:443": false, "[64:ff9b::a00:1]:80": false, "[2002:a00:1::1]:80": false, "[::ffff:0:10.0.0.1]:80": false,
		"127.0.0.1:80": false, "0.1.2.3:80": false, "169.254.1.1:80": false, "[fe80::1%eth0]:80": false, "[ff02::1]:80": false, "host:80": false, "": false,
	} {
		if err := f.mayDial(address); (err == nil) != may {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestS37_RedirectsAndCredentials(t *testing.T) {
	inside, insideAsked := serverAt(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") })
	var leaked atomic.Int32
	other, otherAsked := serverAt(t, "127.0.0.3", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
	})
	var seen atomic.Value
	first, _ := serverAt(t, "127.0.0.2", func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		seen.Store(user + ":" + pass)
		to := r.URL.Query().Get("to")
		if to == "" {
			fmt.Fprint(w, "image")
			return
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	})
	f := NewFetcher(prefixes("127.0.0.2/32", "127.0.0.3/32"))
	for _, to := range []string{"http://" + inside, "http://169.254.169.254/", "file:///etc/shadow", "http://" + other, "//" + other, "http://u:p@" + other, "http://" + strings.Replace(first, "127.0.0.2", "127.0.0.3", 1),
		"http://127.0.0.2:1/", "gopher://" + first + "/", "javascript:alert(1)", "http://" + first + ".evil.example/"} {
		target := "http://user:hunter2@" + first + "/?to=" + url.QueryEscape(to) + "&token=hunter3"
		body, _, err := f.Fetch(t.Context(), target, 1<<20)
		if err == nil {
			body.Close()
			t.Errorf("a redirection to %s was followed", to)
			continue
		}
		if strings.Contains(err.Error(), "hunter") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	if seen.Load() != "user:hunter2" {
		t.Errorf("the first host was given %v", seen.Load())
	}
	if insideAsked.Load() != 0 || otherAsked.Load() != 0 || leaked.Load() != 0 {
		t.Errorf("another host was asked %d and %d times", insideAsked.Load(), otherAsked.Load())
	}
	body, _, err := f.Fetch(t.Context(), "http://user:hunter2@"+first+"/?to="+url.QueryEscape("http://"+first+"/image"), 1<<20)
	if err != nil {
		t.Fatalf("a redirection within the host: %v", err)
	}
	body.Close()
}

// A name that had a good address when it was looked up has another when it is dialled.
func TestS37_DNSThatFlips(t *testing.T) {
	inside, insideAsked := serverAt(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") })
	_, port, _ := net.SplitHostPort(inside)
	l, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Skip("the port is taken at the other address: ", err)
	}
	good := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "image") })}}
	good.Start()
	defer good.Close()

	var answers atomic.Value
	f := NewFetcher(prefixes("127.0.0.2/32", "127.0.0.9/32"))
	f.client = f.clientWith(nameServer(t, func() []string { return answers.Load().([]string) }))
	get := func(of ...string) error {
		answers.Store(of)
		body, _, err := f.Fetch(t.Context(), "http://image.example:"+port+"/", 1<<20)
		if err == nil {
			body.Close()
		}
		return err
	}
	if err := get("127.0.0.2"); err != nil {
		t.Fatalf("a good address: %v", err)
	}
	for _, of := range [][]string{{"127.0.0.1"}, {"127.0.0.9", "127.0.0.1"}, {"169.254.169.254", "127.0.0.1"}, {"0.0.0.0"}} {
		if err := get(of...); err == nil {
			t.Errorf("%v was fetched from", of)
		}
	}
	if err := get("127.0.0.1", "127.0.0.2"); err != nil {
		t.Logf("a name with a good and a bad address: %v", err) // either is fine, but for the bad one's being asked
	}
	if n := insideAsked.Load(); n != 0 {
		t.Errorf("the node itself was asked %d times", n)
	}
}

// nameServer is a resolver that answers every name with what addresses gives.
func nameServer(t *testing.T, addresses func() []string) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			q := m.Questions[0]
			if q.Type == dnsmessage.TypeA {
				for _, a := range addresses() {
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
						Body: &dnsmessage.AResource{A: netip.MustParseAddr(a).As4()}})
				}
			}
			out, err := m.Pack()
			if err == nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp4", c.LocalAddr().String())
	}}
}
