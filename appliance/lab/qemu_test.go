package lab

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func differ(got, want any) string {
	if d := cmp.Diff(want, got); d != "" {
		return "(-want +got)\n" + d
	}
	return ""
}

// The command line of each kind of machine, one argument a line.
func TestQEMUCommandLine(t *testing.T) {
	tests := map[string]struct {
		o     Options
		accel string
	}{
		"bios":        {Options{}, "tcg"},
		"bios-kvm":    {Options{RTC: "1970-01-01", BMC: true}, "kvm"},
		"uefi-native": {Options{Firmware: []string{"uefi"}, NativePXE: true, DiskBus: "nvme"}, "tcg"},
		"ahci":        {Options{NIC: "e1000", Disks: 2, DiskBus: "ahci"}, "tcg"},
		"scsi":        {Options{NIC: "e1000e", Disks: 2, DiskBus: "scsi", MemoryMB: 512, CPUs: 4}, "tcg"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.o.Dir = "/rack"
			o, err := tt.o.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, strings.Join(qemuArgs(machines(o)[0], tt.accel), "\n")+"\n")
		})
	}
}

func TestNetworkCommands(t *testing.T) {
	golden(t, "network", strings.Join(networkCommands([]Machine{{Tap: "tap1"}, {Tap: "tap2"}}), "\n")+"\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := differ(strings.Split(got, "\n"), strings.Split(string(want), "\n")); diff != "" {
		t.Error(diff)
	}
}

// fakeQEMU answers on the other end of a QMP connection, line by line.
func fakeQEMU(t *testing.T, answer func(request map[string]any) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	go func() {
		defer theirs.Close()
		io.WriteString(theirs, `{"QMP": {"version": {}, "capabilities": []}}`)
		dec := json.NewDecoder(theirs)
		for {
			var request map[string]any
			if dec.Decode(&request) != nil {
				return
			}
			text := answer(request)
			if text == "" {
				return
			}
			if _, err := io.WriteString(theirs, text); err != nil {
				return
			}
		}
	}()
	return ours
}

func TestQMP(t *testing.T) {
	var seen []string
	conn := fakeQEMU(t, func(r map[string]any) string {
		id := r["id"]
		switch r["execute"] {
		case "qmp_capabilities":
			return fmt.Sprintf(`{"return": {}, "id": %v}`, id)
		case "echo":
			// An event and a stranger's answer come first.
			return fmt.Sprintf(`{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}}
				{"return": "late", "id": 77} {"return": %q, "id": %v}`, r["arguments"].(map[string]any)["say"], id)
		case "bad":
			return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no such thing"}, "id": %v}`, id)
		}
		return "" // hang up
	})
	q, err := newQMP(conn, func(name, reason string) { seen = append(seen, name+" "+reason) })
	if err != nil {
		t.Fatal(err)
	}
	defer q.close()
	answer, err := q.execute("echo", map[string]string{"say": "hello"})
	if err != nil || string(answer) != `"hello"` {
		t.Errorf("answer %s, %v, want hello", answer, err)
	}
	if len(seen) != 1 || seen[0] != "RESET guest-reset" {
		t.Errorf("events %q, want one reset", seen)
	}
	if _, err := q.execute("bad", nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("error %v, want QEMU's words", err)
	}
	if _, err := q.execute("quit", nil); !errors.Is(err, errQMPClosed) {
		t.Errorf("error %v, want to know that QEMU is gone", err)
	}
}

func TestQMPToADeadQEMU(t *testing.T) {
	ours, theirs := net.Pipe()
	theirs.Close()
	if _, err := newQMP(ours, func(string, string) {}); !errors.Is(err, errQMPClosed) {
		t.Errorf("error %v, want to know that QEMU is gone", err)
	}
}

func TestBannerIsFoundAcrossWrites(t *testing.T) {
	found := 0
	w := &waitFor{word: []byte("Linux version"), found: func() { found++ }}
	for _, part := range []string{"Lin", "ux ver", "sio", "n 6.1", " and Linux version again"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if !w.seen || found != 1 {
		t.Errorf("seen %v, told %d times, want once", w.seen, found)
	}
}
