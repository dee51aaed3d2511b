package chaos

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const apartEnv = "LPMOS_TEST_APART"

// apart runs the test again in a process with mounts of its own, where it may make
// small file systems, and reports whether this is the one outside.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(apartEnv) != "" {
		// Nothing of what is mounted here is seen outside.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return false
	}
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), apartEnv+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		again.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := again.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in a process of its own: %v", err)
	} else if bytes.Contains(out, []byte("--- SKIP: ")) {
		t.Skip("it was skipped in a process of its own")
	}
	return true
}

// onEach runs a test on file systems that tell of a full disk each in their own way.
func onEach(t *testing.T, test func(t *testing.T, kind string)) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			if _, err := os.Stat("/dev/loop-control"); kind == "ext4" && (err != nil || os.Getuid() != 0) {
				t.Skip("a file system in a file needs root and the loop device")
			}
			if !apart(t) {
				test(t, kind)
			}
		})
	}
}

// small mounts a file system of that many MiB over a new directory.
func small(t *testing.T, kind, dir string, mib int) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if kind == "tmpfs" {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
			t.Fatal(err)
		}
	} else {
		file := dir + ".img"
		for _, args := range [][]string{
			{"truncate", "-s", fmt.Sprintf("%dM", mib), file},
			{"mkfs." + kind, "-q", "-m", "0", file},
			{"mount", "-o", "loop", file, dir},
		} {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil && args[0] == "mount" {
				t.Skipf("no file system can be mounted here: %s", out)
			}
			if err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// fill takes all room of a file system; what it returns gives it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, piece := range []int{1 << 20, 64 << 10, 4 << 10} {
		b := make([]byte, piece)
		for {
			if _, err := f.Write(b); err != nil {
				break
			}
		}
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}
