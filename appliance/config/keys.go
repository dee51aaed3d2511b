package config

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Key is one thing a node can be told.
type Key struct {
	Name  string // in the file
	Doc   string // one or two sentences
	get   func(*Config) string
	set   func(*Config, string) error
	usual string // the default, as set takes it
}

// Flag is the key's name on the command line.
func (k Key) Flag() string { return strings.ReplaceAll(k.singular(), "_", "-") }

// Variable is the key's name in the environment.
func (k Key) Variable() string { return "LPMOS_" + strings.ToUpper(k.Name) }

// Default is the value nobody has to give.
func (k Key) Default() string { return k.usual }

func (k Key) singular() string {
	if k.Name == "interfaces" {
		return "interface"
	}
	return k.Name
}

// Keys are all of them, in the order of the reference file.
var Keys = []Key{
	text("region", "dc1", "Where this node stands. Tasks and machines carry the region of the node that met them.",
		func(c *Config) *string { return &c.Region }),
	text("name", "n1", "What people call this node.", func(c *Config) *string { return &c.Name }),
	text("data_dir", "/var/lib/lpmos", "Where this node keeps its log, its state and its images. Nobody else may use it.",
		func(c *Config) *string { return &c.DataDir }),
	text("user", "", "Who a node that root starts is to be, by name or number: it gives up root before it serves anybody, and gets the data directory. By default it is lpmos if there is such a user, else 65527. root stays root.",
		func(c *Config) *string { return &c.User }),
	text("listen", "127.0.0.1:8080", "Address of the dashboard and the API. On loopback it speaks plain HTTP too; on any other address HTTPS alone. fd:3 takes over an open socket.",
		func(c *Config) *string { return &c.Listen }),
	text("tls_cert", "", "Certificate that the dashboard shows to browsers, a PEM file with those that lead to its root; read anew when it changes. Without one it shows one of the cluster's own authority.",
		func(c *Config) *string { return &c.TLSCert }),
	text("tls_key", "", "Key of tls_cert, a PEM file.",
		func(c *Config) *string { return &c.TLSKey }),
	{Name: "hosts",
		Doc: "Names people reach the dashboard by, without port. Loopback always works, and so does any IP address while no name is given; every other name is refused, against pages that point their own name at this node.",
		get: func(c *Config) string { return strings.Join(c.Hosts, ",") },
		set: func(c *Config, v string) error {
			c.Hosts = nil
			for h := range strings.SplitSeq(v, ",") {
				if h = strings.TrimSpace(h); h != "" {
					c.Hosts = append(c.Hosts, h)
				}
			}
			return nil
		}},
	text("cluster_listen", "127.0.0.1:4747", "Address at which other nodes reach this one. Nodes prove to each other what they are; on loopback only nodes on the same host can join.",
		func(c *Config) *string { return &c.ClusterListen }),
	text("cluster_address", "", "Address by which the other nodes know this one, if it is not cluster_listen: behind a forwarded port, or when it listens on every address.",
		func(c *Config) *string { return &c.ClusterAddress }),
	{Name: "boot_port", usual: "80",
		Doc: "HTTP port on the named interfaces, where machines fetch boot files and agents report.",
		get: func(c *Config) string { return strconv.Itoa(c.BootPort) },
		set: func(c *Config, v string) (err error) {
			if c.BootPort, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%q is no number", v)
			}
			return nil
		}},
	{Name: "interfaces",
		Doc: "The networks to serve; none by default, and nothing is touched that is not named. Each is told what it is to be, below.",
		get: func(c *Config) string {
			var out []string
			for _, i := range c.Interfaces {
				out = append(out, i.String())
			}
			return strings.Join(out, ";")
		},
		set: setInterfaces},
	{Name: "reservations",
		Doc: "Addresses kept for machines, known or not: by a MAC, which means that card, by UUID, or by the serial number of a machine that is known. The same on every node that serves the network. What another machine has is not taken from it.",
		get: func(c *Config) string {
			var out []string
			for _, r := range c.Reservations {
				out = append(out, r.Machine+"="+r.Address)
			}
			return strings.Join(out, ",")
		},
		set: func(c *Config, v string) error {
			c.Reservations = nil
			for s := range strings.SplitSeq(v, ",") {
				if strings.TrimSpace(s) == "" {
					continue
				}
				at := strings.LastIndex(s, "=")
				if at < 0 {
					return fmt.Errorf("%q is no reservation; write MACHINE=ADDRESS", s)
				}
				c.Reservations = append(c.Reservations, Reservation{Machine: strings.TrimSpace(s[:at]), Address: strings.TrimSpace(s[at+1:])})
			}
			return nil
		}},
	text("kernel_args", "", "More words for the agent's kernel command line, for instance console=ttyS1,115200.",
		func(c *Config) *string { return &c.KernelArgs }),
	choice("uefi_loader", "auto", "What UEFI machines that boot by PXE are given: ipxe, which is quicker; ipxe-drivers, the same with drivers of its own for cards whose firmware iPXE cannot use; shim, Debian's signed shim and GRUB, which start under Secure Boot; or auto, which is ipxe and then shim for a machine that did not start ipxe. For arm64 there is no ipxe: GRUB takes its place.",
		[]string{"auto", "ipxe", "ipxe-drivers", "shim"}, func(c *Config) *string { return &c.UEFILoader }),
	{Name: "release_after", usual: "10m",
		Doc: "How long a machine of which nothing is asked, but which has something on its disks, is kept in the agent before it boots its own disk.",
		get: func(c *Config) string { return c.ReleaseAfter.String() },
		set: func(c *Config, v string) (err error) {
			if c.ReleaseAfter, err = time.ParseDuration(v); err != nil {
				return fmt.Errorf("%q is no length of time; write it as 90s, 10m or 2h", v)
			}
			return nil
		}},
	{Name: "no_router_advertisement", usual: "false",
		Doc: "Do not answer IPv6 router solicitations of machines that netboot. The empty answer saves UEFI machines about 13 seconds a boot.",
		get: func(c *Config) string { return strconv.FormatBool(c.QuietRouters) },
		set: func(c *Config, v string) (err error) {
			if c.QuietRouters, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			return nil
		}},
	{Name: "tftp_single_port", usual: "false",
		Doc: "Send all that TFTP sends from port 69, for a firewall that lets nothing else through. It is slower, and a forged request with a forged answer makes the node send a whole file: leave it off where it is not needed.",
		get: func(c *Config) string { return strconv.FormatBool(c.TFTPOnePort) },
		set: func(c *Config, v string) (err error) {
			if c.TFTPOnePort, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			return nil
		}},
	{Name: "copy_limit", usual: "100",
		Doc: "How many megabytes of images a second this node copies from other nodes, 0 for no limit. What a machine waits for is never slowed down.",
		get: func(c *Config) string { return strconv.Itoa(c.CopyLimit) },
		set: func(c *Config, v string) (err error) {
			if c.CopyLimit, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%q is no number", v)
			}
			return nil
		}},
	{Name: "fetch_from",
		Doc: "Networks that images may be fetched from although the node would not go there: this host itself (127.0.0.0/8), its own addresses, those of a link or of a cloud's services. For an image server on the node's own host.",
		get: func(c *Config) string { return strings.Join(c.FetchFrom, ",") },
		set: func(c *Config, v string) error {
			c.FetchFrom = nil
			for s := range strings.SplitSeq(v, ",") {
				if s = strings.TrimSpace(s); s != "" {
					c.FetchFrom = append(c.FetchFrom, s)
				}
			}
			return nil
		}},
	choice("log_level", "info", "How much is logged: debug, info, warn or error.", []string{"debug", "info", "warn", "error"},
		func(c *Config) *string { return &c.LogLevel }),
	choice("log_format", "text", "text for people, json for machines.", []string{"text", "json"},
		func(c *Config) *string { return &c.LogFormat }),
	text("ui_dir", "", "Serve the dashboard's files from this directory instead of the ones built in (for those who work on them).",
		func(c *Config) *string { return &c.UIDir }),
}

func text(name, usual, doc string, field func(*Config) *string) Key {
	return Key{Name: name, Doc: doc, usual: usual,
		get: func(c *Config) string { return *field(c) },
		set: func(c *Config, v string) error { *field(c) = v; return nil }}
}

func choice(name, usual, doc string, of []string, field func(*Config) *string) Key {
	k := text(name, usual, doc, field)
	k.set = func(c *Config, v string) error {
		if !slices.Contains(of, v) {
			return fmt.Errorf("%q is none of %s", v, strings.Join(of, ", "))
		}
		*field(c) = v
		return nil
	}
	return k
}

// Origins says where each key's value came from: "default", a file, a variable or a flag.
type Origins map[string]string

// Load puts a configuration together: defaults, then the file (if one is
// named), then the environment, then the flags that were given, by key name.
func Load(file string, getenv func(string) string, flags map[string]string) (Config, Origins, error) {
	var c Config
	from := Origins{}
	for _, k := range Keys {
		from[k.Name] = "default"
		if k.usual == "" {
			continue
		}
		if err := k.set(&c, k.usual); err != nil {
			return c, from, fmt.Errorf("default of %s: %w", k.Name, err)
		}
	}
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return c, from, fmt.Errorf("read configuration: %w", err)
		}
		found, err := parseYAML(file, data, &c)
		if err != nil {
			return c, from, err
		}
		for _, k := range found {
			from[k] = file
		}
		// What the file says has to pass the same gate as flags and variables.
		for _, k := range Keys {
			if !slices.Contains(found, k.Name) || k.Name == "interfaces" || k.Name == "reservations" { // of which flags cannot say all, and check does
				continue
			}
			if err := k.set(&c, k.get(&c)); err != nil {
				return c, from, &Error{Where: file + ": " + k.Name, Text: err.Error()}
			}
		}
	}
	for _, k := range Keys {
		for _, src := range []struct{ where, value string }{
			{k.Variable(), getenv(k.Variable())}, {"--" + k.Flag(), flags[k.Name]},
		} {
			if src.value == "" {
				continue
			}
			if err := k.set(&c, src.value); err != nil {
				return c, from, &Error{Where: src.where, Text: err.Error()}
			}
			from[k.Name] = src.where
		}
	}
	return c, from, c.check()
}

// Reference is a commented file that says every key with its default. It is
// itself a valid configuration.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration of an LPMOS node. Every key may be left out; the values here are the\n" +
		"# defaults. A variable goes over the file, a flag over both.\n")
	for _, k := range Keys {
		fmt.Fprintf(&b, "\n%s# (%s, --%s)\n", comment(k.Doc), k.Variable(), k.Flag())
		switch k.Name {
		case "interfaces":
			b.WriteString(interfaceReference())
		case "reservations":
			b.WriteString("reservations: []\n# reservations:\n#   - machine: 52:54:00:12:34:56\n#     address: 10.0.0.50\n")
		case "hosts", "fetch_from":
			b.WriteString(k.Name + ": []\n")
		case "boot_port", "release_after", "no_router_advertisement", "tftp_single_port", "copy_limit":
			fmt.Fprintf(&b, "%s: %s\n", k.Name, k.usual)
		default:
			fmt.Fprintf(&b, "%s: %q\n", k.Name, k.usual)
		}
	}
	return b.String()
}

// Show prints what is in force; with origins, where each value came from.
func Show(c Config, from Origins) string {
	var b strings.Builder
	for _, k := range Keys {
		fmt.Fprintf(&b, "%-24s %-40s", k.Name, strconv.Quote(k.get(&c)))
		if from != nil {
			fmt.Fprintf(&b, " # %s", from[k.Name])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// comment wraps a sentence at 88 columns as a YAML comment.
func comment(doc string) string {
	var b strings.Builder
	line := "#"
	for _, w := range strings.Fields(doc) {
		if len(line)+1+len(w) > 88 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + w
	}
	return b.String() + line + "\n"
}
