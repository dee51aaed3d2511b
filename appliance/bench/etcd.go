package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

type etcd struct {
	procs   []*exec.Cmd
	clients []*clientv3.Client
	value   string
}

func startEtcd(ctx context.Context, dir string) (*etcd, error) {
	e := &etcd{value: strings.Repeat("x", valueBytes)}
	var peers, clients, initial []string
	for i := range members {
		p, err := freePort()
		if err != nil {
			return nil, err
		}
		c, err := freePort()
		if err != nil {
			return nil, err
		}
		peers, clients = append(peers, "http://"+p), append(clients, "http://"+c)
		initial = append(initial, fmt.Sprintf("e%d=http://%s", i, p))
	}
	for i := range members {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("etcd%d.log", i)))
		if err != nil {
			return nil, err
		}
		defer log.Close()
		p := exec.CommandContext(ctx, "etcd", "--name", fmt.Sprintf("e%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("etcd%d", i)),
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--listen-client-urls", clients[i],
			"--advertise-client-urls", clients[i], "--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new", "--log-level", "error")
		p.Stdout, p.Stderr = log, log
		if err := p.Start(); err != nil {
			e.close()
			return nil, fmt.Errorf("%w (the Debian package etcd-server has it)", err)
		}
		e.procs = append(e.procs, p)
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{clients[i]}, DialTimeout: 10 * time.Second})
		if err != nil {
			e.close()
			return nil, err
		}
		e.clients = append(e.clients, c)
	}
	ready, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, c := range e.clients {
		for {
			if _, err := c.Put(ready, "ready", "yes"); err == nil {
				break
			} else if ready.Err() != nil {
				e.close()
				return nil, err
			}
		}
	}
	return e, nil
}

func (e *etcd) run(ctx context.Context, writers int, d time.Duration) (result, error) {
	return writeAll(ctx, writers, d, func(ctx context.Context, w, _ int) error {
		_, err := e.clients[w%members].Put(ctx, fmt.Sprintf("/tasks/%d", w), e.value)
		return err
	})
}

func (e *etcd) pids() []int {
	out := []int{os.Getpid()}
	for _, p := range e.procs {
		out = append(out, p.Process.Pid)
	}
	return out
}

func (e *etcd) close() {
	for _, c := range e.clients {
		c.Close()
	}
	for _, p := range e.procs {
		err := errors.Join(p.Process.Kill(), p.Wait())
		_ = err // it was killed
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
