package netboot

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// manyMachines is from how many machines on a network on what the kernel allows out of
// the box may not do.
const manyMachines = 500

// kernelLimits says what of the kernel's settings, which lie below root, is too small
// for as many machines as a link may lend addresses to, and how to change it. Nothing
// but the number of machines makes these show: some of them stay without an answer.
func kernelLimits(root string, l link) (short []string) {
	if l.Mode != ModeDHCP || !l.Range.First.Is4() {
		return nil
	}
	first, last := l.Range.First.As4(), l.Range.Last.As4()
	machines := int64(binary.BigEndian.Uint32(last[:])) - int64(binary.BigEndian.Uint32(first[:])) + 1
	if machines < manyMachines {
		return nil
	}
	read := func(name string) (n int64, ok bool) {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return 0, false
		}
		n, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		return n, err == nil
	}
	// A full table loses packets to machines that have been answered before, too, and
	// from half of it on the kernel throws entries out early.
	if n, ok := read("ipv4/neigh/default/gc_thresh3"); ok && n < 2*machines {
		short = append(short, fmt.Sprintf("it keeps the hardware addresses of %d neighbours at most, and this node lends %d addresses: sysctl -w net.ipv4.neigh.default.gc_thresh2=%d net.ipv4.neigh.default.gc_thresh3=%d",
			n, machines, machines, 2*machines))
	}
	if n, ok := read("core/rmem_max"); ok && n < waitingBytes {
		short = append(short, fmt.Sprintf("it lets %d bytes wait at a port, which a few hundred machines send at once: sysctl -w net.core.rmem_max=%d", n, waitingBytes))
	}
	return short
}
