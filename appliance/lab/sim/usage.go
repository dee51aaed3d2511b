package sim

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Usage is what a node took while the fleet booted.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	MaxRSS     int64   `json:"max_rss_bytes"`
}

// usage looks at the nodes' processes now and then: one that is killed takes its
// figures with it.
type usage struct {
	processes func(context.Context) map[string]int

	mu    sync.Mutex
	begun map[string]float64 // by name and process
	all   map[string]Usage
}

func newUsage(processes func(context.Context) map[string]int) *usage {
	return &usage{processes: processes, begun: map[string]float64{}, all: map[string]Usage{}}
}

// watch looks until ctx ends, and once more.
func (u *usage) watch(ctx context.Context) {
	if u.processes == nil {
		return
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	nodes := u.processes(ctx)
	for {
		u.look(nodes)
		select {
		case <-tick.C:
		case <-ctx.Done():
			u.look(nodes)
			return
		}
	}
}

func (u *usage) look(nodes map[string]int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for name, pid := range nodes {
		cpu, rss, err := process(pid)
		if err != nil {
			continue
		}
		if _, known := u.begun[name]; !known {
			u.begun[name] = cpu
		}
		was := u.all[name]
		u.all[name] = Usage{CPUSeconds: cpu - u.begun[name], MaxRSS: max(was.MaxRSS, rss)}
	}
}

func (u *usage) result() map[string]Usage {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.all
}

// ticks a second of /proc/PID/stat: the kernel says 100 to every program on the
// architectures that we run on (time(7)).
const ticks = 100

// process is what the kernel counts of a process: seconds of processor time, and bytes
// of memory now.
func process(pid int) (cpu float64, rss int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	return readStat(b)
}

// readStat reads proc_pid_stat(5): the name in brackets may hold anything.
func readStat(b []byte) (cpu float64, rss int64, err error) {
	at := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[at+1:]))
	if at < 0 || len(fields) < 22 {
		return 0, 0, fmt.Errorf("%d fields in a process's stat", len(fields))
	}
	var n [3]int64
	for i, place := range []int{11, 12, 21} { // utime, stime, rss in pages
		if n[i], err = strconv.ParseInt(fields[place], 10, 64); err != nil {
			return 0, 0, err
		}
	}
	return float64(n[0]+n[1]) / ticks, n[2] * int64(os.Getpagesize()), nil
}
