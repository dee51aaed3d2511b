package netboot

import (
	"fmt"
	"sync"
	"time"
)

// UEFILoader is which loader UEFI firmware is given.
type UEFILoader string

// The choices. iPXE is quicker and says more, and Secure Boot does not let it start.
const (
	UEFILoaderAuto UEFILoader = "auto" // iPXE, and shim for who did not start it
	UEFILoaderIPXE UEFILoader = "ipxe"
	UEFILoaderShim UEFILoader = "shim" // Debian's signed shim and GRUB
)

// loaderStarts is how long after a loader was fetched it is known by its silence that
// the firmware has not started it. Later it may be another boot.
const loaderStarts = 15 * time.Minute

// maxLoaders bounds what made-up machines can make a node remember.
const maxLoaders = 4096

// loaders knows which machines do not start iPXE. Firmware does not say that Secure
// Boot is on, nor that it refused a loader: the machine fetches it and is heard next
// as firmware again.
type loaders struct {
	mu    sync.Mutex
	byMAC map[string]loading
}

// loading is what is known of one machine.
type loading struct {
	shim bool      // it is given shim
	took string    // the loader it fetched and has not been heard of from; empty: none
	at   time.Time // when
}

// asks is called when a machine's firmware asks for a loader. It reports whether the
// machine gets shim, and which loader it has fetched by PXE in vain since it asked last.
func (l *loaders) asks(mac string, now time.Time) (shim bool, vain string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, known := l.byMAC[mac]
	if !known || m.took == "" {
		return m.shim, ""
	}
	if now.Sub(m.at) < loaderStarts {
		vain = m.took
		m.shim = !isShim(m.took)
	}
	m.took = ""
	l.byMAC[mac] = m
	return m.shim, vain
}

// fetched is called when a machine has a whole file.
func (l *loaders) fetched(mac, file string, now time.Time) {
	// GRUB is for arm64 what iPXE is for others. Where shim has fetched it, it says that
	// shim has started.
	if mac == "" || file != LoaderUEFI && file != LoaderGRUBARM64 && !isShim(file) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	m, known := l.byMAC[mac]
	if !known && len(l.byMAC) >= maxLoaders {
		for any := range l.byMAC {
			delete(l.byMAC, any)
			break
		}
	}
	if l.byMAC == nil {
		l.byMAC = map[string]loading{}
	}
	m.took, m.at = file, now
	l.byMAC[mac] = m
}

// runs is called when a machine is heard of from its loader.
func (l *loaders) runs(mac string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, known := l.byMAC[mac]
	switch {
	case !known:
	case !m.shim:
		delete(l.byMAC, mac) // as any other machine
	default:
		m.took = ""
		l.byMAC[mac] = m
	}
}

// refused is what the timeline says of a loader that was fetched in vain.
func refused(file string) string {
	shim := LoaderShim
	switch file {
	case LoaderShim:
		return fmt.Sprintf("fetched %s and did not start it; it is given iPXE again", file)
	case LoaderShimARM64:
		return fmt.Sprintf("fetched %s and did not start it; it is given %s again", file, LoaderGRUBARM64)
	case LoaderGRUBARM64:
		shim = LoaderShimARM64
	}
	return fmt.Sprintf("fetched %s and did not start it: does Secure Boot refuse it? By PXE it is given %s from now on, which is signed", file, shim)
}
