package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lpmos/lpmos/netboot"
)

// firewall asks nft what rules there are (those of iptables are nft's too) and goes
// through them with the first packets of a machine.
func (n *network) firewall(ctx context.Context) Finding {
	if n.h.Inside {
		return skip("a node starts no programs; lpmos doctor on its host reads the rules")
	}
	if os.Geteuid() != 0 {
		return skip("only root may read the firewall's rules: sudo lpmos doctor")
	}
	// What the older iptables has loaded is nobody's but its own.
	if tables, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && bytes.Contains(tables, []byte("filter")) {
		return skip("the rules are iptables' own (legacy): sudo iptables-legacy -S INPUT shows whether UDP 67 and 69 and TCP %d are let in", n.h.Config.BootPort)
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		nft, err = exec.LookPath("/usr/sbin/nft") // where a root's shell may not look
	}
	if err != nil {
		return skip("there is no nft on this host to read the rules with")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, nft, "-j", "list", "ruleset").Output()
	if err != nil {
		return skip("nft does not tell the rules: %v", err)
	}
	rules, err := parseRules(out)
	if err != nil {
		return skip("what nft tells cannot be read: %v", err)
	}
	packets := []packet{{n.Name, "tcp", n.h.Config.BootPort}}
	for _, port := range netboot.Ports(n.in.Mode) {
		packets = append(packets, packet{n.Name, "udp", port})
	}
	return judgeFirewall(rules, packets)
}

// judgeFirewall says what becomes of the packets.
func judgeFirewall(rules ruleset, packets []packet) Finding {
	var dropped, perhaps []packet
	var where string
	for _, p := range packets {
		switch fate, chain := rules.fate(p); fate {
		case isDropped:
			dropped, where = append(dropped, p), chain
		case mayBeDropped:
			perhaps, where = append(perhaps, p), chain
		}
	}
	switch {
	case len(dropped) > 0:
		return fail(letIn(rules, where, dropped), "the firewall drops what machines send to %s (chain %s)", portList(dropped), where)
	case len(perhaps) > 0:
		return warn("sudo nft list chain "+where, "the firewall drops what machines send to %s, unless a rule lets it in that could not be followed (chain %s)", portList(perhaps), where)
	}
	return ok("it lets machines in")
}

func portList(ps []packet) string {
	var out []string
	for _, proto := range []string{"udp", "tcp"} {
		var ports []string
		for _, p := range ps {
			if p.proto == proto {
				ports = append(ports, strconv.Itoa(p.port))
			}
		}
		if len(ports) > 0 {
			out = append(out, strings.ToUpper(proto)+" "+strings.Join(ports, ", "))
		}
	}
	return strings.Join(out, " and ")
}

// letIn is the command for the program that has made the rules.
func letIn(rules ruleset, where string, ps []packet) string {
	dev := ps[0].dev
	switch {
	case strings.Contains(where, " firewalld "):
		return "sudo firewall-cmd --permanent --zone=trusted --change-interface=" + dev + " && sudo firewall-cmd --reload"
	case rules.has("ufw-user-input"):
		return "sudo ufw allow in on " + dev
	}
	var commands []string
	for _, proto := range []string{"udp", "tcp"} {
		var ports []string
		for _, p := range ps {
			if p.proto == proto {
				ports = append(ports, strconv.Itoa(p.port))
			}
		}
		if len(ports) > 0 {
			commands = append(commands, fmt.Sprintf("sudo nft insert rule %s iifname %s %s dport '{ %s }' accept", where, dev, proto, strings.Join(ports, ", ")))
		}
	}
	return strings.Join(commands, " && ") + "; and the same in the file that makes the rules at the next start"
}

// packet is the first of a machine's, as far as it is known before it comes: from
// where is not.
type packet struct {
	dev   string
	proto string // "udp" or "tcp"
	port  int
}

// fate is what the rules do with a packet.
type fate int

const (
	goesOn       fate = iota // no rule of this chain has an opinion
	isLetIn                  // by this chain
	isDropped                // by some chain, for certain
	mayBeDropped             // unless a rule let it in that is not understood here
)

// ruleset is what "nft -j list ruleset" tells, in its order. Of what it has beside
// chains and rules, such as named sets, nothing is kept: a rule with one of them is
// one that is not understood.
type ruleset struct {
	chains []chain
}

type chain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Hook   string `json:"hook"`
	Type   string `json:"type"`
	Policy string `json:"policy"`
	Device any    `json:"dev"`

	rules [][]map[string]json.RawMessage
}

func (c chain) title() string { return c.Family + " " + c.Table + " " + c.Name }

func parseRules(data []byte) (ruleset, error) {
	var in struct {
		All []struct {
			Chain *chain `json:"chain"`
			Rule  *struct {
				Family string                       `json:"family"`
				Table  string                       `json:"table"`
				Chain  string                       `json:"chain"`
				Expr   []map[string]json.RawMessage `json:"expr"`
			} `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return ruleset{}, err
	}
	if in.All == nil {
		return ruleset{}, errors.New("it is no ruleset")
	}
	var r ruleset
	for _, one := range in.All {
		if one.Chain != nil {
			r.chains = append(r.chains, *one.Chain)
		}
	}
	for _, one := range in.All {
		if one.Rule == nil {
			continue
		}
		if c := r.chain(one.Rule.Family, one.Rule.Table, one.Rule.Chain); c != nil {
			c.rules = append(c.rules, one.Rule.Expr)
		}
	}
	return r, nil
}

func (r *ruleset) chain(family, table, name string) *chain {
	i := slices.IndexFunc(r.chains, func(c chain) bool { return c.Family == family && c.Table == table && c.Name == name })
	if i < 0 {
		return nil
	}
	return &r.chains[i]
}

func (r ruleset) has(name string) bool {
	return slices.ContainsFunc(r.chains, func(c chain) bool { return c.Name == name })
}

// fate goes through every chain that a packet for this host meets. Each has to let it
// through: what one has accepted the next may still drop.
func (r ruleset) fate(p packet) (worst fate, where string) {
	for _, c := range r.chains {
		if c.Hook != "input" && c.Hook != "prerouting" || c.Type != "filter" || c.Device != nil ||
			!slices.Contains([]string{"ip", "inet"}, c.Family) {
			continue
		}
		steps := mostParts
		end, doubt := r.walk(&c, p, 0, &steps)
		if end == goesOn && c.Policy == "drop" {
			end = isDropped
		}
		if end == isDropped && doubt {
			end = mayBeDropped
		}
		if end == isDropped || end == mayBeDropped && worst != isDropped {
			worst, where = end, c.title()
		}
		if worst == isDropped {
			return worst, where
		}
	}
	return worst, where
}

const (
	deepest   = 16     // how far chains lead into each other; the kernel has as much
	mostParts = 20_000 // of rules, looked at for one packet
)

// walk goes through a chain. doubt says that a rule which might have let the packet
// in, or have led away, was passed over.
func (r ruleset) walk(c *chain, p packet, depth int, steps *int) (end fate, doubt bool) {
	if depth > deepest {
		return goesOn, true
	}
	for _, rule := range c.rules {
		matches := yes
		for _, statement := range rule {
			if *steps--; *steps < 0 {
				return goesOn, true
			}
			for kind, body := range statement {
				switch kind {
				case "match":
					matches = min(matches, matchOf(body, p))
				case "accept", "drop", "reject", "return", "jump", "goto":
					if matches == no {
						continue
					}
					end, led := r.verdict(c, kind, body, p, depth, steps)
					doubt = doubt || led
					switch {
					case end == goesOn && kind != "return" && kind != "goto":
					case matches == perhaps && end == isDropped:
						// It drops some, and it is not known whether these.
					case matches == perhaps:
						doubt = true
					case end == goesOn:
						return goesOn, doubt // return, or a chain that was left for good
					default:
						return end, doubt
					}
				case "counter", "log", "comment", "limit":
					if kind == "limit" {
						matches = min(matches, perhaps)
					}
				default: // what has not been heard of here may be a condition
					matches = min(matches, perhaps)
					if kind == "vmap" || kind == "queue" || kind == "xt" && !bytes.Contains(body, []byte(`"match"`)) {
						doubt = doubt || matches != no
					}
				}
			}
		}
	}
	return goesOn, doubt
}

// verdict is what a rule does with what it matches.
func (r ruleset) verdict(c *chain, kind string, body json.RawMessage, p packet, depth int, steps *int) (end fate, doubt bool) {
	switch kind {
	case "accept":
		return isLetIn, false
	case "drop", "reject":
		return isDropped, false
	case "jump", "goto":
		var to struct {
			Target string `json:"target"`
		}
		if json.Unmarshal(body, &to) != nil {
			return goesOn, true
		}
		next := r.chain(c.Family, c.Table, to.Target)
		if next == nil {
			return goesOn, true
		}
		return r.walk(next, p, depth+1, steps)
	}
	return goesOn, false
}

// match says whether a condition holds.
type match int

const (
	no match = iota
	perhaps
	yes
)

func matchOf(body json.RawMessage, p packet) match {
	var m struct {
		Op   string `json:"op"`
		Left struct {
			Meta *struct {
				Key string `json:"key"`
			} `json:"meta"`
			Payload *struct {
				Protocol string `json:"protocol"`
				Field    string `json:"field"`
			} `json:"payload"`
			CT *struct {
				Key string `json:"key"`
			} `json:"ct"`
		} `json:"left"`
		Right any `json:"right"`
	}
	if json.Unmarshal(body, &m) != nil {
		return perhaps
	}
	value := ""
	switch {
	case m.Left.Meta != nil && (m.Left.Meta.Key == "iifname" || m.Left.Meta.Key == "iif"):
		value = p.dev
	case m.Left.Meta != nil && m.Left.Meta.Key == "l4proto":
		value = p.proto
	case m.Left.Meta != nil && (m.Left.Meta.Key == "nfproto" || m.Left.Meta.Key == "protocol"):
		value = map[string]string{"nfproto": "ipv4", "protocol": "ip"}[m.Left.Meta.Key]
	case m.Left.CT != nil && m.Left.CT.Key == "state":
		value = "new"
	case m.Left.Payload != nil && m.Left.Payload.Field == "dport":
		if proto := m.Left.Payload.Protocol; proto != "th" && proto != p.proto {
			return no // it is a packet of that protocol first of all
		}
		value = strconv.Itoa(p.port)
	case m.Left.Payload != nil && m.Left.Payload.Protocol == "ip" && m.Left.Payload.Field == "protocol":
		value = p.proto
	case m.Left.Payload != nil && slices.Contains([]string{"ip6", "icmp", "icmpv6", "sctp", "dccp"}, m.Left.Payload.Protocol):
		return no
	default:
		return perhaps
	}
	holds := in(m.Right, value)
	switch m.Op {
	case "==", "in":
		return holds
	case "!=":
		return yes - holds // yes and no change places
	}
	return perhaps
}

// in says whether a value is the right side of a condition, or of the set there.
func in(right any, value string) match {
	switch r := right.(type) {
	case string:
		if strings.HasPrefix(r, "@") {
			return perhaps // a named set
		}
		if begins, wild := strings.CutSuffix(r, "*"); wild && strings.HasPrefix(value, begins) || r == value {
			return yes
		}
		if n, err := strconv.Atoi(value); err == nil && !isNumber(r) && n > 0 {
			return perhaps // the name of a port
		}
		return no
	case float64:
		if strconv.FormatFloat(r, 'f', -1, 64) == value {
			return yes
		}
		if !isNumber(value) {
			return perhaps // the number of a protocol
		}
		return no
	case []any:
		return anyOf(r, value)
	case map[string]any:
		if set, ok := r["set"].([]any); ok {
			return anyOf(set, value)
		}
		if ends, ok := r["range"].([]any); ok && len(ends) == 2 {
			first, one := ends[0].(float64)
			last, two := ends[1].(float64)
			n, err := strconv.ParseFloat(value, 64)
			if one && two && err == nil {
				if n >= first && n <= last {
					return yes
				}
				return no
			}
		}
	}
	return perhaps
}

func anyOf(list []any, value string) match {
	best := no
	for _, one := range list {
		best = max(best, in(one, value))
	}
	return best
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}
