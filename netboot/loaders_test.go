package netboot

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestALoaderThatIsNotStartedIsKnownByItsSilence(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name  string
		story []string // what happens, in this order
		shim  bool     // what firmware that asks after it is given
		vain  string
	}{
		{"nothing has happened", nil, false, ""},
		{"firmware asks twice in one boot", []string{"asks", "asks"}, false, ""},
		{"it took iPXE and asks again", []string{"asks", LoaderUEFI}, true, LoaderUEFI},
		{"the same, and its REQUEST", []string{"asks", LoaderUEFI, "asks"}, true, ""},
		{"it took iPXE, which ran", []string{"asks", LoaderUEFI, "runs"}, false, ""},
		{"it took iPXE and was without power for an hour", []string{"asks", LoaderUEFI, "an hour"}, false, ""},
		{"it took shim, which ran", []string{LoaderUEFI, "asks", LoaderShim, "runs"}, true, ""},
		{"it starts neither", []string{LoaderUEFI, "asks", LoaderShim}, false, LoaderShim},
		{"it took what is no loader of UEFI's", []string{LoaderBIOS}, false, ""},
		{"it took GRUB, which is all there is for arm64", []string{"asks", LoaderGRUBARM64}, true, LoaderGRUBARM64},
		{"it took GRUB, which ran", []string{"asks", LoaderGRUBARM64, "runs"}, false, ""},
		{"it took shim for arm64, and shim took GRUB, which ran", []string{LoaderGRUBARM64, "asks", LoaderShimARM64, LoaderGRUBARM64, "runs"}, true, ""},
		{"it starts neither of arm64's", []string{LoaderGRUBARM64, "asks", LoaderShimARM64}, false, LoaderShimARM64},
	} {
		var l loaders
		now := now
		for _, what := range c.story {
			switch what {
			case "asks":
				l.asks(macA, false, now)
			case "runs":
				l.runs(macA)
			case "an hour":
				now = now.Add(time.Hour)
			default:
				l.fetched(macA, what, now)
			}
			now = now.Add(time.Second)
		}
		if shim, vain := l.asks(macA, false, now); shim != c.shim || vain != c.vain {
			t.Errorf("%s: shim %v, in vain %q; want %v, %q", c.name, shim, vain, c.shim, c.vain)
		}
	}
}

func TestMadeUpMachinesDoNotFillTheMemoryOfLoaders(t *testing.T) {
	var l loaders
	for i := range maxLoaders + 100 {
		l.fetched(fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255), LoaderUEFI, time.Unix(1, 0))
	}
	if len(l.byMAC) > maxLoaders {
		t.Errorf("%d machines are remembered", len(l.byMAC))
	}
}

func TestWhomSecureBootKeepsFromIPXEIsGivenShim(t *testing.T) {
	for _, c := range []struct {
		choice UEFILoader
		action Action
		before string // what it fetched in vain
		arch   string
		want   string
		secure bool // its agent reported Secure Boot once, maybe to another node
	}{
		{"", BootAgent, "", "PXEClient:Arch:00007:UNDI:003016", LoaderUEFI, false},
		{UEFILoaderAuto, BootAgent, LoaderUEFI, "PXEClient:Arch:00007:UNDI:003016", LoaderShim, false},
		{UEFILoaderAuto, BootHold, LoaderUEFI, "PXEClient:Arch:00007:UNDI:003016", LoaderShim, false},
		{UEFILoaderAuto, BootLocal, LoaderUEFI, "PXEClient:Arch:00007:UNDI:003016", LoaderNone, false},
		{UEFILoaderAuto, BootAgent, LoaderUEFI, "HTTPClient:Arch:00016:UNDI:003016", "http://10.77.0.1/boot/" + LoaderNone, false},
		{UEFILoaderAuto, BootAgent, "", "HTTPClient:Arch:00016:UNDI:003016", "http://10.77.0.1/boot/" + LoaderUEFI, false},
		{UEFILoaderIPXE, BootAgent, LoaderUEFI, "PXEClient:Arch:00007:UNDI:003016", LoaderUEFI, false},
		{UEFILoaderShim, BootAgent, "", "PXEClient:Arch:00007:UNDI:003016", LoaderShim, false},
		{UEFILoaderShim, BootLocal, "", "PXEClient:Arch:00007:UNDI:003016", LoaderNone, false},
		{UEFILoaderShim, BootAgent, "", "PXEClient:Arch:00000:UNDI:002001", LoaderBIOS, false},
		{UEFILoaderAuto, BootAgent, "", "PXEClient:Arch:00007:UNDI:003016", LoaderShim, true},
		{UEFILoaderAuto, BootAgent, LoaderShim, "PXEClient:Arch:00007:UNDI:003016", LoaderUEFI, true}, // it has keys of its own?
		{UEFILoaderAuto, BootLocal, "", "PXEClient:Arch:00007:UNDI:003016", LoaderNone, true},
		{UEFILoaderIPXE, BootAgent, "", "PXEClient:Arch:00007:UNDI:003016", LoaderUEFI, true},
		{UEFILoaderDrivers, BootAgent, "", "PXEClient:Arch:00007:UNDI:003016", LoaderUEFIAll, true},
		{UEFILoaderDrivers, BootAgent, "", "HTTPClient:Arch:00016:UNDI:003016", "http://10.77.0.1/boot/" + LoaderUEFIAll, false},
		{UEFILoaderDrivers, BootAgent, "", "PXEClient:Arch:00000:UNDI:002001", LoaderBIOS, false},
		{"", BootAgent, "", "PXEClient:Arch:00011:UNDI:003016", LoaderGRUBARM64, false},
		{"", BootHold, "", "PXEClient:Arch:00011:UNDI:003016", LoaderGRUBARM64, false},
		{"", BootLocal, "", "PXEClient:Arch:00011:UNDI:003016", LoaderNone, false},
		{"", BootAgent, LoaderGRUBARM64, "PXEClient:Arch:00011:UNDI:003016", LoaderShimARM64, false},
		{"", BootLocal, LoaderGRUBARM64, "PXEClient:Arch:00011:UNDI:003016", LoaderNone, false},
		{UEFILoaderIPXE, BootAgent, LoaderGRUBARM64, "PXEClient:Arch:00011:UNDI:003016", LoaderGRUBARM64, false},
		{UEFILoaderIPXE, BootLocal, "", "PXEClient:Arch:00011:UNDI:003016", LoaderNone, false},
		{UEFILoaderShim, BootAgent, "", "PXEClient:Arch:00011:UNDI:003016", LoaderShimARM64, false},
		{"", BootAgent, "", "HTTPClient:Arch:00019:UNDI:003016", "http://10.77.0.1/boot/" + LoaderNone, false},
		{UEFILoaderAuto, BootAgent, "", "PXEClient:Arch:00011:UNDI:003016", LoaderShimARM64, true},
	} {
		s := newSetup(t, ModeDHCP)
		s.cfg.UEFILoader = c.choice
		s.fleet.boots(macA, Decision{Action: c.action, SecureBoot: c.secure})
		if c.before != "" {
			s.loaders.fetched(macA, c.before, s.cfg.Now())
		}
		reply, _ := s.ask(t, packet{kind: discover, opts: map[uint8][]byte{60: []byte(c.arch)}})
		if got := reply.BootFileName; got != c.want {
			t.Errorf("%q, %s, %s after %q: given %q, want %q", c.choice, c.action, c.arch, c.before, got, c.want)
		}
	}
}

// What is over TFTP for GRUB is for the machine and the address it was made for.
func TestAScriptForGRUBIsItsMachines(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.cfg.Neighbours = &beside{urls: []string{"https://10.77.0.2:80"}}
	s.fleet.boots(macA, Decision{Action: BootAgent, Reason: "a task waits"})
	tf := s.tftp(s.link)
	at, other := netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.101")
	if loop := readTFTP(t, tf, grubFirst, at); !strings.Contains(loop, "(tftp,10.77.0.1)/"+grubBegin) {
		t.Fatalf("GRUB begins with\n%s", loop)
	}
	stub := readTFTP(t, tf, grubBegin, at)
	_, path, _ := strings.Cut(stub, `source "(tftp,10.77.0.1)/`)
	path, _, _ = strings.Cut(path, `"`)
	path = strings.NewReplacer("${net_default_mac}", macA, "${uuid}", "").Replace(path)
	got := readTFTP(t, tf, path, at)
	first, second := strings.Index(got, "linux (tftp,10.77.0.1)/vmlinuz"), strings.Index(got, "linux (tftp,10.77.0.2)/vmlinuz")
	if first < 0 || second < first || !strings.Contains(got, "lpmos.claim=claim-") {
		t.Errorf("its own script is\n%s", got)
	}
	if got := readTFTP(t, tf, path, other); got != "" {
		t.Errorf("another address got\n%s", got)
	}
	s.pass(time.Hour)
	if got := readTFTP(t, tf, path, at); got != "" {
		t.Errorf("an hour later it got\n%s", got)
	}
}

// readTFTP is the whole of a file over TFTP; empty when there is none.
func readTFTP(t *testing.T, tf *tftpServer, name string, from netip.Addr) string {
	t.Helper()
	f, _, ok := tf.find(name, from)
	if !ok {
		return ""
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
