package doctor

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/netboot"
)

// The rules are made by the real nft and iptables, and read back.
func TestFirewalls(t *testing.T) {
	for _, program := range []string{"nft", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s (./build-deps)", program)
		}
	}
	o := newOffice(t)
	const input = "table inet filter {\nchain input {\ntype filter hook input priority 0; policy drop;\n"
	for _, c := range []struct {
		name     string
		nft      string
		iptables []string
		verdict  Verdict
		reason   string
		fix      string
	}{
		{name: "no rules", verdict: OK},
		{name: "all is dropped", nft: input + "}\n}", verdict: Fail,
			reason: "drops what machines send to UDP 67, 69 and TCP 80 (chain inet filter input)",
			fix:    "sudo nft insert rule inet filter input iifname eth0 udp dport '{ 67, 69 }' accept && sudo nft insert rule inet filter input iifname eth0 tcp dport '{ 80 }' accept"},
		{name: "all is let in by name", nft: input + "iifname \"eth*\" accept\n}\n}", verdict: OK},
		{name: "all is let in by interface", nft: input + "iif eth0 accept\n}\n}", verdict: OK},
		{name: "the other interface is let in", nft: input + "iifname \"eth1\" accept\n}\n}", verdict: Fail, reason: "UDP 67, 69 and TCP 80"},
		{name: "not the other interface", nft: input + "iifname != \"eth1\" accept\n}\n}", verdict: OK},
		{name: "one port is forgotten", nft: input + "udp dport 67 accept\ntcp dport 80-90 accept\n}\n}", verdict: Fail, reason: "send to UDP 69 (chain",
			fix: "udp dport '{ 69 }'"},
		{name: "a set of ports", nft: input + "udp dport { 67, 69 } accept\nmeta l4proto tcp accept\n}\n}", verdict: OK},
		{name: "only what was asked for", nft: input + "ct state established,related accept\n}\n}", verdict: Fail},
		{name: "what is new", nft: input + "ct state { new, established } accept\n}\n}", verdict: OK},
		{name: "a drop at the end", nft: "table inet filter {\nchain input {\ntype filter hook input priority 0; policy accept;\nudp dport 67 accept\nreject\n}\n}", verdict: Fail, reason: "UDP 69 and TCP 80"},
		{name: "a drop of something else", nft: "table inet filter {\nchain input {\ntype filter hook input priority 0;\ntcp dport 22 drop\nip saddr 10.9.9.9 drop\n}\n}", verdict: OK},
		{name: "a chain that is jumped to", nft: "table inet filter {\nchain racks {\nudp dport { 67, 69 } accept\ntcp dport 80 accept\n}\nchain input {\ntype filter hook input priority 0; policy drop;\niifname \"eth0\" jump racks\n}\n}", verdict: OK},
		{name: "a chain that returns", nft: "table inet filter {\nchain racks {\nreturn\naccept\n}\nchain input {\ntype filter hook input priority 0; policy drop;\njump racks\n}\n}", verdict: Fail},
		{name: "by where it comes from", nft: input + "ip saddr 10.77.0.0/24 accept\n}\n}", verdict: Warn, reason: "unless a rule lets it in that could not be followed"},
		{name: "a named set", nft: "table inet filter {\nset ours {\ntype inet_service; elements = { 67, 69 }\n}\nchain input {\ntype filter hook input priority 0; policy drop;\nudp dport @ours accept\ntcp dport 80 accept\n}\n}", verdict: Warn, reason: "UDP 67, 69, unless"},
		{name: "a second table drops", nft: "table inet a {\nchain input {\ntype filter hook input priority 0; accept\n}\n}\ntable ip b {\nchain late {\ntype filter hook input priority 10; policy drop;\n}\n}", verdict: Fail, reason: "chain ip b late"},
		{name: "IPv6 is another matter", nft: "table ip6 b {\nchain in {\ntype filter hook input priority 10; policy drop;\n}\n}", verdict: OK},
		{name: "what leaves is another matter", nft: "table inet b {\nchain out {\ntype filter hook output priority 10; policy drop;\n}\n}", verdict: OK},
		{name: "iptables", iptables: []string{"-P INPUT DROP", "-A INPUT -i eth0 -p udp --dport 67 -j ACCEPT", "-A INPUT -i eth0 -p tcp --dport 80 -j ACCEPT"}, verdict: Fail, reason: "UDP 69 (chain ip filter INPUT)"},
		{name: "iptables with what is not followed", iptables: []string{"-P INPUT DROP", "-A INPUT -p udp -m multiport --dports 67,69 -j ACCEPT", "-A INPUT -p tcp --dport 80 -j ACCEPT"}, verdict: Warn, reason: "UDP 67, 69, unless"},
		{name: "a chain of ufw's", iptables: []string{"-P INPUT DROP", "-N ufw-user-input", "-A INPUT -j ufw-user-input"}, verdict: Fail, fix: "sudo ufw allow in on eth0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o.run("nft", "flush", "ruleset")
			defer o.run("nft", "flush", "ruleset")
			if c.nft != "" {
				file := o.dir + "/rules"
				if err := os.WriteFile(file, []byte(c.nft), 0o600); err != nil {
					t.Fatal(err)
				}
				o.run("nft", "-f", file)
			}
			for _, line := range c.iptables {
				o.run(append([]string{"iptables"}, strings.Fields(line)...)...)
			}
			n := &network{h: o.host(lendsEth0), in: netboot.Interface{Name: "eth0", Mode: netboot.ModeDHCP}, Interface: lendsEth0}
			got := n.firewall(t.Context())
			if got.Verdict != c.verdict || !strings.Contains(got.Reason, c.reason) || !strings.Contains(got.Fix, c.fix) {
				t.Errorf("%s: %s\nmend it: %s", got.Verdict, got.Reason, got.Fix)
			}
			if got.Verdict == Fail && strings.HasPrefix(got.Fix, "sudo nft insert") {
				// The command that mends it does.
				o.run("sh", "-c", strings.ReplaceAll(strings.Split(got.Fix, ";")[0], "sudo ", ""))
				if again := n.firewall(t.Context()); again.Verdict != OK {
					t.Errorf("after %s: %s, %s", got.Fix, again.Verdict, again.Reason)
				}
			}
		})
	}
}

// FuzzRules: nothing that nft says hangs or panics.
func FuzzRules(f *testing.F) {
	f.Add([]byte(`{"nftables": [{"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "policy": "drop"}},
		{"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}, {"jump": {"target": "input"}}]}}]}`))
	f.Add([]byte(`{"nftables": [{"rule": {"expr": [{"match": {"op": "!=", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": {"set": [67, {"range": [1, 2]}]}}}, {"accept": null}]}}]}`))
	f.Add([]byte(`{"nftables": [{"rule": null}, {"chain": null}]}`))
	f.Add([]byte(`{"nftables": [{"chain": {"name": "a", "family": "ip", "type": "filter", "hook": "input"}}, {"rule": {"family": "ip", "chain": "a", "expr": [` +
		strings.Repeat(`{"jump": {"target": "a"}},`, 8) + `{"counter": null}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rules, err := parseRules(data)
		if err != nil {
			return
		}
		got := judgeFirewall(rules, []packet{{"eth0", "udp", 67}, {"eth0", "tcp", 80}})
		if got.Reason == "" || got.Verdict == Fail && got.Fix == "" {
			t.Errorf("%+v", got)
		}
	})
}
