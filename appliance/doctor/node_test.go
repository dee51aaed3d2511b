package doctor

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/netboot"
	"github.com/lpmos/lpmos/ui/api"
	"golang.org/x/sys/unix"
)

// What a node that runs says of itself.
func TestANodeThatRuns(t *testing.T) {
	healthy := func() *running {
		return &running{runs: true, pid: 1, health: api.Health{Node: "n1", Leader: "n1"}, view: &api.ClusterView{Summary: "1 node, n1 leads"}}
	}
	off := func(seconds float64, reachable bool) *running {
		r := healthy()
		r.view.Members = []api.Member{{Member: consensus.Member{Name: "n2", Reachable: reachable, ClockOff: seconds}}}
		return r
	}
	for _, c := range []struct {
		name   string
		node   *running
		look   func(*Host) Finding
		want   Verdict
		reason string
	}{
		{"of no cluster", &running{pid: 1}, func(h *Host) Finding { return h.cluster(t.Context()) }, Skip, "of none"},
		{"all is well", healthy(), func(h *Host) Finding { return h.cluster(t.Context()) }, OK, "n1 leads"},
		{"nobody leads", func() *running { r := healthy(); r.health.Leader = ""; return r }(), func(h *Host) Finding { return h.cluster(t.Context()) }, Fail, "nobody leads"},
		{"a problem", func() *running { r := healthy(); r.view.Problem = "the disk is slow"; return r }(), func(h *Host) Finding { return h.cluster(t.Context()) }, Warn, "the disk is slow"},
		{"no alarm", healthy(), func(h *Host) Finding { return h.alarms(t.Context()) }, OK, "nothing that is wrong"},
		{"an alarm", func() *running { r := healthy(); r.view.Alarms = []string{"fire", "flood"}; return r }(), func(h *Host) Finding { return h.alarms(t.Context()) }, Warn, "fire; flood"},
		{"clocks agree", off(0.5, true), func(h *Host) Finding { return h.clock(t.Context()) }, "", "it is 2027-01-01"},
		{"clocks differ", off(-5, true), func(h *Host) Finding { return h.clock(t.Context()) }, Warn, "the clock of n2 is -5.0 s off"},
		{"clocks differ much", off(90, true), func(h *Host) Finding { return h.clock(t.Context()) }, Fail, "the clock of n2 is 90 s off"},
		{"what a silent node once said of its clock", off(90, false), func(h *Host) Finding { return h.clock(t.Context()) }, "", "it is 2027-01-01"},
	} {
		h := &Host{node: c.node, Config: config.Config{DataDir: t.TempDir()}, Now: func() time.Time { return time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC) }}
		got := c.look(h)
		if c.want != "" && got.Verdict != c.want || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// What it has heard on a network is told of that network alone.
func TestWhatANodeHasHeard(t *testing.T) {
	h := &Host{node: &running{runs: true, pid: 1, view: &api.ClusterView{Alarms: []string{"another DHCP server answers: 10.0.0.9 (card 02:00:00:00:00:09) on eth1; find it and stop it"}}}}
	for name, want := range map[string]Verdict{"eth1": Fail, "eth": OK, "eth10": OK, "eth0": OK} {
		n := &network{h: h, Interface: config.Interface{Name: name, Mode: "dhcp"}}
		if got := n.otherServers(t.Context()); got.Verdict != want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWhatServersAreToANode(t *testing.T) {
	lends := netboot.DHCPServer{Card: "02:00:00:00:00:09", Lends: true}
	boots := netboot.DHCPServer{Card: "02:00:00:00:00:08", Boots: true}
	for _, c := range []struct {
		mode  string
		found []netboot.DHCPServer
		want  Verdict
	}{
		{"dhcp", nil, OK}, {"dhcp", []netboot.DHCPServer{lends}, Fail}, {"dhcp", []netboot.DHCPServer{boots}, Fail},
		{"proxy", []netboot.DHCPServer{lends}, OK}, {"proxy", []netboot.DHCPServer{lends, boots}, Warn},
		{"observe", nil, OK}, {"observe", []netboot.DHCPServer{lends, boots}, OK},
	} {
		n := &network{h: &Host{}, Interface: config.Interface{Name: "eth0", Mode: c.mode}, in: netboot.Interface{Mode: netboot.Mode(c.mode)}}
		if got := n.judge(c.found); got.Verdict != c.want {
			t.Errorf("%s beside %v: %+v", c.mode, c.found, got)
		}
	}
}

// A node is judged by what its own process may do.
func TestWhatAProcessMayDo(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	set, err := effective(os.Getpid())
	if err != nil || missingCaps(set) != "" {
		t.Errorf("root has %x, which lacks %q, %v", set, missingCaps(set), err)
	}
	if got := missingCaps(1 << unix.CAP_NET_RAW); got != "cap_net_bind_service" {
		t.Errorf("with cap_net_raw alone it lacks %q", got)
	}
	if _, err := effective(0); err == nil {
		t.Error("a process that is not there may do something")
	}
}

// What programs read is as stable as the API.
func TestReportAsJSON(t *testing.T) {
	r := Examine(t.Context(), []Check{
		is("configuration", OK, Check{ID: "link", Of: "eth0", Look: is("link", Fail).Look, Under: []Check{is("address", OK)}}),
	}, nil)
	got, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "verdict": "fail",
 "cause": {
  "id": "link",
  "of": "eth0",
  "verdict": "fail",
  "reason": "link is fail"
 },
 "checks": [
  {
   "id": "configuration",
   "verdict": "ok",
   "reason": "configuration is ok",
   "under": [
    {
     "id": "link",
     "of": "eth0",
     "verdict": "fail",
     "reason": "link is fail",
     "hidden": 1
    }
   ]
  }
 ]
}`
	if string(got) != want {
		t.Errorf("%s", got)
	}
}
