package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/lpmos/lpmos/netboot"
)

// Interface is one interface to serve; nothing is touched that is not named here.
type Interface struct {
	Name   string   `yaml:"name"`
	Mode   string   `yaml:"mode"`
	Range  string   `yaml:"range,omitempty"`
	Router string   `yaml:"router,omitempty"`
	DNS    []string `yaml:"dns,omitempty"`
	Told   `yaml:",inline"`

	BesideOtherServer bool      `yaml:"beside_other_server,omitempty"`
	NoProbe           bool      `yaml:"no_probe,omitempty"`
	Networks          []Network `yaml:"networks,omitempty"`
}

// Network is one more network that an interface leads to.
type Network struct {
	Network string   `yaml:"network"`
	Relays  []string `yaml:"relays,omitempty"`
	Range   string   `yaml:"range,omitempty"`
	Router  string   `yaml:"router,omitempty"`
	DNS     []string `yaml:"dns,omitempty"`
	Told    `yaml:",inline"`
}

// Told is what machines of a network are told beside that.
type Told struct {
	Domain  string         `yaml:"domain,omitempty"`
	Search  []string       `yaml:"search,omitempty"`
	NTP     []string       `yaml:"ntp,omitempty"`
	Routes  []string       `yaml:"routes,omitempty"`
	MTU     int            `yaml:"mtu,omitempty"`
	Options map[int]string `yaml:"options,omitempty"`
}

// Reservation keeps an address for a machine.
type Reservation struct {
	Machine string `yaml:"machine"`
	Address string `yaml:"address"`
}

// place is an interface or a network of it while its settings are read.
type place struct {
	in  *Interface
	net *Network // nil: the interface itself
}

func (p place) basics() (ranged, router *string, dns *[]string, told *Told) {
	if p.net != nil {
		return &p.net.Range, &p.net.Router, &p.net.DNS, &p.net.Told
	}
	return &p.in.Range, &p.in.Router, &p.in.DNS, &p.in.Told
}

// setting is one thing an interface or a network can be told. From this table come
// the form of flags, the reference file and what a mistyped key is compared with.
type setting struct {
	name    string
	doc     string
	example string // as a file has it
	where   string // "interface", "network", or empty for both
	get     func(place) []string
	set     func(place, string) error
}

func one(field func(place) *string) (func(place) []string, func(place, string) error) {
	return func(p place) []string {
			if s := *field(p); s != "" {
				return []string{s}
			}
			return nil
		}, func(p place, v string) error {
			*field(p) = v
			return nil
		}
}

func list(field func(place) *[]string) (func(place) []string, func(place, string) error) {
	return func(p place) []string {
			if len(*field(p)) == 0 {
				return nil
			}
			return []string{strings.Join(*field(p), "+")}
		}, func(p place, v string) error {
			*field(p) = strings.Split(v, "+")
			return nil
		}
}

func row(name, where, example, doc string, get func(place) []string, set func(place, string) error) setting {
	return setting{name: name, where: where, example: example, doc: doc, get: get, set: set}
}

func settings() []setting {
	beside, setBeside := yesOrNo(func(p place) *bool { return &p.in.BesideOtherServer })
	unasked, setUnasked := yesOrNo(func(p place) *bool { return &p.in.NoProbe })
	mode, setMode := one(func(p place) *string { return &p.in.Mode })
	ranged, setRange := one(func(p place) *string { r, _, _, _ := p.basics(); return r })
	router, setRouter := one(func(p place) *string { _, r, _, _ := p.basics(); return r })
	dns, setDNS := list(func(p place) *[]string { _, _, d, _ := p.basics(); return d })
	told := func(p place) *Told { _, _, _, t := p.basics(); return t }
	domain, setDomain := one(func(p place) *string { return &told(p).Domain })
	search, setSearch := list(func(p place) *[]string { return &told(p).Search })
	ntp, setNTP := list(func(p place) *[]string { return &told(p).NTP })
	routes, setRoutes := list(func(p place) *[]string { return &told(p).Routes })
	relays, setRelays := list(func(p place) *[]string { return &p.net.Relays })
	return []setting{
		row("mode", "interface", "dhcp", "dhcp (give addresses out of range), proxy (stand beside another DHCP server), observe (answer nothing, show everything) or off.", mode, setMode),
		row("range", "", "10.0.0.100-10.0.0.199", "Addresses for machines that are not known; known ones keep theirs. For mode dhcp.", ranged, setRange),
		row("router", "", "10.0.0.1", "The way out of the network (option 3).", router, setRouter),
		row("dns", "", "[10.0.0.1]", "Name servers (option 6).", dns, setDNS),
		row("domain", "", "rack.example", "The machines' domain (option 15).", domain, setDomain),
		row("search", "", "[rack.example, example]", "Domains to look names up in (option 119).", search, setSearch),
		row("ntp", "", "[10.0.0.1]", "Time servers (option 42).", ntp, setNTP),
		row("routes", "", "[10.8.0.0/16 via 10.0.0.254]", "Ways to other networks (options 121 and 249); the router is among them by itself.", routes, setRoutes),
		row("mtu", "", "1500", "The largest packet of the network (option 26).",
			func(p place) []string {
				if told(p).MTU == 0 {
					return nil
				}
				return []string{strconv.Itoa(told(p).MTU)}
			},
			func(p place, v string) (err error) {
				if told(p).MTU, err = strconv.Atoi(v); err != nil {
					return fmt.Errorf("%q is no number", v)
				}
				return nil
			}),
		row("options", "", `{150: "ip:10.0.0.1", 224: "text:rack 7"}`, "Any other option by its number; a value is text:, ip:, hex:, u8:, u16:, u32: or flag: and what follows. As a flag: option.150=ip:10.0.0.1.",
			func(p place) (out []string) {
				for _, code := range slices.Sorted(maps.Keys(told(p).Options)) {
					out = append(out, fmt.Sprintf("option.%d=%s", code, told(p).Options[code]))
				}
				return out
			}, nil),
		row("beside_other_server", "interface", "false", "In mode dhcp: answer although another DHCP server answers on the network. Otherwise this node falls silent as long as there is one.",
			beside, setBeside),
		row("no_probe", "interface", "false", "In mode dhcp: offer a new machine an address without asking the network first, by ARP or, behind relays, by ping, whether somebody uses it. It saves such a machine up to half a second.",
			unasked, setUnasked),
		row("relays", "network", "[10.9.0.1]", "The relays that pass on what its machines ask (giaddr). Without them: any with an address of the network, unless this node's interface has one itself.", relays, setRelays),
	}
}

// yesOrNo tells and sets what is true or false.
func yesOrNo(of func(place) *bool) (get func(place) []string, set func(place, string) error) {
	return func(p place) []string {
			if !*of(p) {
				return nil
			}
			return []string{"true"}
		}, func(p place, v string) (err error) {
			if *of(p), err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			return nil
		}
}

// at says whether a setting is one of an interface, or of a network.
func (s setting) at(p place) bool {
	return s.where == "" || s.where == "interface" == (p.net == nil)
}

// String is the interface as a flag takes it. What of an option has a comma or a
// semicolon in it a file alone can say.
func (i Interface) String() string {
	s := i.Name + flagForm(place{in: &i})
	for n := range i.Networks {
		s += ",network=" + i.Networks[n].Network + flagForm(place{&i, &i.Networks[n]})
	}
	return s
}

func flagForm(p place) (s string) {
	for _, k := range settings() {
		if !k.at(p) {
			continue
		}
		for _, v := range k.get(p) {
			if k.set == nil {
				s += "," + v
				continue
			}
			s += "," + k.name + "=" + v
		}
	}
	return s
}

// setInterfaces reads "eno2,mode=dhcp,range=A-B,router=R,dns=D+E", more than one
// separated by semicolons. What follows network=N is of that network.
func setInterfaces(c *Config, v string) error {
	c.Interfaces = nil
	for text := range strings.SplitSeq(v, ";") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		parts := strings.Split(text, ",")
		i := &Interface{Name: strings.TrimSpace(parts[0])}
		p := place{in: i}
		for _, part := range parts[1:] {
			key, val, _ := strings.Cut(strings.TrimSpace(part), "=")
			if key == "network" {
				i.Networks = append(i.Networks, Network{Network: val})
				p.net = &i.Networks[len(i.Networks)-1]
				continue
			}
			if err := p.put(key, val); err != nil {
				return err
			}
		}
		c.Interfaces = append(c.Interfaces, *i)
	}
	return nil
}

func (p place) put(key, val string) error {
	if number, ok := strings.CutPrefix(key, "option."); ok {
		code, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("%q is no number of an option; write option.150=ip:10.0.0.1", number)
		}
		_, _, _, told := p.basics()
		if told.Options == nil {
			told.Options = map[int]string{}
		}
		told.Options[code] = val
		return nil
	}
	for _, k := range settings() {
		if k.name == key && k.set != nil && k.at(p) {
			return k.set(p, val)
		}
	}
	what := "an interface"
	if p.net != nil {
		what = "a network"
	}
	return fmt.Errorf("%s has no %q; write NAME,mode=dhcp,range=FIRST-LAST,router=IP,dns=IP+IP", what, key)
}

// check finds what cannot be so.
func (i Interface) check() error {
	switch i.Mode {
	case "dhcp":
		if i.Range == "" {
			return fmt.Errorf("interface %s: mode dhcp needs a range, for instance 10.0.0.100-10.0.0.199", i.Name)
		}
	case "proxy", "observe", "off":
		if i.Range != "" {
			return fmt.Errorf("interface %s: a range is for mode dhcp only; mode %s gives no addresses", i.Name, i.Mode)
		}
		if i.BesideOtherServer {
			return fmt.Errorf("interface %s: beside_other_server is for mode dhcp only; mode %s gives no addresses", i.Name, i.Mode)
		}
		if i.NoProbe {
			return fmt.Errorf("interface %s: no_probe is for mode dhcp only; mode %s gives no addresses", i.Name, i.Mode)
		}
	case "":
		return fmt.Errorf("interface %s needs a mode: dhcp (give addresses), proxy (beside another DHCP server), observe (answer nothing) or off", i.Name)
	default:
		return fmt.Errorf("interface %s: there is no mode %q; there are dhcp, proxy, observe and off", i.Name, i.Mode)
	}
	_, err := i.Netboot()
	return err
}

// Netboot is the interface as netboot takes it.
func (i Interface) Netboot() (netboot.Interface, error) {
	n := netboot.Interface{Name: i.Name, Mode: netboot.Mode(i.Mode), BesideOtherServer: i.BesideOtherServer, NoProbe: i.NoProbe}
	var err error
	fault := func(err error) error { return fmt.Errorf("interface %s: %w", i.Name, err) }
	if n.Range, n.Router, n.DNS, n.Options, err = (place{in: &i}).netboot(); err != nil {
		return n, fault(err)
	}
	for k := range i.Networks {
		net := &i.Networks[k]
		var out netboot.Network
		if out.Prefix, err = netip.ParsePrefix(net.Network); err != nil || !out.Prefix.Addr().Is4() || out.Prefix != out.Prefix.Masked() {
			return n, fault(fmt.Errorf("%q is no IPv4 network; write it as 10.9.0.0/24", net.Network))
		}
		if out.Range, out.Router, out.DNS, out.Options, err = (place{&i, net}).netboot(); err != nil {
			return n, fault(fmt.Errorf("network %s: %w", net.Network, err))
		}
		if out.Relays, err = addresses(net.Relays); err != nil {
			return n, fault(fmt.Errorf("network %s: %w", net.Network, err))
		}
		if (net.Range == "") == (i.Mode == "dhcp") {
			return n, fault(fmt.Errorf("network %s: a network has a range in mode dhcp, and in no other", net.Network))
		}
		n.Networks = append(n.Networks, out)
	}
	return n, nil
}

func (p place) netboot() (r netboot.Range, router netip.Addr, dns []netip.Addr, o netboot.Options, err error) {
	ranged, routed, names, told := p.basics()
	if *ranged != "" {
		if r, err = netboot.ParseRange(*ranged); err != nil {
			return
		}
	}
	if *routed != "" {
		if router, err = address(*routed); err != nil {
			return
		}
	}
	if dns, err = addresses(*names); err != nil {
		return
	}
	o, err = told.netboot()
	return
}

func (t Told) netboot() (o netboot.Options, err error) {
	o.Domain, o.Search, o.MTU = t.Domain, t.Search, t.MTU
	names := t.Search
	if t.Domain != "" {
		names = append([]string{t.Domain}, names...)
	}
	for _, d := range names {
		if err := netboot.ValidateDomain(d); err != nil {
			return o, err
		}
	}
	if o.NTP, err = addresses(t.NTP); err != nil {
		return o, err
	}
	if t.MTU != 0 && (t.MTU < 576 || t.MTU > 65535) {
		return o, fmt.Errorf("mtu %d: a network takes packets of 576 to 65535 bytes", t.MTU)
	}
	for _, s := range t.Routes {
		r, err := netboot.ParseRoute(s)
		if err != nil {
			return o, err
		}
		o.Routes = append(o.Routes, r)
	}
	for code, s := range t.Options {
		if err := netboot.CheckOption(code); err != nil {
			return o, err
		}
		b, err := netboot.ParseOption(s)
		if err != nil {
			return o, fmt.Errorf("option %d: %w", code, err)
		}
		if o.Custom == nil {
			o.Custom = map[uint8][]byte{}
		}
		o.Custom[uint8(code)] = b
	}
	return o, nil
}

func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is no IPv4 address", s)
	}
	return a, nil
}

func addresses(all []string) (out []netip.Addr, err error) {
	for _, s := range all {
		a, err := address(s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// interfaceReference is the part of the reference file that tells what an interface
// and its networks can be told.
func interfaceReference() string {
	var b strings.Builder
	b.WriteString("interfaces: []\n# interfaces:\n#   - name: eno2\n")
	i := &Interface{}
	line := func(indent string, k setting) {
		b.WriteString(indentComment(indent+"# ", k.doc))
		fmt.Fprintf(&b, "#%s%s: %s\n", indent, k.name, k.example)
	}
	for _, k := range settings() {
		if k.at(place{in: i}) {
			line("     ", k)
		}
	}
	b.WriteString(indentComment("     # ", "More networks of the interface: it has an address in them, or relays pass on what their machines ask. Each has range, router, dns and the like of its own.") +
		"#     networks:\n#       - network: 10.9.0.0/24\n#         range: 10.9.0.100-10.9.0.199\n#         router: 10.9.0.1\n")
	for _, k := range settings() {
		if k.where == "network" {
			line("         ", k)
		}
	}
	b.WriteString("#   - name: eno3\n#     mode: proxy\n")
	return b.String()
}

// indentComment wraps a sentence as a comment within a comment.
func indentComment(indent, doc string) string {
	var b strings.Builder
	line := "#" + strings.TrimSuffix(indent, " ")
	start := line
	for _, w := range strings.Fields(doc) {
		if len(line)+1+len(w) > 100 && line != start {
			b.WriteString(line + "\n")
			line = start
		}
		line += " " + w
	}
	return b.String() + line + "\n"
}
