package netboot

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func addrN(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 1, byte(n)}) }

// line is turns with those who stand in it.
type line struct {
	*turns
	mu    sync.Mutex
	order []int // who got a place, in this order
	told  map[int]int
}

// stand asks for a place as the nth address does; what it gets is freed by the return
// of the function, at once or later.
func (l *line) stand(ctx context.Context, n int) <-chan func() {
	got := make(chan func(), 1)
	go func() {
		done, err := l.take(ctx, addrN(n), func(before int) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.told[n] = before
		})
		if err != nil {
			close(got)
			return
		}
		l.mu.Lock()
		l.order = append(l.order, n)
		l.mu.Unlock()
		got <- done
	}()
	synctest.Wait()
	return got
}

// came are those who got a place, in that order.
func (l *line) came() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.order)
}

func newLine(places int) *line { return &line{turns: &turns{places: places}, told: map[int]int{}} }

func TestTurnsAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(2)
		var got []<-chan func()
		for n := range 5 {
			got = append(got, l.stand(t.Context(), n))
		}
		if l.told[2] != 0 || l.told[3] != 1 || l.told[4] != 2 || len(l.told) != 3 {
			t.Errorf("told %v", l.told)
		}
		if now := l.now(); now != (Transfers{Places: 2, Running: 2, Waiting: 3}) {
			t.Errorf("%+v", now)
		}
		for n := range 5 {
			done := <-got[n]
			done()
			done() // twice is once
			synctest.Wait()
		}
		if !slices.Equal(l.came(), []int{0, 1, 2, 3, 4}) {
			t.Errorf("in the order %v", l.came())
		}
		if now := l.now(); now != (Transfers{Places: 2}) || len(l.of) != 0 {
			t.Errorf("in the end %+v, %v", now, l.of)
		}
	})
}

func TestOneAddressKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(4)
		for range 20 {
			l.stand(t.Context(), 1)
		}
		l.stand(t.Context(), 2)
		if !slices.Equal(l.came(), []int{1, 1, 2}) {
			t.Errorf("places were given to %v", l.came())
		}
		time.Sleep(turnPatience) // those who still wait go
		synctest.Wait()
	})
}

func TestASlowTransferGivesItsPlaceAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1)
		slow := 0
		l.overtime = func() { slow++ }
		first := <-l.stand(t.Context(), 1)
		second := l.stand(t.Context(), 2)
		time.Sleep(turnLength - time.Millisecond)
		synctest.Wait()
		if len(l.came()) != 1 {
			t.Fatal("the second came too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if len(l.came()) != 2 || slow != 1 {
			t.Fatalf("the second still waits; %d too slow", slow)
		}
		first() // it gives nothing back that it has not got any more
		if now := l.now(); now.Running != 1 {
			t.Errorf("%+v", now)
		}
		(<-second)()
		time.Sleep(turnLength)
		synctest.Wait()
		if now := l.now(); now.Running != 0 || slow != 1 {
			t.Errorf("in the end %+v, %d too slow", now, slow)
		}
	})
}

func TestWhoHangsUpLosesItsPlaceInTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(1)
		first := <-l.stand(t.Context(), 1)
		ctx, hangUp := context.WithCancel(t.Context())
		second := l.stand(ctx, 2)
		l.stand(t.Context(), 3)
		hangUp()
		synctest.Wait()
		if _, served := <-second; served {
			t.Error("who hung up got a place")
		}
		first()
		synctest.Wait()
		if !slices.Equal(l.came(), []int{1, 3}) {
			t.Errorf("places were given to %v", l.came())
		}
		time.Sleep(turnLength)
		synctest.Wait()
	})
}

func TestNobodyWaitsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(0)
		began := time.Now()
		(<-l.stand(t.Context(), 1))()
		if waited := time.Since(began); waited != turnPatience {
			t.Errorf("waited %s", waited)
		}
		if now := l.now(); now.Running != 0 || now.Waiting != 0 {
			t.Errorf("%+v", now)
		}
	})
}

// The whole of it: machines that ask while others are served see it on their timeline,
// have the file in the end, and what costs no bytes does not wait.
func TestMachinesWaitForTheirTurnWhereItIsSeen(t *testing.T) {
	big := bytes.Repeat([]byte("kernel"), turnBytes/6+1)
	fsys := testFilesWithout()
	kernel := *fsys[FileKernel]
	kernel.Data = big
	fsys[FileKernel] = &kernel
	s := newSetup(t, ModeDHCP)
	var err error
	if s.cfg.Files, err = LoadFiles(fsys); err != nil {
		t.Fatal(err)
	}
	s.turns.places = 1
	for n := range 3 {
		s.sightings.holds(turnMAC(n), addrN(n))
	}
	// ask is a request of the nth machine.
	ask := func(n int, method string, header ...string) *httptest.ResponseRecorder {
		local := &net.TCPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 80}
		req := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, local), method, "/boot/"+FileKernel, nil)
		req.RemoteAddr = netip.AddrPortFrom(addrN(n), 4000).String()
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		return w
	}
	place, err := s.turns.take(t.Context(), addrN(9), nil)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan *httptest.ResponseRecorder)
	for n := range 2 {
		go func() { answers <- ask(n, "GET") }()
		for s.Transfers().Waiting != n+1 {
			time.Sleep(time.Millisecond)
		}
	}
	etag := s.get("HEAD", "/boot/"+FileKernel).Header().Get("ETag")
	if w := ask(2, "GET", "If-None-Match", etag); w.Code != 304 || len(etag) != 66 {
		t.Errorf("who has the file is told %d; the tag is %s", w.Code, etag)
	}
	place()
	for range 2 {
		if w := <-answers; w.Code != 200 || !bytes.Equal(w.Body.Bytes(), big) {
			t.Errorf("a machine has %d bytes, %d", w.Body.Len(), w.Code)
		}
	}
	for n, want := range []string{"waits for its turn to fetch vmlinuz: 0 others are before it", "waits for its turn to fetch vmlinuz: 1 other is before it"} {
		seen := s.Sightings().Of(turnMAC(n))
		if len(seen) != 3 || seen[0].Text != want || !strings.HasPrefix(seen[1].Text, "fetches vmlinuz over HTTP after waiting for ") || !strings.HasPrefix(seen[2].Text, "fetched vmlinuz over HTTP") {
			t.Errorf("machine %d: %+v", n, seen)
		}
	}
	if st := s.Stats(); st["http.wait"] != 2 || st["http.wait.given up"] != 0 || st["http.overtime"] != 0 {
		t.Errorf("stats %v", st)
	}
	// A part of the file is a transfer as well, and its tag is the same.
	if w := ask(2, "GET", "Range", "bytes=5-9"); w.Code != 206 || w.Body.String() != "lkern" || w.Header().Get("ETag") != etag {
		t.Errorf("a range: %d %q %s", w.Code, w.Body, w.Header().Get("ETag"))
	}
}

func turnMAC(n int) string { return fmt.Sprintf("52:54:00:00:0d:%02x", n) }
