package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kvmLimit is how long a kernel may take to say its first word under KVM. Real
// KVM needs half a second; some hosts offer a /dev/kvm on which guests hang.
const kvmLimit = 5 * time.Second

// accelerator decides between "kvm" and "tcg" and says why. The verdict of a
// trial boot is kept in dir: it takes seconds and a host does not change.
func accelerator(ctx context.Context, dir, kernel string) (accel, why string, err error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", "no usable /dev/kvm", nil
	}
	f.Close()
	if kernel == "" {
		return "tcg", "no kernel to try KVM with", nil
	}
	path := filepath.Join(dir, "kvm-probe")
	verdict, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		verdict, err = tryKVM(ctx, kernel)
		if err == nil {
			err = os.WriteFile(path, verdict, 0o644)
		}
	}
	if err != nil {
		return "", "", fmt.Errorf("kvm trial: %w", err)
	}
	if strings.TrimSpace(string(verdict)) == "works" {
		return "kvm", "a trial boot under KVM worked", nil
	}
	return "tcg", "a trial boot under KVM hung", nil
}

// tryKVM boots the kernel and returns "works" or "hangs".
func tryKVM(ctx context.Context, kernel string) ([]byte, error) {
	boots := kvmBoots(ctx, kernel)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err() // cut short: that says nothing about KVM
	case boots:
		return []byte("works"), nil
	}
	return []byte("hangs"), nil
}

// kvmBoots starts the kernel under KVM and waits for its banner.
func kvmBoots(ctx context.Context, kernel string) bool {
	ctx, cancel := context.WithTimeout(ctx, kvmLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemuProgram,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256",
		"-kernel", kernel, "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1", "-serial", "stdio")
	cmd.SysProcAttr = dieWithParent()
	banner := &waitFor{word: []byte("Linux version"), found: cancel}
	cmd.Stdout = banner
	if bear(cmd) == nil {
		_ = cmd.Wait() // it never ends well: it is killed, or it panics for want of a root
	}
	return banner.seen
}

// waitFor looks for a word in what is written to it.
type waitFor struct {
	word  []byte
	found func()
	tail  []byte
	seen  bool
}

func (w *waitFor) Write(p []byte) (int, error) {
	w.tail = append(w.tail, p...)
	if !w.seen && bytes.Contains(w.tail, w.word) {
		w.seen = true
		w.found()
	}
	if keep := len(w.word); len(w.tail) > keep {
		w.tail = append(w.tail[:0], w.tail[len(w.tail)-keep:]...)
	}
	return len(p), nil
}
