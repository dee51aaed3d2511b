package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/confine"
	"github.com/lpmos/lpmos/appliance/systemd"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/images/bootimage"
	"golang.org/x/sys/unix"
)

// Host is what is examined: this host, and what a node on it is told to be.
type Host struct {
	Config    config.Config
	ConfigErr error  // why there is no configuration
	File      string // that it was read from; empty: none was
	Version   string // of this binary

	BootFiles fs.FS
	Now       func() time.Time
	Inner     []string      // arguments with which this program is a process of the self-test
	Listen    time.Duration // for other DHCP servers, on each interface
	// Inside says that this is the node itself, which has its ports open, starts no
	// programs and is not root.
	Inside bool
	// CheckDir refuses a data directory that a node would not give to its user.
	CheckDir func(dir string) error

	node *running // the node that runs here, as soon as it was looked for
}

// Checks are all of them, in their tree.
func Checks(h *Host) []Check {
	h.node = &running{}
	return []Check{
		{ID: "configuration", Look: h.configuration, Under: append([]Check{
			{ID: "node", Look: h.lookForNode, Under: []Check{
				{ID: "cluster", Look: h.cluster},
				{ID: "alarms", Look: h.alarms},
			}},
			{ID: "privileges", Look: h.privileges},
			{ID: "clock", Look: h.clock},
			{ID: "data-dir", Look: h.dataDir, Under: []Check{
				{ID: "data-owner", Look: h.dataOwner},
				{ID: "data-space", Look: h.dataSpace, Under: []Check{
					{ID: "data-sync", Look: h.dataSync},
				}},
				{ID: "images", Look: h.imageStore},
				{ID: "certificates", Look: h.certificates},
			}},
			{ID: "tls-certificate", Look: h.tlsCertificate},
			{ID: "port-dashboard", Look: h.portDashboard},
			{ID: "port-cluster", Look: h.portCluster},
		}, h.interfaces()...)},
		{ID: "boot-image", Look: h.bootImage, Under: []Check{h.selfTest()}},
		{ID: "bmc", Look: func(context.Context) Finding {
			return skip("this version switches no machine on by itself: press its power button")
		}},
		{ID: "service", Look: h.service},
	}
}

func ok(format string, args ...any) Finding {
	return Finding{Verdict: OK, Reason: fmt.Sprintf(format, args...)}
}

func skip(format string, args ...any) Finding {
	return Finding{Verdict: Skip, Reason: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Finding {
	return Finding{Verdict: Warn, Reason: fmt.Sprintf(format, args...), Fix: fix}
}

func fail(fix, format string, args ...any) Finding {
	return Finding{Verdict: Fail, Reason: fmt.Sprintf(format, args...), Fix: fix}
}

func (h *Host) configuration(context.Context) Finding {
	if h.ConfigErr != nil {
		f := fail("", "%v", h.ConfigErr)
		var fault *config.Error
		switch {
		case errors.As(h.ConfigErr, &fault) && fault.Hint != "":
			f.Fix = fault.Hint
		case h.File != "":
			f.Fix = "edit " + h.File + " (lpmos config reference prints every key)"
		default:
			f.Fix = "lpmos config reference prints every key"
		}
		return f
	}
	from := "read from flags, variables and defaults, since no file was named"
	switch {
	case h.Inside:
		from = "it is what this node was started with"
	case h.File != "":
		from = "read from " + h.File
	}
	if len(h.Config.Interfaces) == 0 {
		return warn("sudo lpmos up asks which network to serve; or name one: --interface NAME,mode=proxy",
			"%s; no interface is named, so no machine is served", from)
	}
	return ok("%s", from)
}

// privileges says what the node here would be allowed, or is.
func (h *Host) privileges(context.Context) Finding {
	if h.node.pid != 0 {
		set, err := effective(h.node.pid)
		if err != nil {
			return skip("what the node may do cannot be read: %v", err)
		}
		if missing := missingCaps(set); missing != "" && len(h.Config.Interfaces) > 0 {
			return fail("start it as root, which it gives up by itself, or as the service that lpmos unit prints", "the node (process %d) has not got %s", h.node.pid, missing)
		}
		return ok("the node (process %d) may do what it has to", h.node.pid)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return skip("the capabilities of this process cannot be read: %v", err)
	}
	if missing := missingCaps(uint64(have[0].Effective)); missing != "" {
		return warn("sudo lpmos doctor", "this process is user %d without %s: a node started like it could open no port below 1024, and some checks are left out", os.Geteuid(), missing)
	}
	return ok("this process is user %d and may open every port", os.Geteuid())
}

// missingCaps names those of a node's capabilities that are not in the set.
func missingCaps(set uint64) string {
	names := map[int]string{unix.CAP_NET_BIND_SERVICE: "cap_net_bind_service", unix.CAP_NET_RAW: "cap_net_raw"}
	var missing []string
	for _, c := range confine.Kept {
		if set&(1<<c) == 0 {
			missing = append(missing, names[c])
		}
	}
	return strings.Join(missing, " and ")
}

// effective reads the capabilities of another process.
func effective(pid int) (set uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "\nCapEff:")
	if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%x", &set); err != nil {
		return 0, fmt.Errorf("process %d: its capabilities are not told", pid)
	}
	return set, nil
}

// oldest is a time that has been when this was written: no clock may be before it.
var oldest = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func (h *Host) clock(context.Context) Finding {
	const set = "sudo timedatectl set-ntp true"
	now := h.Now()
	if now.Before(oldest) {
		return fail(set, "this host believes it is %s, before this program was made: certificates and approvals go by the clock", now.UTC().Format("2006-01-02 15:04"))
	}
	if id, err := trust.Load(h.Config.DataDir); err == nil {
		if begins := id.Certificate().Leaf.NotBefore; now.Before(begins) {
			return fail(set, "this host believes it is %s, before its own certificate began (%s)", now.UTC().Format("2006-01-02 15:04"), begins.UTC().Format("2006-01-02"))
		}
	}
	for _, m := range h.node.others() {
		switch off := m.ClockOff; {
		case off > 60 || off < -60:
			return fail(set, "the clock of %s is %.0f s off this one: nodes that differ by more than a minute do not take each other's word", m.Name, off)
		case off > 2 || off < -2:
			return warn(set, "the clock of %s is %.1f s off this one", m.Name, off)
		}
	}
	it := "it is " + now.UTC().Format("2006-01-02 15:04:05 MST")
	var t unix.Timex // asked with no mode, so that nothing is set
	switch state, err := unix.Adjtimex(&t); {
	case err != nil: // the unit of a node forbids it even to ask
		return ok("%s; whether something keeps this clock right cannot be seen", it)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return warn(set, "%s, and nothing keeps this clock right", it)
	}
	return ok("%s, and the clock is kept right", it)
}

func (h *Host) bootImage(context.Context) Finding {
	if err := bootimage.Damage(h.BootFiles); err != nil {
		fix := "make boot-image build"
		if strings.Contains(err.Error(), "damaged") {
			fix = "take the binary anew from where it came, or make boot-image build"
		}
		return fail(fix, "%v", err)
	}
	const whole = "%d files are in this binary, each with the SHA-256 that was written down when it was made"
	if !bootimage.HasARM64(h.BootFiles) {
		return ok(whole+"; there is no agent for arm64 machines among them", len(bootimage.Names()))
	}
	return ok(whole, len(bootimage.Names())+len(bootimage.NamesARM64()))
}

func (h *Host) selfTest() Check {
	var t selfTested
	of := func(shape, firmware string) func(context.Context) Finding {
		return func(context.Context) Finding {
			if fault := t.Faults[shape]; fault != "" {
				return fail("this is a fault of this program: please report it with this line", "a machine with %s firmware in a network of its own: %s", firmware, fault)
			}
			return ok("a machine with %s firmware in a network of its own %s", firmware, t.Boots[shape])
		}
	}
	return Check{ID: "self-test",
		Look: func(ctx context.Context) Finding {
			if h.Inside {
				return skip("a node starts no programs; lpmos doctor on its host boots itself")
			}
			if t = selfTest(ctx, h.Inner); t.Broken != "" {
				return skip("no machine was booted to try: %s", t.Broken)
			}
			return ok("two machines that are not there were switched on, with this binary alone to boot off")
		},
		Under: []Check{
			{ID: "self-test-bios", Look: of("bios", "BIOS")},
			{ID: "self-test-uefi", Look: of("uefi", "UEFI")},
		}}
}

const unitFile = "/etc/systemd/system/lpmos.service"

func (h *Host) service(context.Context) Finding {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return skip("systemd does not run here")
	}
	b, err := os.ReadFile(unitFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skip("no node is a service here; lpmos unit prints one")
	case err != nil:
		return skip("%v", err)
	case string(b) != systemd.Unit:
		return warn("diff <(lpmos unit) "+unitFile, "%s is not the unit this version prints; that is well if you have changed it", unitFile)
	}
	return ok("%s is the unit this version prints", unitFile)
}
