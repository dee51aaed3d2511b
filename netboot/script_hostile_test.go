package netboot

import (
	"context"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	inventory "github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// programs are values that would be one in an iPXE script, on a kernel command line
// or on a terminal.
var programs = []string{
	"x\nchain http://evil/p\n#", "x\r\nshell\r\n", "\r", "${net0/mac}", "${uuid}", "a && shell", "a || shell", "a ; reboot", "x`y", "a\\nb", "a\u2028b", "a\x00b", "ü",
	"A init=/bin/sh", "A rdinit=/x", "--", "\"", "'", "lpmos.pin=00", "lpmos.node=http://evil:80", "lpmos.mac=52:54:00:00:00:0b", "initrd=evil", "console=ttyS9",
	strings.Repeat("A", 4096), "\u202egpj.exe", "\x1b[2J", "<script>", "%0achain+http://evil",
}

// stateFleet answers as a node does: out of the fleet's state.
type stateFleet struct {
	*testFleet
	state *fleet.State
}

func (f stateFleet) Decide(_ context.Context, m Machine) Decision {
	d := f.state.Boot(m.MAC)
	return Decision{Action: Action(d.Action), MachineID: d.MachineID, Name: d.Name, Reason: d.Reason, LocalDrive: d.LocalDrive}
}

// scriptOf is the script a machine gets whose firmware and whose people put the value
// wherever they can.
func scriptOf(t *testing.T, value string) string {
	t.Helper()
	s := newSetup(t, ModeDHCP)
	st := fleet.NewState()
	do := func(b fleet.Body) {
		t.Helper()
		if _, _, err := st.Apply(st.Index()+1, fleet.Command{Version: 2, At: time.Unix(1700000000, 0), Body: b}); err != nil && value == "" {
			t.Fatalf("%T: %v", b, err)
		}
	}
	inv := inventory.Inventory{
		System: inventory.System{Vendor: value, Product: value, Serial: value, UUID: "12345678-abcd-efcd-0102-030405060708"},
		NICs:   []inventory.NIC{{Name: value, MAC: macA}},
		Disks:  []inventory.Disk{{Name: value, Model: value, Serial: "d1" + value, SizeBytes: 1 << 40}},
	}
	do(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("ab", 32), SizeBytes: 1 << 30, Sector: 512, Source: value}})
	do(fleet.ReportMachine{NewID: "m-1", BootID: "boot-0001", SessionHash: strings.Repeat("0", 64), MAC: macA, IP: "10.77.0.120", Inventory: inv})
	do(fleet.CreateTask{ID: "t-1", TargetMAC: macA, Spec: fleet.Spec{OSType: "tiny", UserData: value, Tags: map[string]string{value: value}}})
	do(fleet.CreateTask{ID: "t-2" + value, TargetMAC: macB, Spec: fleet.Spec{OSType: "tiny" + value, OSVersion: value}})
	s.cfg.Fleet = stateFleet{s.fleet, st}
	q := url.Values{"uuid": {value}, "platform": {value}, "serial": {value}, "manufacturer": {value}, "hostname": {value}, "user-class": {value}}
	w := s.get("GET", "/boot/"+s.path(macA)+"/script?mac="+macA+"&"+q.Encode())
	if w.Code != 200 {
		t.Fatalf("%.40q: the script is answered with %d", value, w.Code)
	}
	return w.Body.String()
}

// S24: no value changes the script, but for the sentence on the console, which holds
// only what iPXE gives no meaning to.
func TestS24_IPXEInjection(t *testing.T) {
	spoken := regexp.MustCompile(`(?m)^echo LPMOS: [a-zA-Z0-9 .,:;()_+/'-]*$`)
	plain := spoken.ReplaceAllString(scriptOf(t, ""), "echo")
	if !strings.Contains(plain, "kernel http://") {
		t.Fatalf("the machine is not told to start the agent:\n%s", plain)
	}
	for _, value := range programs {
		if got := spoken.ReplaceAllString(scriptOf(t, value), "echo"); got != plain {
			t.Errorf("%.40q changes the script:\n%s", value, got)
		}
	}
	// What asks without a MAC, or with one that is a program, is told nothing else.
	s := newSetup(t, ModeDHCP)
	bad := s.get("GET", "/boot/"+s.path("")+"/script?mac=x").Body.String()
	for _, value := range programs {
		if got := s.get("GET", "/boot/"+s.path("")+"/script?mac="+url.QueryEscape(value)).Body.String(); got != bad {
			t.Errorf("the MAC %.40q changes the script:\n%s", value, got)
		}
		for _, path := range []string{"/boot/" + url.PathEscape(value), "/boot/script/" + url.PathEscape(value)} {
			var w *httptest.ResponseRecorder
			if w = s.get("GET", path); w.Code != 404 {
				t.Errorf("%.60q is answered with %d", path, w.Code)
			}
		}
	}
}

// S25: the kernel's command line has our own words, each once (the nodes up to three
// times, the two consoles), whatever firmware and people write.
func TestS25_CmdlineInjection(t *testing.T) {
	most := map[string]int{"initrd": 1, "console": 2, "lpmos.node": 3, "lpmos.mac": 1, "lpmos.time": 1, "lpmos.pin": 1, "lpmos.claim": 1}
	for _, value := range append([]string{""}, programs...) {
		seen := map[string]int{}
		for _, line := range strings.Split(scriptOf(t, value), "\n") {
			words, ok := strings.CutPrefix(line, "kernel ")
			if !ok {
				continue
			}
			words, _, _ = strings.Cut(words, " || ")
			fields := strings.Fields(words)
			for _, w := range fields[1:] { // the first is where the kernel lies
				key, _, _ := strings.Cut(w, "=")
				if seen[key]++; seen[key] > most[key] {
					t.Errorf("%.40q: the kernel is given %q", value, w)
				}
			}
			if strings.ContainsAny(words, "\"'`\\\x1b") || strings.Contains(words, "evil") || strings.Contains(words, "${") {
				t.Errorf("%.40q: the kernel is given %s", value, words)
			}
		}
		if seen["lpmos.node"] == 0 || seen["lpmos.mac"] != 1 || seen["lpmos.time"] != 1 {
			t.Errorf("%.40q: the kernel is given %v", value, seen)
		}
	}
	// Nor does the operator's own addition set what is ours.
	for _, args := range []string{"init=/bin/sh", "rdinit=/x", "initrd=x", "lpmos.node=http://evil", "lpmos.pin=00", "lpmos.claim=x", "a -- b", "a\nb", "${x}", `"`, strings.Repeat("a", 1025)} {
		if err := ValidateKernelArgs(args); err == nil {
			t.Errorf("kernel_args %.40q are taken", args)
		}
	}
}
