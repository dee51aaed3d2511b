package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tftpClient is one that fetches a file, as RFC 7440 section 4 has it.
type tftpClient struct {
	load      *tftpLoad
	fd        int
	connected bool
	block     int64 // the last that came in order
	size      int   // of a block
	window    int
	heard     int  // blocks of the window
	gap       bool // it has said that one is missing
	last      time.Time
	done      bool
}

// tftpLoad is one thread that is all clients, so that it takes little from the servers
// it shares the machine with.
type tftpLoad struct {
	want    []byte
	request []byte
	window  int
	delay   time.Duration
	in      [2048]byte
	result  tftpResult
	left    int
}

func loadTFTP(args []string) error {
	f := flag.NewFlagSet("load-tftp", flag.ContinueOnError)
	file := f.String("file", "", "what is fetched, and compared with")
	clients := f.Int("clients", 1, "how many fetch it at once, each from an address of its own")
	window := f.Int("window", 1, "window to ask for")
	delay := f.Duration("delay", 0, "how long everything the client sends takes")
	patience := f.Duration("patience", 10*time.Minute, "after which what is not there has failed")
	if err := f.Parse(args); err != nil {
		return err
	}
	want, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	l := &tftpLoad{want: want, window: *window, delay: *delay, left: *clients}
	l.request = fmt.Appendf(nil, "\x00\x01%s\x00octet\x00tsize\x000\x00blksize\x00%d\x00", filepath.Base(*file), tftpBlock)
	if *window > 1 {
		l.request = fmt.Appendf(l.request, "windowsize\x00%d\x00", *window)
	}
	if err := l.run(*clients, *patience); err != nil {
		l.result.Failed = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(l.result)
}

func (l *tftpLoad) run(n int, patience time.Duration) error {
	runtime.LockOSThread()
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	network, err := netip.ParsePrefix(clientNetwork)
	if err != nil {
		return err
	}
	clients := map[int32]*tftpClient{}
	addr := network.Addr()
	begin := time.Now()
	for range n {
		addr = addr.Next()
		c := &tftpClient{load: l, window: 1, size: 512, last: begin}
		if c.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err := unix.Bind(c.fd, &unix.SockaddrInet4{Addr: addr.As4()}); err != nil {
			return err
		}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}); err != nil {
			return err
		}
		clients[int32(c.fd)] = c
	}
	for _, c := range clients {
		if err := c.ask(); err != nil {
			return err
		}
	}
	var events [256]unix.EpollEvent
	looked := begin
	for l.left > 0 {
		came, err := unix.EpollWait(epoll, events[:], 100)
		if err != nil && err != unix.EINTR {
			return err
		}
		now := time.Now()
		for _, e := range events[:max(came, 0)] {
			if err := clients[e.Fd].read(now); err != nil {
				return err
			}
		}
		if now.Sub(looked) > 100*time.Millisecond {
			looked = now
			if now.Sub(begin) > patience {
				return fmt.Errorf("%d of %d have not got it within %v", l.left, n, patience)
			}
			for _, c := range clients {
				if err := c.hurry(now); err != nil {
					return err
				}
			}
		}
	}
	l.result.Took = time.Since(begin)
	l.result.Bytes = int64(n) * int64(len(l.want))
	l.result.LoadCPU = ownCPU()
	return nil
}

func (c *tftpClient) ask() error {
	time.Sleep(c.load.delay)
	addr, err := netip.ParseAddr(serverAddress)
	if err != nil {
		return err
	}
	return unix.Sendto(c.fd, c.load.request, 0, &unix.SockaddrInet4{Addr: addr.As4(), Port: 69})
}

// hurry repeats what was said when nothing has come for a second.
func (c *tftpClient) hurry(now time.Time) error {
	if c.done || now.Sub(c.last) < time.Second {
		return nil
	}
	c.last = now
	c.load.result.Resent++
	if !c.connected {
		return c.ask()
	}
	c.heard = 0
	return c.acknowledge()
}

func (c *tftpClient) acknowledge() error {
	if c.load.delay > 0 {
		time.Sleep(c.load.delay)
	}
	var b [4]byte
	binary.BigEndian.PutUint16(b[:], 4)
	binary.BigEndian.PutUint16(b[2:], uint16(c.block))
	_, err := unix.Write(c.fd, b[:])
	if err == unix.ECONNREFUSED && c.done {
		return nil
	}
	return err
}

// read takes what has come: all of a window.
func (c *tftpClient) read(now time.Time) error {
	in := c.load.in[:]
	for range max(1, c.window) {
		n := 0
		var err error
		if c.connected {
			n, err = unix.Read(c.fd, in)
		} else {
			var from unix.Sockaddr
			if n, from, err = unix.Recvfrom(c.fd, in, 0); err == nil {
				err = unix.Connect(c.fd, from)
				c.connected = true
			}
		}
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return nil
		case err == unix.ECONNREFUSED && !c.connected:
			return nil // the server is not up yet
		case err == unix.ECONNREFUSED && c.done:
			return nil
		case err != nil:
			return err
		}
		c.last = now
		if err := c.take(in[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (c *tftpClient) take(b []byte) error {
	if len(b) < 4 {
		return errors.New("half a packet came")
	}
	switch binary.BigEndian.Uint16(b) {
	case 6:
		if c.block > 0 {
			return nil
		}
		return c.confirm(b[2:])
	case 3:
	default:
		return fmt.Errorf("%.80q came", b)
	}
	if number := binary.BigEndian.Uint16(b[2:]); number != uint16(c.block+1) {
		if ahead := number - uint16(c.block); ahead < 1<<15 && ahead > 1 && !c.gap {
			c.gap, c.heard = true, 0
			c.load.result.Resent++
			return c.acknowledge()
		}
		return nil
	}
	if c.done {
		return nil
	}
	at := int(c.block) * c.size
	c.block++
	c.gap = false
	c.heard++
	data := b[4:]
	if at+len(data) > len(c.load.want) || !bytes.Equal(data, c.load.want[at:at+len(data)]) {
		return fmt.Errorf("block %d differs from the file", c.block)
	}
	if len(data) < c.size {
		if at+len(data) != len(c.load.want) {
			return fmt.Errorf("the file ended at block %d", c.block)
		}
		c.done = true
		c.load.left--
	}
	if c.done || c.heard == c.window {
		c.heard = 0
		return c.acknowledge()
	}
	return nil
}

// confirm takes the options that the server grants.
func (c *tftpClient) confirm(b []byte) error {
	fields := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	for ; len(fields) >= 2; fields = fields[2:] {
		n, err := strconv.Atoi(fields[1])
		if err != nil {
			return fmt.Errorf("the option %q is %q", fields[0], fields[1])
		}
		switch strings.ToLower(fields[0]) {
		case "blksize":
			c.size = n
		case "windowsize":
			c.window = n
		}
	}
	if c.size != tftpBlock || c.window > c.load.window {
		return fmt.Errorf("blocks of %d and a window of %d were granted", c.size, c.window)
	}
	c.load.result.Window = c.window
	return c.acknowledge()
}
