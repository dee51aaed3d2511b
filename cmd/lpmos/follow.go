package main

import (
	"context"
	"net"
	"net/url"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// follow hands every update to f and comes back after a cut where it was: to the
// node it was told to ask or, while that is away, to one of the others. It ends
// with ctx, with nil, or with f's error.
func follow(ctx context.Context, c *client.Client, f func(client.Update) error) error {
	return followAt(ctx, &ring{named: c}, f)
}

// followAt is follow among the nodes of a ring.
func followAt(ctx context.Context, nodes *ring, f func(client.Update) error) error {
	var since uint64
	c := nodes.named
	for first := true; ; first = false {
		w, err := c.Watch(ctx, since)
		if err == nil {
			err = w.Subscribe(ctx, api.Subscribe{Since: &since})
		}
		if first && err != nil {
			return err
		}
		for err == nil {
			var u client.Update
			if u, err = nextUpdate(ctx, w); err != nil {
				break
			}
			switch {
			case u.Snapshot != nil:
				since = u.Snapshot.Index
				nodes.learn(u.Snapshot.Cluster)
			case u.Frame.Index > since:
				since = u.Frame.Index
			}
			if u.Frame != nil {
				nodes.learn(u.Frame.Cluster)
			}
			if err := f(u); err != nil {
				w.Close()
				return err
			}
		}
		if w != nil {
			w.Close()
		}
		if ctx.Err() != nil {
			return nil
		}
		var around bool
		if c, around = nodes.next(); !around {
			continue
		}
		select { // all are away; they are asked again until told to stop
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// silence is how long a node may say nothing. One that is of a cluster tells how
// that is every 5 s, so a longer silence means a host that went without a word.
const silence = 30 * time.Second

func nextUpdate(ctx context.Context, w *client.Watch) (client.Update, error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	return w.Next(ctx)
}

// ring is the nodes that can be asked, one after the other. The index is the
// cluster's, so that each of them goes on where another ended.
type ring struct {
	named  *client.Client
	others []*client.Client
	at     int // among the others; 0 is the one that was named
	// reach, if set, finds another way to a node than its dashboard; nil for none.
	reach func(api.Member) *client.Client
}

// learn takes over which other nodes there are.
func (r *ring) learn(v *api.ClusterView) {
	if v == nil {
		return
	}
	own := ""
	for _, m := range v.Members {
		if m.ID == v.Node {
			own = m.Dashboard
		}
	}
	r.others = nil
	for _, m := range v.Members {
		if r.reach != nil {
			if c := r.reach(m); c != nil && m.ID != v.Node {
				r.others = append(r.others, c)
			}
			continue
		}
		// An address that is good on its own host alone is of use only to who is on
		// that host too, as with several nodes on one.
		if m.Dashboard == own || m.Dashboard == "" || loopback(m.Dashboard) && !loopback(r.named.Address()) {
			continue
		}
		if c, err := r.named.At(m.Dashboard); err == nil {
			r.others = append(r.others, c)
		}
	}
}

// asked is the node that is asked now.
func (r *ring) asked() *client.Client {
	if r.at == 0 || r.at > len(r.others) {
		return r.named
	}
	return r.others[r.at-1]
}

// next is the node to ask after one has failed, and whether all have been tried.
func (r *ring) next() (c *client.Client, around bool) {
	if r.at++; r.at > len(r.others) {
		r.at = 0
		return r.named, true
	}
	return r.others[r.at-1], false
}

func loopback(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
