// Package config reads what a node is told to be: a strict YAML file, then
// LPMOS_… variables, then flags, each over the one before. Every key has one
// entry in Keys, from which the reference file, the flags and the variables are
// made, so that none can be forgotten.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/lpmos/lpmos/netboot"
)

// Config is what a node is told.
type Config struct {
	Region       string        `yaml:"region"`
	Name         string        `yaml:"name"`
	DataDir      string        `yaml:"data_dir"`
	User         string        `yaml:"user"` // empty: lpmos, or a number of our own
	Listen       string        `yaml:"listen"`
	TLSCert      string        `yaml:"tls_cert"`
	TLSKey       string        `yaml:"tls_key"`
	Hosts        []string      `yaml:"hosts"`
	BootPort     int           `yaml:"boot_port"`
	Interfaces   []Interface   `yaml:"interfaces"`
	Reservations []Reservation `yaml:"reservations"`
	KernelArgs   string        `yaml:"kernel_args"`
	UEFILoader   string        `yaml:"uefi_loader"`
	ReleaseAfter time.Duration `yaml:"release_after"`
	QuietRouters bool          `yaml:"no_router_advertisement"`
	TFTPOnePort  bool          `yaml:"tftp_single_port"`
	CopyLimit    int           `yaml:"copy_limit"` // megabytes a second; 0 is none
	FetchFrom    []string      `yaml:"fetch_from"` // networks, see FetchPrefixes
	LogLevel     string        `yaml:"log_level"`
	LogFormat    string        `yaml:"log_format"`
	UIDir        string        `yaml:"ui_dir"`

	ClusterListen  string `yaml:"cluster_listen"`
	ClusterAddress string `yaml:"cluster_address"` // empty: what cluster_listen says
}

// Error is a fault in the configuration with where it stands and what to do.
type Error struct {
	Where string // "FILE:LINE:COLUMN", "--flag" or "LPMOS_NAME"
	Text  string
	Hint  string
}

func (e *Error) Error() string { return e.Where + ": " + e.Text }

// parseYAML reads a file over what cfg has. It returns the keys it found.
func parseYAML(file string, data []byte, cfg *Config) ([]string, error) {
	var found map[string]any
	foundErr := unmarshal(data, &found)
	if foundErr == nil && len(found) == 0 {
		return nil, nil // comments alone: nothing is said, and no default is taken away
	}
	if err := unmarshal(data, cfg, yaml.Strict()); err != nil {
		return nil, yamlError(file, err)
	}
	if foundErr != nil {
		return nil, yamlError(file, foundErr)
	}
	var keys []string
	for k := range found {
		keys = append(keys, k)
	}
	return keys, nil
}

// unmarshal is the parser's, which panics on some files with tags
// ("interfaces: !0 0"); a configuration needs none.
func unmarshal(data []byte, dst any, opts ...yaml.DecodeOption) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("this is not YAML that can be read here; a tag (!name) that the configuration does not need?")
		}
	}()
	return yaml.UnmarshalWithOptions(data, dst, opts...)
}

func yamlError(file string, err error) error {
	e := &Error{Where: file, Text: err.Error()}
	if text, ok := strings.CutPrefix(e.Text, "time: "); ok { // the parser does not say where
		e.Text = text + "; write it as 90s, 10m or 2h"
	}
	var yerr yaml.Error
	if errors.As(err, &yerr) {
		e.Text = yerr.GetMessage()
		if tok := yerr.GetToken(); tok != nil && tok.Position != nil {
			e.Where = fmt.Sprintf("%s:%d:%d", file, tok.Position.Line, tok.Position.Column)
			var unknown *yaml.UnknownFieldError
			var kind *yaml.TypeError
			if errors.As(err, &kind) {
				e.Text = fmt.Sprintf("%q is no %s", tok.Value, kindName(kind.DstType))
			}
			if errors.As(err, &unknown) {
				e.Text = fmt.Sprintf("there is no key %q", tok.Value)
				if near := nearest(tok.Value, fileKeys()); near != "" {
					e.Hint = fmt.Sprintf("did you mean %q?", near)
				} else {
					e.Hint = "lpmos config reference prints every key"
				}
			}
		}
	}
	return e
}

// kindName says what a key takes, in words of a configuration file.
func kindName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "length of time; write it as 90s, 10m or 2h"
	case t.Kind() == reflect.Int:
		return "number"
	case t.Kind() == reflect.Bool:
		return "answer; write true or false"
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.Struct:
		return "set of keys with values"
	}
	return "text"
}

// fileKeys are all keys a file may hold, at any level.
func fileKeys() []string {
	keys := []string{"name", "network", "networks", "machine", "address"}
	for _, k := range settings() {
		keys = append(keys, k.name)
	}
	for _, k := range Keys {
		keys = append(keys, k.Name)
	}
	return keys
}

// check finds what no single key can know. Errors name the key.
func (c Config) check() error {
	fault := func(key, format string, args ...any) error {
		return &Error{Where: key, Text: fmt.Sprintf(format, args...)}
	}
	seen := map[string]bool{}
	for n, i := range c.Interfaces {
		key := fmt.Sprintf("interfaces[%d]", n)
		if i.Name == "" {
			return fault(key, "an interface needs a name, for instance eno2")
		}
		if seen[i.Name] {
			return fault(key, "interface %s is named twice", i.Name)
		}
		seen[i.Name] = true
		if err := i.check(); err != nil {
			return fault(key, "%s", err)
		}
	}
	reserved := map[string]bool{}
	for n, r := range c.Reservations {
		key := fmt.Sprintf("reservations[%d]", n)
		if r.Machine == "" {
			return fault(key, "say for which machine: by a MAC, its UUID or its serial number")
		}
		addr, err := address(r.Address)
		if err != nil {
			return fault(key, "%v", err)
		}
		if reserved[addr.String()] {
			return fault(key, "%s is reserved twice", addr)
		}
		reserved[addr.String()] = true
	}
	for n, s := range c.FetchFrom {
		if p, err := netip.ParsePrefix(s); err != nil || p != p.Masked() {
			return fault(fmt.Sprintf("fetch_from[%d]", n), "%q is no network; write it as 127.0.0.1/32 or fd00::/8", s)
		}
	}
	if err := c.checkCluster(); err != nil {
		return err
	}
	if err := netboot.ValidateKernelArgs(c.KernelArgs); err != nil {
		return fault("kernel_args", "%s", strings.TrimPrefix(err.Error(), "kernel_args: "))
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return fault("tls_cert", "a certificate and its key go together: give tls_cert and tls_key, or neither")
	case c.DataDir == "":
		return fault("data_dir", "a node needs a directory of its own")
	case c.BootPort < 1 || c.BootPort > 65535:
		return fault("boot_port", "%d is no port", c.BootPort)
	case c.ReleaseAfter < 0:
		return fault("release_after", "a time cannot be negative")
	case c.CopyLimit < 0 || c.CopyLimit > 100_000:
		return fault("copy_limit", "%d is no number of megabytes a second; write 100, or 0 for no limit", c.CopyLimit)
	case c.Region == "" || c.Name == "":
		return fault("region", "a node needs a name and a region")
	}
	return nil
}

// FetchPrefixes are the networks of fetch_from, which Check has read already.
func (c Config) FetchPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range c.FetchFrom {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// checkCluster finds addresses by which no other node could reach this one.
func (c Config) checkCluster() error {
	host, _, err := splitAddress(c.ClusterListen)
	if err != nil {
		return &Error{Where: "cluster_listen", Text: err.Error()}
	}
	if c.ClusterAddress == "" {
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			return &Error{Where: "cluster_listen", Text: fmt.Sprintf("%s is every address of this host", c.ClusterListen),
				Hint: "say with cluster_address by which one other nodes reach this node"}
		}
		return nil
	}
	host, port, err := splitAddress(c.ClusterAddress)
	if err != nil {
		return &Error{Where: "cluster_address", Text: err.Error()}
	}
	if ip, err := netip.ParseAddr(host); host == "" || port == 0 || err == nil && ip.IsUnspecified() {
		return &Error{Where: "cluster_address", Text: fmt.Sprintf("nobody can reach a node at %s; write the address of one host and its port, as 10.0.0.1:4747", c.ClusterAddress)}
	}
	return nil
}

func splitAddress(address string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("%q is no address with a port; write it as 10.0.0.1:4747", address)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is no port", text)
	}
	return host, uint16(n), nil
}

// nearest is the candidate that takes the fewest edits, at most a third of the word.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/3+2
	for _, c := range candidates {
		if d := distance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is Levenshtein's: insertions, deletions and changes of one letter.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
