package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/netboot"
)

// serve is netboot as a node has it, without the rest of the node. The boot files are
// mapped, as those in the node's binary are.
func serve(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("serve DIRECTORY-OF-FILES DATA-DIRECTORY")
	}
	files, err := netboot.LoadFiles(mapped(args[0]))
	if files == nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := netboot.New(netboot.Config{
		Interfaces: []netboot.Interface{{Name: serverDevice, Mode: netboot.ModeProxy}},
		DataDir:    args[1], BootPort: 80, Files: files, Fleet: nobody{}, Pin: "none", PathKey: [32]byte{1},
		Claim: func(string, netip.Addr) (string, error) { return "none", nil },
		Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Now: time.Now,
	})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// nobody is a fleet without machines.
type nobody struct{}

func (nobody) Decide(context.Context, netboot.Machine) netboot.Decision            { return netboot.Decision{} }
func (nobody) BootServed(context.Context, netboot.Machine, netboot.Decision) error { return nil }
func (nobody) Address(string) (netip.Addr, bool)                                   { return netip.Addr{}, false }
func (nobody) Taken(netip.Addr) bool                                               { return false }

// mapped is a directory whose files are mapped into memory.
type mapped string

func (m mapped) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	f, err := os.Open(filepath.Join(string(m), filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	return &mappedFile{File: f, b: b}, nil
}

type mappedFile struct {
	*os.File
	b []byte
}

func (f *mappedFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(f.b)) {
		return 0, fs.ErrInvalid
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
