package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/lpmos/lpmos/ui/door"
)

// password of every user of these tests.
const password = "correct horse battery"

// house is a dashboard that asks who is there. anna is admin, otto operator, vera viewer.
type house struct {
	t    testing.TB
	node *apitest.Node
	*UI
}

func newHouse(t testing.TB, change ...func(*Config)) *house {
	t.Helper()
	node, u := newUI(t, change...)
	h := &house{t, node, u}
	propose(t, node, fleet.PutCluster{Cluster: fleet.Cluster{ID: "clusteroftests", CACert: []byte("ca"), Sealed: []byte("sealed")}})
	phc, err := u.Door().Hash(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	for i, role := range []fleet.Role{fleet.Admin, fleet.Operator, fleet.Viewer} {
		name := []string{"anna", "otto", "vera"}[i]
		propose(t, node, fleet.PutUser{ID: fmt.Sprintf("u-%016d", i), Name: name, Role: role, PasswordHash: phc, By: "test"})
	}
	return h
}

// ask sends a request the way a program does: header is name, value, name, value …
func (h *house) ask(method, path, body string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:8080"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		switch header[i] {
		case "Host":
			r.Host = header[i+1]
		case "From":
			r.RemoteAddr = header[i+1]
		default:
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func (h *house) status(method, path, body string, header ...string) int {
	return h.ask(method, path, body, header...).StatusCode
}

// session is the cookie of a user who has signed in.
func (h *house) session(name string) string {
	h.t.Helper()
	secret, _, err := h.Door().Login(context.Background(), "203.0.113."+fmt.Sprint(len(name)), name, password)
	if err != nil {
		h.t.Fatalf("%s cannot sign in: %v", name, err)
	}
	return "lpmos-clustero=" + secret
}

func login(name, password string) string {
	b, _ := json.Marshal(api.SignIn{Name: name, Password: password})
	return string(b)
}

func text(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A new cluster has no account and no password, whatever others ship with.
func TestS01_DefaultCredentials(t *testing.T) {
	_, u := newUI(t)
	h := &house{t: t, UI: u}
	for i, c := range [][2]string{{"admin", "admin"}, {"cobbler", "cobbler"}, {"fog", "password"}, {"", ""}, {"", "-1"}, {"root", "root"}, {"lpmos", "lpmos"}, {"local", ""}} {
		res := h.ask("POST", "/api/v1/session", login(c[0], c[1]), "From", fmt.Sprintf("198.51.100.%d:1", i))
		if res.StatusCode != 401 || res.Header.Get("Set-Cookie") != "" {
			t.Errorf("%q with %q was answered %d %v", c[0], c[1], res.StatusCode, res.Header)
		}
	}
	var who api.Who
	if err := json.Unmarshal([]byte(text(t, h.ask("GET", "/api/v1/session", ""))), &who); err != nil || who.Name != "" || !who.Setup {
		t.Errorf("it says %+v (%v)", who, err)
	}
	setup := func(code, from string) *http.Response {
		b, _ := json.Marshal(api.SetUp{Code: code, Name: "anna", Password: password})
		return h.ask("POST", "/api/v1/setup", string(b), "From", from)
	}
	if res := setup("00000-00000-00000-00000", "198.51.100.50:1"); res.StatusCode != 401 {
		t.Errorf("a guessed code was answered %d", res.StatusCode)
	}
	code, _, err := u.Door().NewSetupCode(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	res := setup(code, "198.51.100.51:1")
	if res.StatusCode != 200 || len(res.Cookies()) != 1 {
		t.Fatalf("the setup code was answered %d: %s", res.StatusCode, text(t, res))
	}
	if c := res.Cookies()[0]; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || !strings.HasPrefix(c.Name, "lpmos-") {
		t.Errorf("the cookie is %v", c)
	}
	if res := setup(code, "198.51.100.52:1"); res.StatusCode != 409 {
		t.Errorf("the second use was answered %d", res.StatusCode)
	}
	if _, _, err := u.Door().NewSetupCode(t.Context(), "test"); err == nil {
		t.Error("a cluster with users gives another setup code")
	}
}

func TestS02_SentinelSecrets(t *testing.T) {
	h := newHouse(t)
	for _, v := range []string{"Bearer -1", "Bearer ", "Bearer", "Bearer null", "Bearer undefined", "Bearer " + strings.Repeat("A", 43), "Bearer lpat_", "Bearer [object Object]",
		"Bearer lpat_" + strings.Repeat("0", 16) + "_" + strings.Repeat("0", 32), "Basic YWRtaW46YWRtaW4=", "-1", "", "bearer lpat_"} {
		if got := h.status("GET", "/api/v1/health", "", "Authorization", v); got != 401 {
			t.Errorf("%q was answered %d", v, got)
		}
	}
	for _, v := range []string{"-1", "", "null", "undefined", strings.Repeat("A", 43)} {
		if got := h.status("GET", "/api/v1/health", "", "Cookie", "lpmos-clustero="+v); got != 401 {
			t.Errorf("the cookie %q was answered %d", v, got)
		}
	}
}

// open are the routes that answer who is not signed in, and nothing else does.
var open = []string{"GET /openapi.json", "GET /healthz", "GET /api/v1/session", "POST /api/v1/session", "DELETE /api/v1/session", "POST /api/v1/setup",
	"/", "/metrics", "/api/v1/events"}

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

func TestS03_NoRouteIsForgotten(t *testing.T) {
	h := newHouse(t)
	routes := h.Routes()
	if len(routes) < 40 {
		t.Fatalf("only %d routes are walked", len(routes))
	}
	for pattern, need := range routes {
		if need == door.Anyone != slices.Contains(open, pattern) {
			t.Errorf("%s needs %s; the list of what is open to all says otherwise", pattern, need)
		}
		_, path, found := strings.Cut(pattern, " ")
		if !found {
			path = pattern
		}
		path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "x")
		for _, method := range methods {
			for _, query := range []string{"", "?node=about&sub=kernel", "?access_token=lpat_0&token=-1"} {
				got := h.status(method, path+query, "", "Sec-Fetch-Site", "same-origin")
				allowed := slices.Contains(open, method+" "+path) || method == "HEAD" && slices.Contains(open, "GET "+path) || path == "/" && (method == "GET" || method == "HEAD")
				if !allowed && !slices.Contains([]int{401, 403, 404, 405}, got) {
					t.Errorf("%s %s%s was answered %d to nobody", method, path, query, got)
				}
			}
		}
	}
	// What is open says nothing of the fleet.
	for _, path := range []string{"/api/v1/session", "/healthz"} {
		if s := text(t, h.ask("GET", path, "")); strings.Contains(s, "LAB-") || strings.Contains(s, "n1") || strings.Contains(s, "anna") {
			t.Errorf("%s says %s", path, s)
		}
	}
}

func TestS04_RoleEscapeByField(t *testing.T) {
	h := newHouse(t)
	vera, anna := h.session("vera"), h.session("anna")
	for _, c := range []struct{ method, path, body string }{
		{"PATCH", "/api/v1/users/me", `{"role":"admin","is_superuser":true}`}, {"PATCH", "/api/v1/users/vera", `{"role":"admin"}`},
		{"POST", "/api/v1/users", `{"name":"eve","role":"admin","password":"correct horse battery"}`},
		{"POST", "/api/v1/tokens", `{"name":"t","role":"admin"}`}, {"POST", "/api/v1/login-links", `{}`}, {"POST", "/api/v1/setup-codes", ``},
		{"POST", "/api/v1/cluster/tokens", ``}, {"GET", "/api/v1/backup", ``}, {"GET", "/api/v1/doctor", ``}, {"POST", "/api/v1/tasks", `{"machine_id":"m-01","os_type":"tiny"}`},
		{"DELETE", "/api/v1/images/tiny", ``}, {"POST", "/api/v1/session", `{"name":"vera","password":"correct horse battery","role":"admin"}`},
		{"POST", "/api/v1/me/password", `{"old":"correct horse battery","new":"correct horse battery 2","role":"admin"}`},
	} {
		if got := h.status(c.method, c.path, c.body, "Cookie", vera); got != 403 && got != 400 {
			t.Errorf("%s %s %s by a viewer was answered %d", c.method, c.path, c.body, got)
		}
	}
	// An admin's own request with a field that is none of the API's.
	if got := h.status("PATCH", "/api/v1/users/vera", `{"is_superuser":true}`, "Cookie", anna); got != 400 {
		t.Errorf("an unknown field was answered %d", got)
	}
	h.node.Cluster.View(func(s *fleet.State) {
		if u := s.UserByName("vera"); u.Role != fleet.Viewer || len(s.Users()) != 3 || len(s.APITokens(h.node.Clock.Now())) != 0 {
			t.Errorf("vera is %s, there are %d users", u.Role, len(s.Users()))
		}
	})
	// By a frame of the socket.
	srv := httptest.NewServer(h)
	defer srv.Close()
	defer h.Close()
	conn, _, err := websocket.Dial(t.Context(), srv.URL+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {srv.URL}, "Cookie": {vera}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 24)
	for _, f := range []string{`{"type":"subscribe","role":"admin","is_superuser":true}`, `{"type":"put_user","name":"eve","role":"admin"}`} {
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	for heard := false; !heard; {
		_, frame, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		heard = bytes.Contains(frame, []byte(`"type":"error"`))
	}
	if got := h.status("GET", "/api/v1/users", "", "Cookie", vera); got != 403 {
		t.Errorf("after it a viewer who lists users is answered %d", got)
	}
}

// What a viewer reads holds no secret of anybody.
func TestS04_ViewersReadNoSecrets(t *testing.T) {
	h := newHouse(t)
	const canary = "canary-7f3a9c"
	const mac = "52:54:00:aa:aa:01"
	propose(t, h.node, fleet.ReportMachine{NewID: "m-canary", RegionID: "dc1", BootID: "boot-canary", SessionHash: "session-of-" + canary, MAC: mac,
		Inventory: wire.Inventory{System: wire.System{Serial: "SN-1"}, NICs: []wire.NIC{{Name: "eth0", MAC: mac}}, Disks: []wire.Disk{{Name: "sda", Serial: "D1", SizeBytes: 1 << 40, LogicalSector: 512}}}})
	propose(t, h.node, fleet.CreateTask{ID: "t-canary", RegionID: "dc1", TargetMAC: mac, PhoneToken: canary + "-phone",
		Spec: fleet.Spec{OSType: "debian", OSVersion: "12", UserData: "#cloud-config\npassword: " + canary}})
	h.node.Cluster.View(func(s *fleet.State) {
		if p := s.Task("t-canary").Plan; p == nil || !strings.Contains(p.FirstBoot.UserData, canary) {
			t.Fatalf("the secret stands in no plan: %+v, %s", p, s.Task("t-canary").Problem)
		}
	})
	vera := h.session("vera")
	otto := h.session("otto")
	var hashes []string
	h.node.Cluster.View(func(s *fleet.State) {
		for _, u := range s.Users() {
			hashes = append(hashes, string(u.PasswordHash))
		}
		for _, e := range s.Sessions(h.node.Clock.Now()) {
			hashes = append(hashes, string(e.SecretHash))
		}
	})
	read := 0
	for pattern := range h.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		if method != "GET" || path == "/ws" || path == "/api/v1/events" {
			continue
		}
		for _, id := range []string{"t-canary", "m-canary", "m-03", "n-1"} {
			body := text(t, h.ask("GET", strings.NewReplacer("{id}", id, "{name}", id).Replace(path), "", "Cookie", vera))
			read++
			for _, secret := range append(hashes, canary, "$argon2id$", "secret-") {
				if strings.Contains(body, secret) {
					t.Errorf("GET %s tells a viewer %.12s…", path, secret)
				}
			}
		}
	}
	if read < 30 {
		t.Errorf("only %d answers were read", read)
	}
	if body := text(t, h.ask("GET", "/api/v1/tasks/t-canary", "", "Cookie", otto)); !strings.Contains(body, canary) || strings.Contains(body, canary+"-phone") {
		t.Errorf("an operator is told %.300s", body)
	}
}

func TestS05_TokenConfusion(t *testing.T) {
	h := newHouse(t)
	anna := h.session("anna")
	var made api.MadeAPIToken
	body := text(t, h.ask("POST", "/api/v1/tokens", `{"name":"ci","role":"operator","days":1}`, "Cookie", anna))
	if err := json.Unmarshal([]byte(body), &made); err != nil || made.Key == "" {
		t.Fatalf("%v in %s", err, body)
	}
	if got := h.status("GET", "/api/v1/health", "", "Authorization", "Bearer "+made.Key); got != 200 {
		t.Fatalf("the token was answered %d", got)
	}
	if got := h.status("GET", "/api/v1/users", "", "Authorization", "Bearer "+made.Key); got != 403 {
		t.Errorf("an operator's token that lists users was answered %d", got)
	}
	_, secret, _ := strings.Cut(anna, "=")
	other := made.Key[:len(made.Key)-1] + map[bool]string{true: "0", false: "1"}[made.Key[len(made.Key)-1] != '0']
	for name, header := range map[string][]string{
		"truncated": {"Authorization", "Bearer " + made.Key[:50]}, "with more": {"Authorization", "Bearer " + made.Key + "0"}, "another": {"Authorization", "Bearer " + other},
		"upper case": {"Authorization", "Bearer " + strings.ToUpper(made.Key)}, "an array": {"Authorization", `Bearer ["` + made.Key + `"]`},
		"as a cookie": {"Cookie", "lpmos-clustero=" + made.Key}, "a session as a token": {"Authorization", "Bearer " + secret},
		"the hash": {"Authorization", "Bearer " + string(fleet.HashSecret(made.Key))}, "two": {"Authorization", "Bearer " + made.Key + ", Bearer " + made.Key},
		"basic": {"Authorization", "Basic " + made.Key}, "the cookie of TLS": {"Cookie", "__Host-lpmos=" + secret}, "of another cluster": {"Cookie", "lpmos-00000000=" + secret},
		"a bad token beside a good cookie": {"Authorization", "Bearer " + other, "Cookie", anna},
	} {
		if got := h.status("GET", "/api/v1/health", "", header...); got != 401 {
			t.Errorf("%s was answered %d", name, got)
		}
	}
	for _, query := range []string{"?access_token=", "?token=", "?authorization=Bearer%20"} {
		if got := h.status("GET", "/api/v1/health"+query+made.Key, ""); got != 401 {
			t.Errorf("in the query it was answered %d", got)
		}
	}
	if got := h.status("DELETE", "/api/v1/tokens/ci", "", "Cookie", anna); got != 204 {
		t.Fatalf("revoking was answered %d", got)
	}
	if got := h.status("GET", "/api/v1/health", "", "Authorization", "Bearer "+made.Key); got != 401 {
		t.Errorf("a revoked token was answered %d", got)
	}
	body = text(t, h.ask("POST", "/api/v1/tokens", `{"name":"ci","role":"operator","days":1}`, "Cookie", anna))
	if err := json.Unmarshal([]byte(body), &made); err != nil {
		t.Fatal(err)
	}
	h.node.Clock.Move(25 * time.Hour)
	if got := h.status("GET", "/api/v1/health", "", "Authorization", "Bearer "+made.Key); got != 401 {
		t.Errorf("an expired token was answered %d", got)
	}
	if got := h.status("GET", "/api/v1/health", "", "Cookie", anna); got != 401 {
		t.Errorf("an expired session was answered %d", got)
	}
}

// threeHouses are dashboards of three real nodes that ask who is there.
func threeHouses(t *testing.T) (*consensustest.Cluster, []*house) {
	t.Helper()
	nodes := consensustest.NewCluster(t, 3, nil)
	var out []*house
	for i, n := range nodes.Nodes {
		_, u := newUI(t, quick, func(cfg *Config) {
			cfg.API.Cluster, cfg.API.Membership, cfg.API.Now = realCluster{n}, realMembers{n}, time.Now
			cfg.API.Name = consensustest.Name(i)
		})
		out = append(out, &house{t: t, UI: u})
	}
	return nodes, out
}

// await waits until a node knows of something.
func await(t *testing.T, n *consensus.Node, what string, f func(*fleet.State) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		known := false
		n.View(func(s *fleet.State) { known = f(s) })
		if known {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for a node to know of %s", what)
		}
	}
}

// A hundred at once with one code, at three nodes: one gets in.
func TestS06_OneUseRace(t *testing.T) {
	nodes, houses := threeHouses(t)
	once := func(tries int, code, path string, body func(i int) any) (won int, other map[int]int) {
		hash := fleet.HashSecret(strings.ReplaceAll(code, "-", ""))
		for _, n := range nodes.Nodes {
			await(t, n, "the code", func(s *fleet.State) bool { return s.CodeByHash(hash, time.Now()) != nil })
		}
		var mu sync.Mutex
		var wg sync.WaitGroup
		other = map[int]int{}
		for i := range tries {
			wg.Go(func() {
				b, _ := json.Marshal(body(i))
				got := houses[i%3].status("POST", path, string(b), "From", fmt.Sprintf("198.51.%d.1:1", i))
				mu.Lock()
				defer mu.Unlock()
				if got == 200 {
					won++
				} else {
					other[got]++
				}
			})
		}
		wg.Wait()
		return won, other
	}
	// Nodes that have no time for each other answer that they do not know (503): who
	// is told so asks again.
	race := func(tries int, code, path string, body func(i int) any) {
		t.Helper()
		for {
			won, other := once(tries, code, path, body)
			if won > 1 {
				t.Fatalf("%d of them got in, the others were answered %v", won, other)
			}
			if won == 1 || other[http.StatusServiceUnavailable] == 0 {
				return
			}
		}
	}
	made := func(f func(ctx context.Context) (string, error)) (code string) {
		t.Helper()
		for {
			code, err := f(t.Context())
			if err == nil {
				return code
			}
			if !errors.Is(err, consensus.ErrNotReady) && !errors.Is(err, consensus.ErrUncertain) {
				t.Fatal(err)
			}
		}
	}
	setup := made(func(ctx context.Context) (string, error) {
		code, _, err := houses[0].Door().NewSetupCode(ctx, "test")
		return code, err
	})
	// Each of these hashes a password; a hundred at once are for three computers.
	race(12, setup, "/api/v1/setup", func(i int) any { return api.SetUp{Code: setup, Name: fmt.Sprintf("user%d", i), Password: password} })
	await(t, nodes.Nodes[0], "the user", func(s *fleet.State) bool { return len(s.Users()) > 0 })
	nodes.Nodes[0].View(func(s *fleet.State) {
		if len(s.Users()) != 1 {
			t.Errorf("there are %d users", len(s.Users()))
		}
	})
	link := made(func(ctx context.Context) (string, error) {
		code, _, err := houses[1].Door().NewLoginCode(ctx, "", "test")
		return code, err
	})
	var before int
	nodes.Nodes[0].View(func(s *fleet.State) { before = len(s.Sessions(time.Now())) })
	race(100, link, "/api/v1/session", func(int) any { return api.SignIn{Code: link} })
	await(t, nodes.Nodes[0], "the session", func(s *fleet.State) bool { return len(s.Sessions(time.Now())) > before })
	nodes.Nodes[0].View(func(s *fleet.State) {
		if n := len(s.Sessions(time.Now())) - before; n != 1 {
			t.Errorf("the link began %d sessions", n)
		}
	})
}

// A user who is disabled at one node is sent away at all of them within a second:
// sessions, sockets, streams and API tokens.
func TestS07_DisabledUser(t *testing.T) {
	nodes, houses := threeHouses(t)
	phc, err := houses[0].Door().Hash(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"anna", "otto"} {
		consensustest.Propose[*fleet.User](t, nodes.Nodes[0], fleet.PutUser{ID: fmt.Sprintf("u-%016d", i), Name: name, Role: fleet.Admin, PasswordHash: phc})
	}
	secret, session, err := houses[0].Door().Login(t.Context(), "192.0.2.1", "otto", password)
	if err != nil {
		t.Fatal(err)
	}
	key, id := door.NewToken()
	consensustest.Propose[*fleet.APIToken](t, nodes.Nodes[0], fleet.CreateAPIToken{ID: id, Name: "ci", SecretHash: fleet.HashSecret(key), Role: fleet.Operator,
		UserID: session.UserID, ExpiresAt: time.Now().Add(time.Hour)})
	type open struct {
		what string
		gone chan time.Time
	}
	var all []open
	watch := func(what, url string, k client.Key) {
		c, err := client.New(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := c.With(k).Watch(t.Context(), 0)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		o := open{what, make(chan time.Time, 1)}
		all = append(all, o)
		go func() {
			for {
				if _, err := w.Next(t.Context()); err != nil {
					if got := websocket.CloseStatus(err); got != 4401 {
						t.Errorf("%s was closed with %d (%v)", what, got, err)
					}
					o.gone <- time.Now()
					return
				}
			}
		}()
	}
	var urls []string
	for i, h := range houses {
		await(t, nodes.Nodes[i], "the token", func(s *fleet.State) bool { return s.APITokenByHash(fleet.HashSecret(key), time.Now()) != nil })
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		t.Cleanup(h.Close)
		urls = append(urls, srv.URL)
		cookie := h.Door().Cookie(httptest.NewRequest("GET", "/", nil), secret)
		watch(fmt.Sprintf("the session's socket at node %d", i), srv.URL, client.Key{Cookie: cookie})
		watch(fmt.Sprintf("the token's socket at node %d", i), srv.URL, client.Key{Token: key})
		req, _ := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/api/v1/events", nil)
		req.AddCookie(cookie)
		res, err := http.DefaultClient.Do(req)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("events: %v %v", res, err)
		}
		o := open{fmt.Sprintf("the stream at node %d", i), make(chan time.Time, 1)}
		all = append(all, o)
		go func() {
			defer res.Body.Close()
			_, _ = io.Copy(io.Discard, res.Body)
			o.gone <- time.Now()
		}()
	}
	began := time.Now()
	yes := true
	consensustest.Propose[*fleet.User](t, nodes.Nodes[0], fleet.ChangeUser{ID: session.UserID, Disabled: &yes, By: "anna"})
	for _, o := range all {
		select {
		case at := <-o.gone:
			t.Logf("%s ended after %s", o.what, at.Sub(began).Round(time.Millisecond))
		case <-time.After(20 * time.Second):
			t.Errorf("%s did not end", o.what)
		}
	}
	for i, url := range urls {
		for _, set := range []func(*http.Request){
			func(r *http.Request) {
				r.AddCookie(houses[i].Door().Cookie(httptest.NewRequest("GET", "/", nil), secret))
			},
			func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) },
		} {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/api/v1/health", nil)
			set(req)
			res, err := http.DefaultClient.Do(req)
			if err != nil || res.StatusCode != 401 {
				t.Errorf("node %d answers %v (%v)", i, res, err)
			}
		}
	}
	if got := houses[1].status("POST", "/api/v1/session", login("otto", password)); got != 401 {
		t.Errorf("a disabled user who signs in is answered %d", got)
	}
}

// scripts are the page's own.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	names, err := fs.Glob(Static(), "*.js")
	if err != nil || len(names) < 10 {
		t.Fatalf("%d scripts (%v)", len(names), err)
	}
	for _, name := range names {
		b, err := fs.ReadFile(Static(), name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(b)
	}
	return out
}

// rss is what this process has in memory, in bytes.
func rss(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

func TestS08_BruteForce(t *testing.T) {
	h := newHouse(t)
	records := func() (n int) {
		h.node.Cluster.View(func(s *fleet.State) { n = len(s.AuditTrail()) })
		return n
	}
	debug.FreeOSMemory()
	before, audit := rss(t), records()
	most, bodies := 0, map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	limited, signedIn := 0, atomic.Int64{}
	for i := range 600 {
		wg.Go(func() {
			name := []string{"anna", "nobody", "otto"}[i%3]
			res := h.ask("POST", "/api/v1/session", login(name, fmt.Sprintf("wrong password %d", i)), "From", fmt.Sprintf("198.51.100.%d:1", i%3))
			body := text(t, res)
			mu.Lock()
			defer mu.Unlock()
			most = max(most, rss(t))
			switch res.StatusCode {
			case 401:
				bodies[body]++
			case 429:
				limited++
				if res.Header.Get("Retry-After") == "" {
					t.Error("429 without Retry-After")
				}
			default:
				t.Errorf("it was answered %d: %s", res.StatusCode, body)
			}
		})
		if i == 300 { // in the midst of it, somebody else
			wg.Go(func() {
				if got := h.status("POST", "/api/v1/session", login("anna", password), "From", "203.0.113.9:1"); got == 200 {
					signedIn.Add(1)
				} else {
					t.Errorf("from another address it was answered %d", got)
				}
			})
		}
	}
	wg.Wait()
	if len(bodies) != 1 || limited < 500 || signedIn.Load() != 1 {
		t.Errorf("%d different refusals, %d were limited, %d signed in", len(bodies), limited, signedIn.Load())
	}
	runtime.GC()
	t.Logf("%d refused, %d limited, memory %d MB more at most", 600-limited, limited, (most-before)>>20)
	bound := 64 << 20
	if raceDetector {
		bound *= 3 // it keeps a shadow of all memory
	}
	if most-before > bound {
		t.Errorf("it took %d MB", (most-before)>>20)
	}
	if n := records() - audit; n > 10 {
		t.Errorf("the audit grew by %d records", n)
	}
}

func TestS09_CSRF(t *testing.T) {
	h := newHouse(t)
	otto := h.session("otto")
	var hash, serial string
	h.node.Cluster.View(func(s *fleet.State) { hash, serial = s.Task("t-03").PlanHash, fleet.Confirm(s.Task("t-03").Plan) })
	body := `{"approved":true,"plan_hash":"` + hash + `","confirm_serial":"` + serial + `"}`
	for name, header := range map[string][]string{
		"cross-site": {"Sec-Fetch-Site", "cross-site"}, "same site": {"Sec-Fetch-Site", "same-site"}, "only an origin": {"Origin", "https://evil.example"},
		"another port": {"Origin", "http://127.0.0.1:8081"}, "null": {"Origin", "null"}, "a form": {"Content-Type", "text/plain"},
		"a form that says it is ours": {"Content-Type", "text/plain; x=application/json", "Sec-Fetch-Site", "same-origin"},
		"a file form":                 {"Content-Type", "multipart/form-data; boundary=x"}, "urlencoded": {"Content-Type", "application/x-www-form-urlencoded"},
	} {
		if got := h.status("PUT", "/api/v1/tasks/t-03/approve", body, append(header, "Cookie", otto)...); got != 403 && got != 415 {
			t.Errorf("%s was answered %d", name, got)
		}
	}
	h.node.Cluster.View(func(s *fleet.State) {
		if s.Task("t-03").Approval != nil {
			t.Error("the task was approved")
		}
	})
	if got := h.status("PUT", "/api/v1/tasks/t-03/approve", body, "Cookie", otto, "Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:8080"); got != 200 {
		t.Errorf("our own page was answered %d", got)
	}
	// Its patterns have been got round (CVE-2025-47910).
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"node_modules", ".git", "build"}, d.Name()) {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
			b, err := os.ReadFile(path)
			if err != nil || bytes.Contains(b, []byte("AddInsecureBypassPattern")) {
				t.Errorf("%s takes the protection away (%v)", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestS10_SocketHijack(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Origins = []string{"https://lpmos.example"} })
	anna := h.session("anna")
	upgrade := func(origin ...string) int {
		return h.status("GET", "/ws", "", append(origin, "Cookie", anna, "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")...)
	}
	evil := []string{"https://evil.example", "null", "https://node.evil", "http://127.0.0.1:8081", "https://127.0.0.1:8080", "http://127.0.0.1:8080.evil.example", ""}
	for _, origin := range evil {
		if got := upgrade("Origin", origin); got != 403 {
			t.Errorf("origin %q was answered %d", origin, got)
		}
	}
	if got := upgrade(); got != 403 {
		t.Errorf("no origin was answered %d", got)
	}
	for i := range 10_000 {
		upgrade("Origin", fmt.Sprintf("https://evil%d.example", i))
	}
	for _, origin := range []string{"https://evil1.example", evil[0]} {
		if got := upgrade("Origin", origin); got != 403 {
			t.Errorf("after many tries origin %q was answered %d", origin, got)
		}
	}
	// The right origin without a session, and with a token in the address.
	for _, path := range []string{"/ws", "/ws?token=x"} {
		if got := h.status("GET", path, "", "Origin", "http://127.0.0.1:8080", "Connection", "Upgrade", "Upgrade", "websocket"); got != 401 {
			t.Errorf("nobody was answered %d", got)
		}
	}
}

func TestS11_DNSRebinding(t *testing.T) {
	h := newHouse(t)
	anna := h.session("anna")
	for pattern := range h.Routes() {
		method, path, found := strings.Cut(pattern, " ")
		if !found {
			method, path = "GET", pattern
		}
		for _, host := range []string{"evil.example:8443", "127.0.0.1.evil.example", "localhost.evil.example:8080"} {
			got := h.status(method, path, "", "Host", host, "Origin", "http://"+host, "Sec-Fetch-Site", "same-origin", "Cookie", anna)
			if got != http.StatusMisdirectedRequest {
				t.Errorf("%s at %s was answered %d", pattern, host, got)
			}
		}
	}
}

func TestS13_Headers(t *testing.T) {
	_, u := newUI(t, func(c *Config) { c.Static = Static() })
	srv := httptest.NewTLSServer(u)
	defer srv.Close()
	names, err := fs.Glob(Static(), "*")
	if err != nil || len(names) < 10 {
		t.Fatalf("%d files: %v", len(names), err)
	}
	for _, name := range append(names, "", "healthz", "api/v1/session", "api/v1/tasks", "nothing") {
		res, err := srv.Client().Get(srv.URL + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		for header, want := range map[string]string{
			"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "no-referrer",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Strict-Transport-Security":    "max-age=31536000",
		} {
			if got := res.Header.Get(header); got != want {
				t.Errorf("/%s: %s is %q", name, header, got)
			}
		}
	}
}

func TestS14_EmptyBodies(t *testing.T) {
	h := newHouse(t)
	anna := h.session("anna")
	// These say all by their address.
	bodiless := []string{"POST /api/v1/cluster/tokens", "DELETE /api/v1/session", "POST /api/v1/setup-codes", "POST /api/v1/cluster/transfer", "POST /api/v1/login-links"}
	tried := 0
	for pattern := range h.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		if method == "GET" || path == "" || slices.Contains(bodiless, pattern) {
			continue
		}
		path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "x")
		for _, body := range []string{"", "null", "[]", "{}", `{"spec":null}`, `"x"`, "0", "{"} {
			res := h.ask(method, path, body, "Cookie", anna, "Content-Type", "application/json", "From", fmt.Sprintf("198.51.100.%d:1", tried%250))
			tried++
			if res.StatusCode < 400 || res.StatusCode > 499 {
				t.Errorf("%s with %q was answered %d: %s", pattern, body, res.StatusCode, text(t, res))
			}
		}
	}
	if tried < 100 {
		t.Errorf("only %d were tried", tried)
	}
}

// endless gives a byte for ever.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '['
	}
	e.read.Add(int64(len(b)))
	return len(b), nil
}

func TestS15_JSONBombs(t *testing.T) {
	h := newHouse(t)
	anna := h.session("anna")
	var keys strings.Builder
	keys.WriteString("{")
	for i := range 1_000_000 {
		fmt.Fprintf(&keys, `"k%d":0,`, i)
	}
	keys.WriteString(`"z":0}`)
	debug.FreeOSMemory()
	before := rss(t)
	for name, body := range map[string]io.Reader{
		"200,000 brackets": strings.NewReader(strings.Repeat("[", 200_000)), "deep objects": strings.NewReader(strings.Repeat(`{"a":`, 100_000)),
		"a million keys": strings.NewReader(keys.String()), "one key twice": strings.NewReader(`{"os_type":"tiny","os_type":"debian","machine_id":"m-01"}`),
		"half a pair": strings.NewReader(`{"os_type":"\ud800"}`), "a gigabyte": io.LimitReader(&endless{}, 1<<30), "without end and length": &endless{},
	} {
		for _, path := range []string{"/api/v1/tasks", "/api/v1/images", "/api/v1/session", "/api/v1/users"} {
			if s, ok := body.(*strings.Reader); ok {
				_, _ = s.Seek(0, io.SeekStart)
			}
			r := httptest.NewRequest("POST", path, body)
			r.Host = "127.0.0.1:8080"
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Cookie", anna)
			w := httptest.NewRecorder()
			began := time.Now()
			h.ServeHTTP(w, r)
			if w.Code < 400 || w.Code > 499 {
				t.Errorf("%s to %s was answered %d", name, path, w.Code)
			}
			t.Logf("%s to %s took %s", name, path, time.Since(began).Round(time.Millisecond))
		}
	}
	if more := rss(t) - before; more > 48<<20 {
		t.Errorf("it took %d MB", more>>20)
	}
}

func TestS52_NoDebugSurface(t *testing.T) {
	h := newHouse(t)
	anna := h.session("anna")
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/debug/requests", "/static/", "/test/", "/test/fixtures/", "/..%2f", "/.git/HEAD", "/.env", "/server-status"} {
		for _, header := range [][]string{nil, {"Cookie", anna}} {
			if got := h.status("GET", path, "", header...); got != 404 {
				t.Errorf("%s was answered %d", path, got)
			}
		}
	}
	for _, method := range []string{"TRACE", "CONNECT", "OPTIONS", "PROPFIND"} {
		for _, path := range []string{"/", "/api/v1/tasks", "/metrics"} {
			if got := h.status(method, path, "", "Cookie", anna, "Sec-Fetch-Site", "same-origin"); got != 405 {
				t.Errorf("%s %s was answered %d", method, path, got)
			}
		}
	}
	if got := h.status("GET", "/metrics", ""); got != 401 {
		t.Errorf("/metrics was answered %d to nobody", got)
	}
	if got := h.status("GET", "/metrics", "", "Cookie", h.session("vera")); got != 200 {
		t.Errorf("/metrics was answered %d to a viewer", got)
	}
}
