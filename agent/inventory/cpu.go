package inventory

import (
	"slices"
	"strconv"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// cpu counts sockets, cores and threads in /sys, where each processor says which
// package and core it belongs to, and takes the rest from /proc/cpuinfo.
func (m machine) cpu() wire.CPU {
	c := wire.CPU{Arch: arch}
	sockets, cores := map[string]bool{}, map[string]bool{}
	const dir = "sys/devices/system/cpu"
	for _, name := range m.list(dir) {
		if !numbered(name, "cpu") {
			continue
		}
		topo := dir + "/" + name + "/topology/"
		socket, core := m.text(topo+"physical_package_id"), m.text(topo+"core_id")
		if socket == "" || core == "" {
			continue // offline
		}
		c.Threads++
		sockets[socket] = true
		cores[socket+"/"+m.text(topo+"die_id")+"/"+core] = true
	}
	c.Sockets, c.Cores = len(sockets), len(cores)
	for _, name := range m.list("sys/devices/system/node") {
		if numbered(name, "node") {
			c.NUMANodes++
		}
	}
	m.cpuinfo(&c)
	if khz := m.number(dir + "/cpu0/cpufreq/cpuinfo_max_freq"); khz > 0 {
		c.MHz = khz / 1000
	}
	return c
}

// cpuinfo reads the first processor's paragraph.
func (m machine) cpuinfo(c *wire.CPU) {
	for line := range strings.Lines(string(m.bytes("proc/cpuinfo", 16<<10))) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			if strings.TrimSpace(line) == "" && c.Flags != nil {
				return
			}
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "model name":
			c.Model = clean(value)
		case "microcode":
			c.Microcode = clean(value)
		case "cpu MHz":
			if f, err := strconv.ParseFloat(value, 64); err == nil && f > 0 && f < 1e6 {
				c.MHz = int(f)
			}
		case "flags", "Features":
			c.Flags = flags(value)
		}
	}
}

func flags(s string) []string {
	list := strings.Fields(s)
	if len(list) > maxFlags {
		list = list[:maxFlags]
	}
	for i := range list {
		list[i] = clean(list[i])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// memory takes the total from the kernel and the modules from SMBIOS.
func (m machine) memory(tables []structure) wire.Memory {
	mem := wire.Memory{DIMMs: dimms(tables)}
	for line := range strings.Lines(string(m.bytes("proc/meminfo", 4096))) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseUint(f[1], 10, 50)
			mem.TotalBytes = kb << 10
			break
		}
	}
	return mem
}

// numbered reports whether name is the prefix and a number.
func numbered(name, prefix string) bool {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok || digits == "" {
		return false
	}
	return strings.Trim(digits, "0123456789") == ""
}
