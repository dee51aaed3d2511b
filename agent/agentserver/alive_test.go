package agentserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// While a node is at work it says so, and the answer that comes in the end is
// whole, whatever the handler did meanwhile.
func TestANodeAtWorkSaysSo(t *testing.T) {
	const every = 5 * time.Millisecond
	for name, h := range map[string]http.HandlerFunc{
		"an answer": func(w http.ResponseWriter, _ *http.Request) {
			for range 50 { // beside the interim answers
				w.Header().Set("X-Late", "yes")
				time.Sleep(time.Millisecond)
			}
			w.WriteHeader(http.StatusTeapot)
			w.Write([]byte("done"))
		},
		"from a reader": func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(10 * every)
			w.Header().Set("X-Late", "yes")
			w.WriteHeader(http.StatusTeapot)
			w.(io.ReaderFrom).ReadFrom(strings.NewReader("done"))
		},
	} {
		got1xx := 0
		srv := newServer(t, alive(h, every))
		req := tracedRequest(t, srv, func() { got1xx++ })
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(t, res)
		if res.StatusCode != http.StatusTeapot || body != "done" || res.Header.Get("X-Late") != "yes" {
			t.Errorf("%s: %d %q %v", name, res.StatusCode, body, res.Header)
		}
		if got1xx < 3 {
			t.Errorf("%s: %d words in ten times as long as one should take", name, got1xx)
		}
	}
	// A quick answer needs none, and one without a word is 200.
	srv := newServer(t, alive(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Quick", "yes") }), time.Minute))
	res, err := http.DefaultClient.Do(tracedRequest(t, srv, func() { t.Error("an interim answer to a quick question") }))
	if err != nil {
		t.Fatal(err)
	}
	if readAll(t, res); res.StatusCode != 200 || res.Header.Get("X-Quick") != "yes" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
}

func newServer(t *testing.T, h http.Handler) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// tracedRequest calls heard with every interim answer.
func tracedRequest(t *testing.T, url string, heard func()) *http.Request {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { heard(); return nil }})
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func readAll(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
