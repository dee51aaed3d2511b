package consensustest

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

// firstPort lies below the ports that kernels hand out by themselves (32768
// and up on Linux, 49152 and up elsewhere).
const firstPort = 20000

var ports atomic.Int32

// Address is a TCP address of loopback that nobody has now and that stays
// free for who is to listen there later: a child that gets it on its command
// line, or a node that is started again. A port the kernel chose would not:
// between the choice and the use any process may be given it. So the host is
// one of this process alone, as far as 127.0.0.0/8 allows, and the port is
// none that kernels choose.
func Address(t testing.TB) string {
	t.Helper()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff)
	for range 1000 {
		address := fmt.Sprintf("%s:%d", host, firstPort+ports.Add(1))
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue // somebody who listens on all addresses, or another process's host
		}
		l.Close()
		return address
	}
	t.Fatalf("no port of %s is free", host)
	return ""
}
