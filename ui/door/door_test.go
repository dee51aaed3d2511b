package door

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestPasswordsAreHashedAndKnownAgain(t *testing.T) {
	h := newHasher()
	phc, err := h.hash(t.Context(), "correct horse battery", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(phc), "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("the hash begins %.40s", string(phc))
	}
	again, err := h.hash(t.Context(), "correct horse battery", nil)
	if err != nil || again == phc {
		t.Errorf("two hashes of one password are the same (%v)", err)
	}
	for _, c := range []struct {
		phc, password string
		want          bool
	}{
		{string(phc), "correct horse battery", true}, {string(phc), "correct horse batterz", false}, {string(phc), "", false},
		{"", "", false}, {"", "correct horse battery", false}, {"-1", "-1", false}, {string(phc)[:60], "correct horse battery", false},
		{strings.Replace(string(phc), "m=19456", "m=4000000000", 1), "correct horse battery", false},
	} {
		if got, err := h.matches(t.Context(), c.phc, c.password); got != c.want || err != nil {
			t.Errorf("%.20q matches %q: %v (%v)", c.phc, c.password, got, err)
		}
	}
}

// FuzzPHC gives the reader of hashes anything; what it takes is within bounds.
func FuzzPHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=-1,t=99999999999,p=1$$")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePHC(text)
		if err == nil && (p.memory > 256<<10 || p.passes > 10 || len(p.key) < 16) {
			t.Errorf("took %+v", p)
		}
	})
}

func TestPasswordsThatAreTriedFirstAreNotTaken(t *testing.T) {
	for _, bad := range []string{"", "-1", "short", "aaaaaaaaaaaaaa", "123456789012", "password1234", "Passw0rd!2024!", "qwertyuiop12", "annaanna2024", "adminadmin123",
		"abcdefghijklmnop", "098765432109", strings.Repeat("long enough ", 100), "changeme-changeme", "\xff\xfe12345678901"} {
		if CheckPassword("anna", bad) == nil {
			t.Errorf("%.30q was taken", bad)
		}
	}
	for _, good := range []string{"correct horse battery", "blue-giraffe-7-window", "ñandú sobre la mesa", "hT7#kk2!pQz9"} {
		if err := CheckPassword("anna", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestTriesAreCountedByAddressAndForgottenInOrder(t *testing.T) {
	l, now := newLimits(5), time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	for i := range 5 {
		if _, ok := l.try("a", now); !ok {
			t.Fatalf("try %d was refused", i)
		}
	}
	wait, ok := l.try("a", now)
	if ok || wait <= 0 || wait > 12*time.Second {
		t.Errorf("the sixth: %v, %s", ok, wait)
	}
	if _, ok := l.try("b", now); !ok {
		t.Error("another pays for it")
	}
	if _, ok := l.try("a", now.Add(13*time.Second)); !ok {
		t.Error("it is not forgiven")
	}
	for i := range 3 * keptLimits {
		l.try("key "+time.Duration(i).String(), now)
	}
	if len(l.byKey) != keptLimits || l.order.Len() != keptLimits {
		t.Errorf("%d keys are kept", len(l.byKey))
	}
	if a, b := sourceOf("2001:db8:1:2:3::4"), sourceOf("2001:db8:1:2:ffff::1"); a != b {
		t.Errorf("one host counts as %s and %s", a, b)
	}
	if a, b := sourceOf("::ffff:192.0.2.1"), sourceOf("192.0.2.1"); a != b {
		t.Errorf("one host counts as %s and %s", a, b)
	}
}

// A route that says not what it needs is found when the program starts.
func TestS03_ARouteWithoutANeedPanics(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return
	}
	m := NewMux(func(w http.ResponseWriter, _ *http.Request, _ Need) { w.WriteHeader(http.StatusUnauthorized) })
	if !panics(func() { m.HandleFunc("GET /forgotten", func(http.ResponseWriter, *http.Request) {}) }) {
		t.Error("a route without a need was taken")
	}
	if !panics(func() { m.Need("GET /odd", "superuser") }) || !panics(func() { m.Handle("GET /empty", "", http.NotFoundHandler()) }) {
		t.Error("a need that is none was taken")
	}
	m.Handle("GET /x", Viewer, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("nobody was answered %d", w.Code)
	}
}

func TestNeeds(t *testing.T) {
	for need, met := range map[Need]string{Anyone: "- viewer operator admin local", Viewer: "viewer operator admin local", Operator: "operator admin local",
		Admin: "admin local", Local: "local", "": "", "superuser": ""} {
		for name, c := range map[string]Caller{"-": {}, "viewer": {Role: "viewer"}, "operator": {Role: "operator"}, "admin": {Role: "admin"}, "local": atTheNode, "odd": {Role: "root"}} {
			if want := strings.Contains(" "+met+" ", " "+name+" "); need.Met(c) != want && !(need == Anyone && name == "odd") {
				t.Errorf("%s meets %q: %v", name, need, !want)
			}
		}
	}
}

// However many try, two hashes are made at once, and a name that nobody has costs
// as much as one that somebody has.
func TestS08_TwoHashesAtOnceAndTheSameTime(t *testing.T) {
	h := newHasher()
	phc, err := h.hash(t.Context(), "correct horse battery", nil)
	if err != nil {
		t.Fatal(err)
	}
	var most atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				if n := int64(len(h.slots)); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(50 * time.Microsecond)
			}
		}
	}()
	for range 12 {
		wg.Go(func() { _, _ = h.matches(t.Context(), string(phc), "wrong") })
	}
	wg.Wait()
	close(stop)
	if n := most.Load(); n != hashesAtOnce {
		t.Errorf("%d hashes were made at once, want %d", n, hashesAtOnce)
	}
	// Processor time: how long it takes swings with what else this computer does.
	costs := func(phc string) time.Duration {
		least := time.Hour
		for range 7 {
			began := processorTime(t)
			if _, err := h.matches(t.Context(), phc, "wrong password"); err != nil {
				t.Fatal(err)
			}
			least = min(least, processorTime(t)-began)
		}
		return least
	}
	known, unknown := costs(string(phc)), costs("")
	t.Logf("known %s, unknown %s", known, unknown)
	if known > 2*unknown || unknown > 2*known {
		t.Errorf("a name that is known takes %s, one that is not %s", known, unknown)
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestCodesAreReadAsPeopleTypeThem(t *testing.T) {
	code := newCodeText()
	if len(code) != 23 || strings.Count(code, "-") != 3 || plainCode(code) != strings.ReplaceAll(code, "-", "") {
		t.Errorf("a code is %s", code)
	}
	if got := plainCode(" o1il0-abcde "); got != "01110ABCDE" {
		t.Errorf("read as %s", got)
	}
	if newCodeText() == code {
		t.Error("two codes are the same")
	}
}
