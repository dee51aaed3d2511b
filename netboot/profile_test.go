package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

// testProfiles hands a profile over once.
type testProfiles struct {
	profile Profile
	fail    error
	answers map[string]string // TOKEN/NAME → text
	files   map[string]string // digest → content

	mu    sync.Mutex
	taken int
	asked []string // NAME from ADDRESS at NODE
}

func (p *testProfiles) Take(_ context.Context, _ Machine, d Decision, _ netip.AddrPort) (Profile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken++; p.taken > 1 {
		return Profile{}, fmt.Errorf("wish %s was taken already", d.Wish.ID)
	}
	return p.profile, p.fail
}

func (p *testProfiles) Answer(token, name string, node netip.AddrPort, from netip.Addr) (string, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, fmt.Sprintf("%s from %s at %s", name, from, node))
	text, ok := p.answers[token+"/"+name]
	if !ok {
		return "", "", errors.New("no such answer")
	}
	return text, macA, nil
}

func (p *testProfiles) File(_ context.Context, digest string) (io.ReaderAt, int64, error) {
	if digest == "late" {
		return nil, 0, errors.New("no other node has it")
	}
	content, ok := p.files[digest]
	if !ok {
		return nil, 0, ErrNoBootFile
	}
	return strings.NewReader(content), int64(len(content)), nil
}

// asks has machine A be asked to boot the profile.
func (s *setup) asks(p Profile) *testProfiles {
	profiles := &testProfiles{profile: p, answers: map[string]string{}, files: map[string]string{}}
	s.cfg.Profiles = profiles
	s.fleet.boots(macA, Decision{Action: BootProfile, Name: "web1", Reason: "asked by ann, once", LocalDrive: 1, Wish: &Wish{ID: "b1", Profile: p.Name}})
	return profiles
}

func (s *setup) scriptOf(mac string) string {
	return s.get("GET", "/boot/"+s.path(mac)+"/script?mac="+mac+"&uuid=&platform=pcbios").Body.String()
}

const goldenProfileEnd = `:local
echo LPMOS: profile NAME could not be started; booting the disk
imgfree
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x81 || exit 1
`

func TestScriptsOfProfilesAreGolden(t *testing.T) {
	const arm = `iseq ${buildarch} arm64 && echo LPMOS: this profile is for x86-64 alone ||
iseq ${buildarch} arm64 && goto local ||
`
	for _, c := range []struct {
		profile Profile
		want    string
	}{
		{Profile{Name: "rescue", Kind: ProfileRescue}, "imgfree\n" + arm + `kernel http://10.77.0.1:80/boot/vmlinuz initrd=initrd0 initrd=initrd1 rdinit=/rescue console=tty0 console=ttyS0,115200 || goto local
initrd --name initrd0 http://10.77.0.1:80/boot/initrd || goto local
initrd --name initrd1 http://10.77.0.1:80/boot/rescue || goto local
boot || goto local
` + goldenProfileEnd},
		{Profile{Name: "memtest", Kind: ProfileMemtest}, "imgfree\n" + arm + `iseq ${platform} efi && goto uefi ||
kernel http://10.77.0.1:80/boot/memtest.bin console=ttyS0,115200 || goto local
boot || goto local
:uefi
kernel http://10.77.0.1:80/boot/memtest.efi console=ttyS0,115200 || goto local
boot || goto local
` + goldenProfileEnd},
		{Profile{Name: "d-i", Kind: ProfileKernel, Kernel: "http://10.77.0.1:80/boot/file/aa/linux", Initrds: []string{"http://10.77.0.1:80/boot/file/bb/initrd.gz"}, Args: "auto=true url=x"}, `imgfree
kernel http://10.77.0.1:80/boot/file/aa/linux initrd=initrd0 auto=true url=x || goto local
initrd --name initrd0 http://10.77.0.1:80/boot/file/bb/initrd.gz || goto local
boot || goto local
` + goldenProfileEnd},
		{Profile{Name: "tool", Kind: ProfileProgram, UEFI: "http://10.77.0.1:80/boot/file/cc/tool.efi"}, `imgfree
iseq ${platform} efi && goto uefi ||
echo LPMOS: this profile has no program for BIOS
goto local
:uefi
chain http://10.77.0.1:80/boot/file/cc/tool.efi || goto local
` + goldenProfileEnd},
		{Profile{Name: "own", Kind: ProfileScript, Script: "#!ipxe\nshell\n"}, "shell\n"},
	} {
		t.Run(c.profile.Name, func(t *testing.T) {
			s := newSetup(t, ModeDHCP)
			s.asks(c.profile)
			want := "#!ipxe\necho LPMOS: booting profile " + c.profile.Name + ", once. web1: profile " + c.profile.Name + ", asked by ann, once\n" + strings.ReplaceAll(c.want, "NAME", c.profile.Name)
			if got := s.scriptOf(macA); got != want {
				t.Errorf("the script is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAProfileIsServedOnce(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	p := s.asks(Profile{Name: "rescue", Kind: ProfileRescue})
	if got := s.get("HEAD", "/boot/"+s.path(macA)+"/script?mac="+macA); got.Code != 200 || p.taken != 0 {
		t.Fatalf("who only looks takes it: %d, %d times", got.Code, p.taken)
	}
	if got := s.scriptOf(macB); strings.Contains(got, "profile") || p.taken != 0 {
		t.Fatalf("another machine is told\n%s", got)
	}
	if got := s.scriptOf(macA); !strings.Contains(got, "rdinit=/rescue") {
		t.Fatalf("it is told\n%s", got)
	}
	if got := s.scriptOf(macA); !strings.HasPrefix(got, "#!ipxe\necho LPMOS: booting the disk. web1: not into profile rescue: wish b1 was taken already\n") {
		t.Errorf("the second time it is told\n%s", got)
	}
	told := ""
	for _, sg := range s.Sightings().Of(macA) {
		told += sg.Text + "\n"
	}
	if !strings.Contains(told, "was told to boot a profile, once: profile rescue, asked by ann, once") ||
		!strings.Contains(told, "was told to boot its own disk: not into profile rescue: wish b1 was taken already") {
		t.Errorf("its timeline says\n%s", told)
	}
}

// Nodes that cannot agree, a node without profiles and a loader that speaks GRUB's
// language leave the machine to its disk.
func TestAProfileThatCannotBeTakenLeavesTheDisk(t *testing.T) {
	for name, prepare := range map[string]func(s *setup){
		"no majority": func(s *setup) { s.asks(Profile{}).fail = errors.New("no majority") },
		"no profiles": func(s *setup) { s.asks(Profile{}); s.cfg.Profiles = nil },
		"no wish":     func(s *setup) { s.asks(Profile{}); s.fleet.boots(macA, Decision{Action: BootProfile}) },
	} {
		s := newSetup(t, ModeDHCP)
		prepare(s)
		if got := s.scriptOf(macA); !strings.Contains(got, "booting the disk") || strings.Contains(got, "kernel") {
			t.Errorf("%s: it is told\n%s", name, got)
		}
	}
	s := newSetup(t, ModeDHCP)
	p := s.asks(Profile{Name: "rescue", Kind: ProfileRescue})
	got, _, ok := s.scripts().of(t.Context(), grub{}, scriptAsk{node: netip.MustParseAddrPort("10.77.0.1:80"), from: netip.MustParseAddr("10.77.0.120"), path: s.path(macA), mac: macA})
	if !ok || !strings.Contains(got, "Secure Boot") || p.taken != 0 {
		t.Errorf("GRUB is told (%d taken)\n%s", p.taken, got)
	}
}

func TestAnswersAreForWhoHoldsTheToken(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	p := s.asks(Profile{})
	p.answers["t1/preseed.cfg"] = "d-i x\n"
	got := s.get("GET", "/boot/answer/t1/preseed.cfg")
	if got.Code != 200 || got.Body.String() != "d-i x\n" || got.Header().Get("Cache-Control") != "no-store" || p.asked[0] != "preseed.cfg from 10.77.0.120 at 10.77.0.1:80" {
		t.Errorf("%d %v %q, asked %q", got.Code, got.Header(), got.Body, p.asked)
	}
	for _, path := range []string{"t2/preseed.cfg", "t1/other", "t1/", "t1", "/", "", "t1/../t1/preseed.cfg"} {
		if got := s.get("GET", "/boot/answer/"+path); got.Code != 404 {
			t.Errorf("%s: %d %q", path, got.Code, got.Body)
		}
	}
	if got := s.get("POST", "/boot/answer/t1/preseed.cfg"); got.Code != 405 {
		t.Errorf("POST: %d", got.Code)
	}
	s.cfg.Profiles = nil
	if got := s.get("GET", "/boot/answer/t1/preseed.cfg"); got.Code != 404 {
		t.Errorf("without profiles: %d", got.Code)
	}
	for _, sg := range s.Sightings().Of(macA) {
		if strings.Contains(sg.Text+sg.File, "t1") {
			t.Errorf("its timeline tells the token: %q", sg.Text)
		}
	}
}

func TestFilesOfProfiles(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	p := s.asks(Profile{})
	p.files["aa"] = strings.Repeat("linux", 100_000)
	if got := s.get("GET", "/boot/file/aa/linux"); got.Code != 200 || got.Body.String() != p.files["aa"] || got.Header().Get("ETag") != `"aa-7a120"` {
		t.Errorf("%d, %d bytes, %v", got.Code, got.Body.Len(), got.Header())
	}
	if got := s.get("GET", "/boot/file/aa/linux", "Range", "bytes=5-9"); got.Code != 206 || got.Body.String() != "linux" {
		t.Errorf("a part: %d %q", got.Code, got.Body)
	}
	if got := s.get("HEAD", "/boot/file/aa/linux"); got.Code != 200 || got.Header().Get("Content-Length") != "500000" {
		t.Errorf("HEAD: %d %v", got.Code, got.Header())
	}
	for path, want := range map[string]int{"bb/linux": 404, "aa": 404, "aa/": 404, "aa/${x}": 404, "late/linux": http.StatusServiceUnavailable} {
		if got := s.get("GET", "/boot/file/"+path); got.Code != want {
			t.Errorf("%s: %d", path, got.Code)
		}
	}
}

// FuzzProfilePaths: nothing that is asked for below the profiles' paths is given but what
// is there, and nothing panics.
func FuzzProfilePaths(f *testing.F) {
	for _, s := range []string{"answer/t1/preseed.cfg", "answer//", "file/aa/linux", "file/", "answer/t1", "file/aa/../../x", "answer/%00/x"} {
		f.Add(s)
	}
	s := newSetup(f, ModeDHCP)
	p := s.asks(Profile{})
	p.answers["t1/preseed.cfg"], p.files["aa"] = "d-i x\n", "linux"
	f.Fuzz(func(t *testing.T, name string) {
		h := s.Handler().(*bootHTTP)
		for prefix, serve := range map[string]func(http.ResponseWriter, *http.Request, string){profileAnswers: h.answer, profileFiles: h.profileFile} {
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				continue
			}
			var got bytes.Buffer
			w := &recorded{header: http.Header{}, body: &got}
			serve(w, (&http.Request{Method: "GET", Header: http.Header{}, RemoteAddr: "10.77.0.120:5"}).WithContext(t.Context()), rest)
			if w.status == 200 && got.String() != "d-i x\n" && got.String() != "linux" {
				t.Errorf("%q gives %q", name, got.String())
			}
		}
	})
}

type recorded struct {
	header http.Header
	status int
	body   *bytes.Buffer
}

func (r *recorded) Header() http.Header { return r.header }

func (r *recorded) WriteHeader(status int) { r.status = status }

func (r *recorded) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = 200
	}
	return r.body.Write(b)
}

// Real firmware boots the profiles of every node, and the next time its own disk.
func TestRealFirmwareBootsAProfileOnce(t *testing.T) {
	if os.Getenv(qemuEnv) == "" {
		t.Skip("slow; set " + qemuEnv + "=1")
	}
	for _, c := range []struct {
		name    string
		machine qemu
		kind    ProfileKind
		serial  string
	}{
		{"bios into rescue", qemu{rom: true}, ProfileRescue, `(?s)LPMOS rescue: a shell in memory.*rescue:/# .*network: eth0 has address 10\.77\.0\.\d+`},
		{"uefi into rescue", qemu{uefi: true}, ProfileRescue, `(?s)LPMOS rescue: a shell in memory.*rescue:/# .*network: eth0 has address 10\.77\.0\.\d+`},
		{"bios into memtest", qemu{rom: true}, ProfileMemtest, `Memtest86\+ v6`},
		{"uefi into memtest", qemu{uefi: true}, ProfileMemtest, `Memtest86\+ v6`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			s := newSetup(t, ModeDHCP)
			s.cfg.Files = realFiles(t, FileRescue, FileMemtestBIOS, FileMemtestUEFI)
			s.cfg.Now = time.Now
			s.asks(Profile{Name: string(c.kind), Kind: c.kind})
			w.start(s)
			c.machine.mac, c.machine.disk = macA, biosDisk(t)
			own := "OWN DISK BOOTED"
			if c.machine.uefi {
				c.machine.disk, own = uefiDisk(t, c.machine), diskStarts
			}
			for _, want := range []string{c.serial, own} {
				console, off := w.power(c.machine)
				ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
				begin := time.Now()
				err := eventually(ctx, func() error { return consoleSays(console, want) })
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%q after %.1f s", want, time.Since(begin).Seconds())
				off()
			}
		})
	}
}

// moreFiles adds files of the assets' folder.
func moreFiles(t *testing.T, fsys fstest.MapFS, names ...string) {
	t.Helper()
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Getenv(kernelEnv)), name))
		if err != nil {
			t.Skip(err)
		}
		fsys[name] = &fstest.MapFile{Data: b}
	}
}
