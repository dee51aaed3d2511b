package confine_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/boot"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/ui/api/client"
)

// secrets are what nobody is to find where others look, by what they are.
type secrets map[string]string

// in looks for them in a text, in the forms in which a program writes bytes, and
// says which are there.
func (s secrets) in(text []byte) (found []string) {
	for what, secret := range s {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret)), url.QueryEscape(secret)} {
			if bytes.Contains(text, []byte(form)) {
				found = append(found, what)
				break
			}
		}
	}
	return found
}

// writer is an installer that is done at once, and tells the grant.
type writer struct{ granted chan wire.Grant }

func (w writer) Install(ctx context.Context, g wire.Grant, _ func() error, src agent.Source, report func(wire.Progress)) error {
	if _, err := src.Manifest(ctx, g.Plan.Image.Digest); err != nil {
		return err
	}
	for _, stage := range wire.Stages {
		_, to, _ := stage.Span()
		report(wire.Progress{Stage: stage, Percentage: to})
	}
	w.granted <- g
	return nil
}

var (
	chained = regexp.MustCompile(`(?m)^chain --replace (\S+)\?mac=`)
	kernel  = regexp.MustCompile(`(?m)^kernel \S+ (.*) \|\| goto local$`)
)

// bootOf asks for the script of a machine as its firmware does, and gives what the
// agent is told.
func bootOf(t *testing.T, node, mac string) boot.Cmdline {
	t.Helper()
	read := func(url string, what *regexp.Regexp) string {
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		found := what.FindSubmatch(b)
		if err != nil || found == nil {
			t.Fatalf("%s: %s %s (%v)", url, res.Status, b, err)
		}
		return string(found[1])
	}
	next := read(node+"/boot/script", chained)
	return boot.ParseCmdline(read(next+"?mac="+mac+"&platform=efi", kernel))
}

// TestS50_SecretsStayOutOfSight installs a machine by way of a node that logs all it
// can, lets a second node join, makes every kind of request that is refused, and
// then looks for the secrets of all that in logs, answers, figures, the audit, and
// in what the kernel shows of the processes.
func TestS50_SecretsStayOutOfSight(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root, for a network namespace")
	}
	wired(t)
	own := room(t)
	file := func(name, text string) string {
		path := filepath.Join(own, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s := secrets{"user-data": "canary-user-data-7301", "passphrase": "canary passphrase of the backup"}

	first := up(t, filepath.Join(room(t), "data"), "--listen", "127.0.0.1:8080", "--log-level", "debug", "--name", "first",
		"--interface", "n0,mode=dhcp,range=10.77.0.100-10.77.0.110")
	first.lpmos("image", "import", file("image.raw", string(disk())), "--name", "tiny-1")
	mac := "52:54:00:50:50:50"
	first.lpmos("task", "create", "--mac", mac, "--os", "tiny", "--os-version", "1", "--hostname", "web-1",
		"--user-data", file("user-data", "#cloud-config\npassword: "+s["user-data"]+"\n"))

	// The machine.
	var console bytes.Buffer
	installed := writer{make(chan wire.Grant, 1)}
	told := bootOf(t, "http://10.77.0.1", mac)
	s["claim code of the boot"] = told.Claim
	key := agent.NewKey()
	s["key of the agent's session"] = string(key.Seed())
	machine, err := agent.New(agent.Config{Nodes: told.Nodes, Trust: pin.NewVerifier(told.Pin, time.Now), Claim: told.Claim, Key: key, MAC: mac, IP: "10.77.0.100", Version: "test", Installer: installed,
		Console: agent.NewConsole(&console, time.Now),
		Collect: func() wire.Inventory {
			return wire.Inventory{System: wire.System{Vendor: "ACME", Product: "Box", Serial: "SN50", UUID: "8f4d6d1e-1111-4222-8333-000000000050"},
				Firmware: wire.Firmware{Mode: "uefi"}, CPU: wire.CPU{Arch: "amd64", Cores: 1, Sockets: 1, Threads: 1}, Memory: wire.Memory{TotalBytes: 2 << 30},
				NICs:  []wire.NIC{{Name: "eth0", MAC: mac, Link: true, Boot: true}},
				Disks: []wire.Disk{{Name: "sda", Model: "SPIN", Serial: "DISK50", SizeBytes: 8 << 30, LogicalSector: 512, PhysicalSector: 512}}}
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		outcome, err := machine.Run(ctx)
		if err == nil && outcome != agent.OutcomeInstalled {
			err = fmt.Errorf("the agent ended with %q", outcome)
		}
		ended <- err
	}()
	var tasks []struct {
		ID       string
		Status   string
		PlanHash string `json:"plan_hash"`
	}
	for ; len(tasks) != 1 || tasks[0].Status != "pending_approval"; time.Sleep(50 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("the machine has not reported: %+v\n%s", tasks, first.log)
		}
		if err := json.Unmarshal([]byte(first.lpmos("task", "list", "--json")), &tasks); err != nil {
			t.Fatal(err)
		}
	}
	first.lpmos("task", "approve", tasks[0].ID, "--plan-hash", tasks[0].PlanHash, "--yes")
	if err := <-ended; err != nil {
		t.Fatalf("the install: %v\n%s\n%s", err, console.String(), first.log)
	}
	grant := <-installed.granted
	s["token of the installed system"] = path.Base(grant.PhoneHome)
	home, err := url.Parse(grant.PhoneHome)
	if err != nil {
		t.Fatal(err)
	}
	people := &http.Client{Transport: &http.Transport{DialContext: client.DialAtTheNode(first.dir)}}
	post := func(url, kind, body string) string {
		t.Helper()
		by := http.DefaultClient
		if strings.HasPrefix(url, "http://127.0.0.1:8080/") {
			by = people
		}
		res, err := by.Post(url, kind, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.Status + " " + string(text)
	}
	up204 := "http://10.77.0.1" + home.Path
	if got := post(up204, "application/x-www-form-urlencoded", "hostname=web-1"); !strings.HasPrefix(got, "204") {
		t.Fatalf("the installed system was told %s", got)
	}

	// The second node.
	var invited struct{ Token, Address string }
	if err := json.Unmarshal([]byte(first.lpmos("node", "token", "--json")), &invited); err != nil {
		t.Fatal(err)
	}
	s["join token"] = invited.Token
	s["secret of the join token"] = invited.Token[strings.LastIndex(invited.Token, ".")+1:]
	second := startWith(t, invited.Token+"\n", filepath.Join(room(t), "data"), "--listen", "127.0.0.1:8081", "--cluster-listen", "127.0.0.1:4748",
		"--log-level", "debug", "--name", "second", "--join", "-", invited.Address)

	for what, name := range map[string]string{"cluster's secret": "secret", "key of a node": "node.key"} {
		for _, p := range []*process{first, second} {
			b, err := os.ReadFile(filepath.Join(p.dir, "trust", name))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			s[what+" "+filepath.Base(filepath.Dir(p.dir))] = lines[len(lines)/2] // of a key in PEM, what is inside
		}
	}

	// What is refused, and what people read.
	seen := map[string]string{}
	seen["a task that is there already"] = first.fails("task", "create", "--mac", mac, "--os", "nothing", "--user-data", filepath.Join(own, "user-data"))
	seen["a task with the wrong fields"] = post("http://127.0.0.1:8080/api/v1/tasks", "application/json", `{"user_data":["`+s["user-data"]+`"],"os_typ":1}`)
	seen["a task with half of a body"] = post("http://127.0.0.1:8080/api/v1/tasks", "application/json", `{"user_data":"`+s["user-data"]+`"`)
	seen["a system that came up twice"] = post(up204, "application/x-www-form-urlencoded", "hostname=web-2")
	seen["a system with half of a token"] = post(up204[:len(up204)-3], "application/x-www-form-urlencoded", "hostname=web-2")
	seen["a wrong place"] = post("http://10.77.0.1"+home.Path+"/more", "text/plain", "")
	seen["a node with a used token"] = refused(t, invited.Token+"\n", filepath.Join(room(t), "data"), "--listen", "127.0.0.1:8082", "--cluster-listen", "127.0.0.1:4749", "--join", "-", invited.Address)
	seen["a node with an altered token"] = refused(t, "X"+invited.Token+"\n", filepath.Join(room(t), "data"), "--join", "-", invited.Address)
	kept := filepath.Join(own, "kept")
	seen["a backup"] = first.lpmos("backup", kept, "--passphrase-file", file("passphrase", s["passphrase"]+"\n"))
	seen["a backup with another passphrase"] = first.fails("restore", kept, "--data-dir", filepath.Join(own, "new"), "--passphrase-file", file("other", "another passphrase\n"))
	for _, command := range []string{"audit", "audit --json", "node list --json", "status --json", "machine list --json", "config show"} {
		seen[command] = first.lpmos(strings.Fields(command)...)
	}
	for name, address := range map[string]string{"figures": "/metrics", "API": "/openapi.json", "cluster": "/api/v1/cluster"} {
		res, err := people.Get("http://127.0.0.1:8080" + address)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		seen[name] = string(b)
	}
	seen["console of the machine"] = console.String()
	for _, p := range []*process{first, second} {
		seen["log of "+p.dir] = p.log.String()
		for _, of := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, of))
			if err != nil {
				t.Fatal(err)
			}
			seen[of+" of "+p.dir] = string(b)
		}
	}
	for what, text := range seen {
		if found := s.in([]byte(text)); len(found) > 0 {
			t.Errorf("%s shows %v:\n%.2000s", what, found, text)
		}
		if text == "" && !strings.HasPrefix(what, "environ") {
			t.Errorf("%s is empty: there was nothing to look at", what)
		}
	}

	// The test looks in the right way: who may see a task whole finds its user-data, and
	// nothing else. A list, which viewers have, shows none of it.
	for command, want := range map[string][]string{"task show " + tasks[0].ID + " --json": {"user-data"}, "task list --json": nil} {
		if found := s.in([]byte(first.lpmos(strings.Fields(command)...))); !slices.Equal(found, want) {
			t.Errorf("lpmos %s shows %v", command, found)
		}
	}
	if !strings.Contains(first.log.String(), "level=DEBUG") {
		t.Error("the node does not log all it can")
	}
	// The end may be told with more than the rest.
	second.stop()
	first.stop()
	for _, p := range []*process{first, second} {
		if found := s.in([]byte(p.log.String())); len(found) > 0 {
			t.Errorf("the log of the end of %s shows %v", p.dir, found)
		}
	}
}
