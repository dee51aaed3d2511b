package boot

import (
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// stuckAfter is how long a console may keep a line waiting: a serial line whose
// other end has stopped the flow must not stop an install.
const stuckAfter = time.Second

// Consoles writes to every console the kernel writes to, the screen and the
// serial line alike, and to the kernel's log. /dev/console alone is only the
// last one named on the command line.
func Consoles() io.Writer {
	var c consoles
	list, _ := os.ReadFile("/proc/consoles")
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) > 0 {
			c.open("/dev/" + f[0])
		}
	}
	if len(c) == 0 {
		c.open("/dev/console")
	}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		return io.MultiWriter(c, kernelLog{f})
	}
	return c
}

// consoles are terminals; one that fails does not silence the others.
type consoles []*os.File

func (c *consoles) open(name string) {
	if f, err := os.OpenFile(name, os.O_WRONLY|syscall.O_NOCTTY, 0); err == nil {
		*c = append(*c, f)
	}
}

// Write never fails: there is nowhere to say so.
func (c consoles) Write(b []byte) (int, error) {
	for _, f := range c {
		_ = f.SetWriteDeadline(time.Now().Add(stuckAfter))
		_, _ = f.Write(b)
	}
	return len(b), nil
}

// kernelLog writes each line as a record of the kernel's log, at a level that is
// kept and not shown again on the consoles.
type kernelLog struct{ f *os.File }

// Write never fails, as the consoles.
func (k kernelLog) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			_, _ = k.f.WriteString("<6>lpmos-agent: " + line + "\n")
		}
	}
	return len(b), nil
}

// StandardFiles gives the first process /dev/console as standard input, output
// and error, so that a crash of the runtime is seen by somebody.
func StandardFiles() {
	f, err := os.OpenFile("/dev/console", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for fd := range 3 {
		_ = syscall.Dup3(int(f.Fd()), fd, 0) // Dup2 does not exist on arm64
	}
}
