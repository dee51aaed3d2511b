package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/doctor"
	"github.com/lpmos/lpmos/netboot"
)

func TestWhatIsAsked(t *testing.T) {
	eno1 := doctor.Candidate{Name: "eno1", Address: netip.MustParsePrefix("192.168.1.5/24"), Default: true, Router: netip.MustParseAddr("192.168.1.1")}
	eno2 := doctor.Candidate{Name: "eno2", Address: netip.MustParsePrefix("10.0.0.1/24")}
	wifi := doctor.Candidate{Name: "wlp3s0", Address: netip.MustParsePrefix("192.168.2.5/24"), Why: "wireless: firmware boots over a cable"}
	other := []netboot.DHCPServer{{Addr: netip.MustParseAddr("192.168.1.1"), Card: "02:00:00:00:00:07", Lends: true}}
	for _, c := range []struct {
		name    string
		all     []doctor.Candidate
		servers []netboot.DHCPServer
		fault   error // of asking for them
		joins   bool
		hosts   []netip.Addr // that somebody has
		answers string       // a line each
		want    []config.Interface
		unasked bool   // there is nothing to choose from
		on      string // where packets were sent
		told    []string
		err     error
	}{
		{name: "one, and nobody else lends", all: []doctor.Candidate{eno2, wifi}, answers: "\n\n", on: "eno2",
			want: []config.Interface{{Name: "eno2", Mode: "dhcp", Range: "10.0.0.100-10.0.0.199"}},
			told: []string{"   1  eno2         10.0.0.1/24\n", "   -  wlp3s0       192.168.2.5/24     wireless: firmware boots over a cable\n",
				"Which one do the machines netboot on? Its number or name, or none [eno2]: ", "None does.", "What is this node to be there? [dhcp]: "}},
		{name: "one, beside another server", all: []doctor.Candidate{eno1}, servers: other, answers: "\n\n", on: "eno1",
			want: []config.Interface{{Name: "eno1", Mode: "proxy"}},
			told: []string{"192.168.1.5/24     the way out of this host leads over it\n", "192.168.1.1 (card 02:00:00:00:00:07) gives the addresses there.", "[proxy]: "}},
		{name: "one, beside what may be a node of the cluster", all: []doctor.Candidate{eno1}, servers: other, joins: true, answers: "\n\ndhcp 192.168.1.50-192.168.1.99\n", on: "eno1",
			want: []config.Interface{{Name: "eno1", Mode: "dhcp", Range: "192.168.1.50-192.168.1.99", Router: "192.168.1.1"}},
			told: []string{"If that is a node of the cluster this one joins, answer dhcp", "What is this node to be there?: "}},
		{name: "two: none is proposed", all: []doctor.Candidate{eno1, eno2}, answers: "\n2\nproxy\n", on: "eno2",
			want: []config.Interface{{Name: "eno2", Mode: "proxy"}}, told: []string{"or none: Which one"}},
		{name: "by name", all: []doctor.Candidate{eno1, eno2}, answers: "eno1\ndhcp\n", on: "eno1",
			want: []config.Interface{{Name: "eno1", Mode: "dhcp", Range: "192.168.1.100-192.168.1.199", Router: "192.168.1.1"}}},
		{name: "another range", all: []doctor.Candidate{eno2}, answers: "1\n dhcp   10.0.0.10-10.0.0.20 \n", on: "eno2",
			want: []config.Interface{{Name: "eno2", Mode: "dhcp", Range: "10.0.0.10-10.0.0.20"}}},
		{name: "a range of another network, then none, then one", all: []doctor.Candidate{eno2}, answers: "1\ndhcp 10.9.0.10-10.9.0.20\ndhcp x\nproxy\n", on: "eno2",
			want: []config.Interface{{Name: "eno2", Mode: "proxy"}}, told: []string{"10.9.0.10-10.9.0.20 does not lie in 10.0.0.0/24", "want FIRST-LAST"}},
		{name: "somebody has an address of the range", all: []doctor.Candidate{eno2}, answers: "\n\n", on: "eno2", hosts: []netip.Addr{netip.MustParseAddr("10.0.0.110"), netip.MustParseAddr("10.0.0.150")},
			want: []config.Interface{{Name: "eno2", Mode: "dhcp", Range: "10.0.0.151-10.0.0.199"}},
			told: []string{"2 of 10.0.0.100-10.0.0.199 are somebody's already, 10.0.0.110 for instance.", "and give 10.0.0.151-10.0.0.199 ("}},
		{name: "no room is left in a small network", all: []doctor.Candidate{{Name: "eno3", Address: netip.MustParsePrefix("10.0.0.1/29")}}, answers: "\ndhcp\ndhcp 10.0.0.2-10.0.0.3\n", on: "eno3",
			hosts: []netip.Addr{netip.MustParseAddr("10.0.0.4"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")},
			want:  []config.Interface{{Name: "eno3", Mode: "dhcp", Range: "10.0.0.2-10.0.0.3"}}, told: []string{"write dhcp FIRST-LAST, the addresses to give", "[proxy]: "}},
		{name: "none", all: []doctor.Candidate{eno1, eno2}, answers: "none\n"},
		{name: "nothing to choose from", all: []doctor.Candidate{wifi}, unasked: true, told: []string{"None of them can be served as it is"}},
		{name: "it cannot be found out", all: []doctor.Candidate{eno2}, fault: errors.New("operation not permitted"), answers: "\n\n", on: "eno2",
			want: []config.Interface{{Name: "eno2", Mode: "proxy"}}, told: []string{"That could not be found out: operation not permitted."}},
		{name: "what cannot be served is no answer", all: []doctor.Candidate{eno2, wifi}, answers: "2\nwlp3s0\n0\n", err: errNoAnswer},
		{name: "the terminal is gone", all: []doctor.Candidate{eno2}, answers: "", err: errNoAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			on := ""
			in := strings.NewReader(c.answers)
			a := asker{out: &out, joins: c.joins,
				read:       func(context.Context) (string, error) { return lineOf(in) },
				candidates: func() ([]doctor.Candidate, error) { return c.all, nil },
				servers: func(_ context.Context, name string) ([]netboot.DHCPServer, error) {
					on += name
					return c.servers, c.fault
				},
				hosts: func(_ context.Context, name string, _ netboot.Range) ([]netip.Addr, error) {
					if name != c.on {
						t.Errorf("who has addresses on %s was asked", name)
					}
					return c.hosts, nil
				}}
			got, answered, err := a.ask(t.Context())
			if !errors.Is(err, c.err) {
				t.Fatalf("%v, want %v\n%s", err, c.err, out.String())
			}
			if on != c.on {
				t.Errorf("packets were sent on %q, want %q", on, c.on)
			}
			if c.err == nil && (answered == c.unasked || !reflect.DeepEqual(got, c.want)) {
				t.Errorf("%+v, answered %v; want %+v\n%s", got, answered, c.want, out.String())
			}
			for _, want := range c.told {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, out.String())
				}
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Error("there is colour where nobody wants it")
			}
			if in.Len() > 0 {
				t.Errorf("%d bytes of the answers were not read", in.Len())
			}
		})
	}
}

// lineOf reads one line and no further.
func lineOf(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := r.Read(b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return strings.TrimSpace(string(line)), nil
		}
		line = append(line, b[0])
	}
}
