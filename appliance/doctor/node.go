package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"golang.org/x/sys/unix"
)

// running is the node that runs on the data directory, if one does.
type running struct {
	runs   bool
	pid    int // 0: it is not of this host's processes, as in a container
	health api.Health
	view   *api.ClusterView
}

// others are the members of its cluster, without those that do not answer.
func (r *running) others() []api.Member {
	if r.view == nil {
		return nil
	}
	var out []api.Member
	for _, m := range r.view.Members {
		if m.Reachable {
			out = append(out, m)
		}
	}
	return out
}

func (h *Host) lookForNode(ctx context.Context) Finding {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	pid, err := listenerOf(ctx, h.Config.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return skip("no node runs on %s", h.Config.DataDir)
	case errors.Is(err, fs.ErrPermission):
		return skip("whether a node runs on %s only its user and root may ask: sudo lpmos doctor", h.Config.DataDir)
	case err != nil:
		return warn("", "ask the node on %s: %v", h.Config.DataDir, err)
	}
	c := client.AtTheNode(h.Config.DataDir)
	health, err := c.Health(ctx)
	if err != nil {
		return fail("journalctl -u lpmos says what it does", "the node on %s (process %d) does not answer: %v", h.Config.DataDir, pid, err)
	}
	h.node.runs, h.node.pid, h.node.health = true, pid, health
	switch view, err := c.Cluster(ctx); {
	case err == nil:
		h.node.view = &view
	case client.StatusOf(err) != http.StatusNotImplemented:
		return fail("", "the node on %s (process %d) tells nothing of its cluster: %v", h.Config.DataDir, pid, err)
	}
	if health.Version != h.Version {
		return warn("sudo systemctl restart lpmos, or end it and lpmos up", "%s runs (process %d) with version %s, and this is version %s", health.Node, pid, health.Version, h.Version)
	}
	return ok("%s runs here (process %d), version %s", health.Node, pid, health.Version)
}

// listenerOf is the process that listens at a node's own socket.
func listenerOf(ctx context.Context, dataDir string) (pid int, err error) {
	c, err := client.DialAtTheNode(dataDir)(ctx, "", "")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

func (h *Host) cluster(context.Context) Finding {
	v := h.node.view
	switch {
	case v == nil:
		return skip("it is of none")
	case h.node.health.Leader == "":
		return fail("lpmos node list shows which nodes do not answer; start them, or lpmos recover", "nobody leads: nothing new is decided. %s", v.Summary)
	case v.Problem != "":
		return warn("lpmos node list", "%s", v.Problem)
	}
	return ok("%s", v.Summary)
}

// alarms are what the node has heard on the wire since it runs.
func (h *Host) alarms(context.Context) Finding {
	if h.node.view == nil || len(h.node.view.Alarms) == 0 {
		return ok("it has heard of nothing that is wrong on its networks")
	}
	return warn("lpmos status", "%s", strings.Join(h.node.view.Alarms, "; "))
}
