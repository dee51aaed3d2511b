package doctor

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/netboot"
)

func TestWhichInterfacesCanBeServed(t *testing.T) {
	o := newOffice(t)
	for _, line := range []string{
		"link add docker0 type bridge", "link set docker0 up", "address add 172.17.0.1/16 dev docker0",
		"link add br0 type bridge", "link set br0 up", "address add 10.5.0.1/24 dev br0",
		"link add port0 type veth peer name port1", "link set port0 master br0 up", "link set port1 up",
		"link add off0 type veth peer name off1", "address add 10.7.0.1/24 dev off0",
		"tuntap add dev tun0 mode tun", "link set tun0 up",
		"link add wlp3s0 type veth peer name air0", "link set wlp3s0 up", "link set air0 up",
		"link add pair0 type veth peer name pair1", "link set pair0 up", "link set pair1 up", "address add 10.8.0.1/30 dev pair0", "address add 169.254.3.4/16 dev pair1",
		"route add default via 10.77.0.2",
	} {
		o.run(append([]string{"ip"}, strings.Fields(line)...)...)
	}
	defer func() {
		for _, name := range []string{"docker0", "br0", "port0", "off0", "tun0", "wlp3s0", "pair0"} {
			o.run("ip", "link", "del", name)
		}
	}()
	o.carrier("br0")
	got, err := Candidates()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"eth0": "", "br0": "",
		"docker0": "made by containers", "port0": "a part of br0", "off0": "switched off", "off1": "switched off",
		"tun0": "a tunnel", "wlp3s0": "wireless", "air0": "no IPv4 address", "port1": "no IPv4 address",
		"pair0": "a network of two", "pair1": "made up",
	}
	seen := map[string]bool{}
	fits := true
	for _, c := range got {
		why, known := want[c.Name]
		if !known {
			if !strings.Contains("sit0 tunl0 gre0 gretap0 erspan0 ip6tnl0 ip6gre0 ip_vti0 ip6_vti0", c.Name) {
				t.Errorf("there is %s: %s", c.Name, c.Why)
			}
			continue
		}
		seen[c.Name] = true
		if why == "" != (c.Why == "") || !strings.Contains(c.Why, why) {
			t.Errorf("%s: %q, want %q", c.Name, c.Why, why)
		}
		if c.Why == "" && !fits {
			t.Errorf("%s comes after one that does not fit", c.Name)
		}
		fits = c.Why == ""
		if c.Name == "eth0" && (!c.Default || c.Router.String() != "10.77.0.2" || c.Address.String() != "10.77.0.1/24") {
			t.Errorf("%+v", c)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("only %v are there", seen)
	}
}

func TestFreeRanges(t *testing.T) {
	r, err := netboot.ParseRange("10.0.0.100-10.0.0.109")
	if err != nil {
		t.Fatal(err)
	}
	for taken, want := range map[string]string{
		"":                                "10.0.0.100-10.0.0.109",
		"10.0.0.99 10.0.0.110 10.0.1.100": "10.0.0.100-10.0.0.109",
		"10.0.0.100":                      "10.0.0.101-10.0.0.109",
		"10.0.0.109":                      "10.0.0.100-10.0.0.108",
		"10.0.0.103 10.0.0.104":           "10.0.0.105-10.0.0.109",
		"10.0.0.107 10.0.0.102":           "10.0.0.103-10.0.0.106",
		"10.0.0.100 10.0.0.101 10.0.0.102 10.0.0.103 10.0.0.104 10.0.0.105 10.0.0.106 10.0.0.107 10.0.0.108 10.0.0.109": "",
	} {
		var all []netip.Addr
		for _, a := range strings.Fields(taken) {
			all = append(all, netip.MustParseAddr(a))
		}
		if got := ProposeFree(r, all).String(); got != want {
			t.Errorf("without %s: %s, want %s", taken, got, want)
		}
	}
}

// Who has an address of a range is found on a real wire.
func TestHostsOfARange(t *testing.T) {
	o := newOffice(t)
	for _, a := range []string{"10.77.0.103/24", "10.77.0.150/24", "10.77.0.200/24"} {
		o.there("ip", "address", "add", a, "dev", "far0")
	}
	r, err := netboot.ParseRange("10.77.0.1-10.77.0.199")
	if err != nil {
		t.Fatal(err)
	}
	// The other end may be deaf a moment after it was plugged in.
	for {
		got, err := netboot.FindHosts(t.Context(), "eth0", r, 300*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			continue
		}
		if fmt.Sprint(got) != "[10.77.0.2 10.77.0.103 10.77.0.150]" {
			t.Errorf("found %v", got)
		}
		return
	}
}

func TestProposedRanges(t *testing.T) {
	for own, want := range map[string]string{
		"10.0.0.1/24":      "10.0.0.100-10.0.0.199",
		"10.1.2.3/8":       "10.1.2.100-10.1.2.199",
		"192.168.7.130/25": "192.168.7.192-192.168.7.254",
		"10.0.0.18/28":     "10.0.0.24-10.0.0.30",
		"10.0.0.1/29":      "10.0.0.4-10.0.0.6",
		"10.0.0.1/30":      "",
		"fd00::1/64":       "",
	} {
		got, ok := ProposeRange(netip.MustParsePrefix(own))
		if got.String() != want || ok != (want != "") {
			t.Errorf("%s: %s, %v, want %s", own, got, ok, want)
		}
		if ok && (!netip.MustParsePrefix(own).Masked().Contains(got.First) || !netip.MustParsePrefix(own).Masked().Contains(got.Last)) {
			t.Errorf("%s: %s is not in it", own, got)
		}
	}
}
