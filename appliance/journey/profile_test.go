//go:build journey

package journey

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/images/initramfs"
)

// ownInstaller is an installer as small as one can be: it fetches its answers, writes to
// the disk they name, reports and starts the machine anew.
const ownInstaller = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /etc /tmp
for pass in 1 2 3; do
  find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u | xargs modprobe -a -q -b 2>/dev/null
  sleep 1
done
ip link set eth0 up
udhcpc -n -q -t 20 -T 2 -i eth0 -s /usr/share/udhcpc/default.script
for word in $(cat /proc/cmdline); do
  case $word in answers=*) wget -O /tmp/answers "${word#answers=}" ;; esac
done
. /tmp/answers
for d in /sys/block/vd*; do
  if [ "$(cat "$d/serial")" = "${disk#/dev/disk/by-id/virtio-}" ] && [ $(($(cat "$d/size") * 512)) = "$bytes" ]; then
    echo "INSTALLER: $name writes ${d##*/}, which is $disk"
    echo "WRITTEN BY THE INSTALLER" | dd of="/dev/${d##*/}" bs=512 seek=2048 conv=notrunc 2>/dev/null
  fi
done
sync
wget -q -O /dev/null --post-data="hostname=$name" "$up" && echo "INSTALLER: reported"
sleep 1
reboot -f
`

const ownAnswers = "disk={{disk}}\nbytes={{disk_bytes}}\nname={{name}}\nup={{up}}\n"

// profiled is what of a machine's document is about profiles.
type profiled struct {
	ID        string
	Phase     string
	PhaseText string `json:"phase_text"`
	LastBoot  *struct {
		Profile, Disk string
		CameUp        *struct{ Hostname string } `json:"came_up"`
	} `json:"last_boot"`
}

// A machine is booted once into an installer that somebody has brought: it erases the disk
// that was approved and no other, reports, and no later netboot starts it again.
func TestAnInstallerOfOnesOwnIsBootedOnce(t *testing.T) {
	r := emptyRack(t, lab.Options{Machines: 1, Firmware: []string{"bios"}, Disks: 2})
	m := r.state().Machines[0]
	r.powerOn(m.Name)
	found := r.machineOf(m.MAC)
	const mark = "WRITTEN BY THE INSTALLER"
	other := hashFile(t, m.Disks[1].Path)

	var archive bytes.Buffer
	a := initramfs.New()
	a.File("install", 0o755, []byte(ownInstaller))
	if _, err := a.WriteTo(&archive); err != nil {
		t.Fatal(err)
	}
	assets := filepath.Join(repository(t), "images/bootimage/assets")
	profile := map[string]any{"name": "own", "kind": "kernel", "kernel": r.keepFile("vmlinuz", openFile(t, assets, "vmlinuz")),
		"initrds": []any{r.keepFile("initrd", openFile(t, assets, "initrd")), r.keepFile("rescue", openFile(t, assets, "rescue")), r.keepFile("install.cpio", &archive)},
		"args":    "rdinit=/install answers={{answers}}answers console=ttyS0,115200", "answers": []any{map[string]any{"name": "answers", "text": ownAnswers}}}
	if code, text := r.call("POST", "/api/v1/profiles", profile, nil); code != 201 {
		t.Fatalf("profile: %d %s", code, text)
	}

	var offer struct {
		PlanHash string `json:"plan_hash"`
		Confirm  string
		Problem  string
	}
	path := "/api/v1/machines/" + found.ID + "/boot"
	serial := found.Inventory.Disks[0].Serial
	if code, text := r.call("GET", path+"?profile=own&disk="+serial, nil, &offer); code != 200 || offer.PlanHash == "" {
		t.Fatalf("plan: %d %s", code, text)
	}
	before := r.lines(m.Name)
	if code, text := r.call("POST", path, map[string]any{"profile": "own", "disk": serial, "plan_hash": offer.PlanHash, "confirm_serial": offer.Confirm}, nil); code != 200 {
		t.Fatalf("ask: %d %s", code, text)
	}
	// The agent that waits looks once more, and has the machine start anew by itself.
	r.waitSerial(m.Name, "LPMOS: booting profile own, once", before)
	r.waitSerial(m.Name, "INSTALLER: .* writes vda, which is /dev/disk/by-id/virtio-"+serial, before)
	reported := r.waitSerial(m.Name, "INSTALLER: reported", before)
	var is profiled
	r.await("the machine is known to be installed", func() bool {
		code, _ := r.call("GET", "/api/v1/machines/"+found.ID, nil, &is)
		return code == 200 && is.LastBoot != nil && is.LastBoot.CameUp != nil
	})
	if is.Phase != "installed" || !strings.Contains(is.PhaseText, "was installed by profile own") || is.LastBoot.Disk != serial {
		t.Errorf("it is %+v", is)
	}
	for i := range 3 {
		line, from := r.lines(m.Name), len(r.console(m.Name))
		if i > 0 {
			r.do(r.c.PowerOff(r.ctx, m.Name))
			r.powerOn(m.Name)
		} else {
			line = reported.Line
		}
		r.waitSerial(m.Name, "LPMOS: booting the disk", line)
		if said := r.said(m.Name, from); strings.Contains(said, "booting profile") || strings.Contains(said, "starting the agent") {
			t.Errorf("netboot %d: it was told something else:\n%s", i+1, said)
		}
	}
	r.do(r.c.PowerOff(r.ctx, m.Name))
	disk := open(t, m.Disks[0].Path)
	defer disk.Close()
	got := make([]byte, len(mark))
	if _, err := disk.ReadAt(got, 2048*512); err != nil || string(got) != mark {
		t.Errorf("on the disk that was approved is %q (%v)", got, err)
	}
	if hashFile(t, m.Disks[1].Path) != other {
		t.Error("the other disk was written")
	}
	if _, text := r.call("GET", "/api/v1/audit?limit=50", nil, nil); !strings.Contains(text, "it was told to boot into profile own") {
		t.Errorf("the audit says %s", text)
	}
}

// keepFile sends a file for a profile.
func (r *rack) keepFile(name string, content io.Reader) any {
	r.t.Helper()
	res, err := by(r.Nodes()[0]).Post("http://localhost/api/v1/profile-files?name="+name, "application/octet-stream", content)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	return decodeFile(r.t, res)
}

func decodeFile(t *testing.T, res *http.Response) (f map[string]any) {
	t.Helper()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 201 {
		t.Fatalf("keep a file: %d %s (%v)", res.StatusCode, text, err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func openFile(t *testing.T, dir, name string) io.Reader {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}
