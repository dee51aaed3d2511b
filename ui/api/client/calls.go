package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

// TaskFilter narrows a list of tasks; empty fields narrow nothing.
type TaskFilter struct {
	Status, RegionID, MachineID string
}

// Tasks lists tasks, newest first, following the pages to the end.
func (c *Client) Tasks(ctx context.Context, f TaskFilter) ([]api.Task, error) {
	q := url.Values{"limit": {"1000"}}
	for name, v := range map[string]string{"status": f.Status, "region_id": f.RegionID, "machine_id": f.MachineID} {
		if v != "" {
			q.Set(name, v)
		}
	}
	var all []api.Task
	for {
		var page api.TaskPage
		if err := c.request(ctx, http.MethodGet, "tasks", q, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Tasks...)
		if page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", page.NextCursor)
	}
}

// Task is one task with its hardware and user data.
func (c *Client) Task(ctx context.Context, id string) (t api.Task, err error) {
	err = c.request(ctx, http.MethodGet, segment("tasks", id), nil, nil, &t)
	return t, err
}

// CreateTask makes a task.
func (c *Client) CreateTask(ctx context.Context, w api.Wish) (t api.Task, err error) {
	err = c.request(ctx, http.MethodPost, "tasks", nil, w, &t)
	return t, err
}

// Plan says what a task would erase and write.
func (c *Client) Plan(ctx context.Context, w api.Wish) (p api.Preview, err error) {
	err = c.request(ctx, http.MethodPost, "plan", nil, w, &p)
	return p, err
}

// Decide approves or rejects a task.
func (c *Client) Decide(ctx context.Context, id string, d api.Decision) (t api.Task, err error) {
	err = c.request(ctx, http.MethodPut, segment("tasks", id, "approve"), nil, d, &t)
	return t, err
}

// CancelTask stops a task.
func (c *Client) CancelTask(ctx context.Context, id string) (t api.Task, err error) {
	err = c.request(ctx, http.MethodPost, segment("tasks", id, "cancel"), nil, nil, &t)
	return t, err
}

// RetryTask starts an ended task anew.
func (c *Client) RetryTask(ctx context.Context, id string) (t api.Task, err error) {
	err = c.request(ctx, http.MethodPost, segment("tasks", id, "retry"), nil, nil, &t)
	return t, err
}

// DeleteTask forgets a task.
func (c *Client) DeleteTask(ctx context.Context, id string) error {
	return c.request(ctx, http.MethodDelete, segment("tasks", id), nil, nil, nil)
}

// Machines lists every machine.
func (c *Client) Machines(ctx context.Context) ([]api.Machine, error) {
	q := url.Values{"limit": {"1000"}}
	all := []api.Machine{}
	for {
		var page api.MachineList
		if err := c.request(ctx, http.MethodGet, "machines", q, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Machines...)
		if page.NextCursor == "" {
			return all, nil
		}
		q.Set("cursor", page.NextCursor)
	}
}

func (c *Client) list(ctx context.Context, path string, out any) error {
	return c.request(ctx, http.MethodGet, path, nil, nil, out)
}

// Machine is one machine with its inventory and sightings.
func (c *Client) Machine(ctx context.Context, id string) (m api.Machine, err error) {
	err = c.request(ctx, http.MethodGet, segment("machines", id), nil, nil, &m)
	return m, err
}

// Wire is what one hardware address did, also if nobody knows it.
func (c *Client) Wire(ctx context.Context, mac string) (w api.Wire, err error) {
	err = c.request(ctx, http.MethodGet, segment("wire", mac), nil, nil, &w)
	return w, err
}

// DeleteMachine forgets a machine.
func (c *Client) DeleteMachine(ctx context.Context, id string) error {
	return c.request(ctx, http.MethodDelete, segment("machines", id), nil, nil, nil)
}

// Settle answers a clash of ids.
func (c *Client) Settle(ctx context.Context, id string, accept bool) (m api.Machine, err error) {
	err = c.request(ctx, http.MethodPost, segment("machines", id, "settle"), nil, api.Answer{Accept: accept}, &m)
	return m, err
}

// Protect sets or clears the protection of a machine.
func (c *Client) Protect(ctx context.Context, id string, protected bool) (m api.Machine, err error) {
	verb := "unprotect"
	if protected {
		verb = "protect"
	}
	err = c.request(ctx, http.MethodPost, segment("machines", id, verb), nil, nil, &m)
	return m, err
}

// AssignAddress gives a machine an address for good, on the card with the MAC or, if that
// is empty, on the one that it boots from.
func (c *Client) AssignAddress(ctx context.Context, id string, wish api.AddressWish) (m api.Machine, err error) {
	err = c.request(ctx, http.MethodPut, segment("machines", id, "address"), nil, wish, &m)
	return m, err
}

// ClearAddress takes back what a machine was given, of one card or of all.
func (c *Client) ClearAddress(ctx context.Context, id, mac string) (m api.Machine, err error) {
	q := url.Values{}
	if mac != "" {
		q.Set("mac", mac)
	}
	err = c.request(ctx, http.MethodDelete, segment("machines", id, "address"), q, nil, &m)
	return m, err
}

// Release lets a machine that is held netboot again.
func (c *Client) Release(ctx context.Context, id string) (m api.Machine, err error) {
	err = c.request(ctx, http.MethodPost, segment("machines", id, "release"), nil, nil, &m)
	return m, err
}

// ReleaseTask does so for the machine a task waits for, which was never seen.
func (c *Client) ReleaseTask(ctx context.Context, id string) (t api.Task, err error) {
	err = c.request(ctx, http.MethodPost, segment("tasks", id, "release"), nil, nil, &t)
	return t, err
}

// Policy is how much may be erased on one person's word.
func (c *Client) Policy(ctx context.Context) (p api.ErasePolicy, err error) {
	err = c.list(ctx, "policy", &p)
	return p, err
}

// SetPolicy changes it.
func (c *Client) SetPolicy(ctx context.Context, p api.ErasePolicyWish) (now api.ErasePolicy, err error) {
	err = c.request(ctx, http.MethodPut, "policy", nil, p, &now)
	return now, err
}

// Images lists every image.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	var l api.ImageList
	err := c.list(ctx, "images", &l)
	return l.Images, err
}

// UploadImage sends an image, a file from its beginning or any reader to its end.
func (c *Client) UploadImage(ctx context.Context, o api.ImageOrder, image io.Reader) (img api.Image, err error) {
	q := url.Values{}
	for name, v := range map[string]string{"name": o.Name, "os_type": o.OSType, "os_version": o.OSVersion, "sha256": o.SHA256} {
		if v != "" {
			q.Set(name, v)
		}
	}
	err = c.send(ctx, http.MethodPost, "images", q, "application/octet-stream", image, &img)
	return img, err
}

// FetchImage lets the node import an image from o.URL.
func (c *Client) FetchImage(ctx context.Context, o api.ImageOrder) (img api.Image, err error) {
	err = c.request(ctx, http.MethodPost, "images", nil, o, &img)
	return img, err
}

// DeleteImage forgets an image.
func (c *Client) DeleteImage(ctx context.Context, name string) error {
	return c.request(ctx, http.MethodDelete, segment("images", name), nil, nil, nil)
}

// Regions lists every region.
func (c *Client) Regions(ctx context.Context) ([]api.Region, error) {
	var l api.RegionList
	err := c.list(ctx, "regions", &l)
	return l.Regions, err
}

// Stats are the fleet in numbers.
func (c *Client) Stats(ctx context.Context) (s api.Stats, err error) {
	err = c.list(ctx, "stats", &s)
	return s, err
}

// Health is how the node is.
func (c *Client) Health(ctx context.Context) (h api.Health, err error) {
	err = c.list(ctx, "health", &h)
	return h, err
}

// Network is what the node does on the wire.
func (c *Client) Network(ctx context.Context) (n api.Network, err error) {
	err = c.list(ctx, "network", &n)
	return n, err
}

// Leases are the addresses in use as the node knows them; all adds those that have
// ended.
func (c *Client) Leases(ctx context.Context, all bool) ([]api.Lease, error) {
	var l api.LeaseList
	err := c.request(ctx, http.MethodGet, "leases", url.Values{"all": {strconv.FormatBool(all)}}, nil, &l)
	return l.Leases, err
}

// ReleaseLease takes an address back that the node has lent.
func (c *Client) ReleaseLease(ctx context.Context, addr string) (l api.Lease, err error) {
	err = c.request(ctx, http.MethodPost, segment("leases", addr, "release"), nil, nil, &l)
	return l, err
}

// Cluster is how the cluster looks from the node.
func (c *Client) Cluster(ctx context.Context) (v api.ClusterView, err error) {
	err = c.list(ctx, "cluster", &v)
	return v, err
}

// NewToken lets one more node join.
func (c *Client) NewToken(ctx context.Context) (t api.JoinToken, err error) {
	err = c.request(ctx, http.MethodPost, "cluster/tokens", nil, nil, &t)
	return t, err
}

// Promote gives a node a vote.
func (c *Client) Promote(ctx context.Context, id string) error {
	return c.request(ctx, http.MethodPost, segment("cluster", "nodes", id, "promote"), nil, nil, nil)
}

// Demote takes a node's vote away.
func (c *Client) Demote(ctx context.Context, id string) error {
	return c.request(ctx, http.MethodPost, segment("cluster", "nodes", id, "demote"), nil, nil, nil)
}

// RemoveNode takes a node out of the cluster for good.
func (c *Client) RemoveNode(ctx context.Context, id string) error {
	return c.request(ctx, http.MethodDelete, segment("cluster", "nodes", id), nil, nil, nil)
}

// Transfer lets another node lead: the voter with this id, or any if it is empty.
func (c *Client) Transfer(ctx context.Context, to string) error {
	return c.request(ctx, http.MethodPost, "cluster/transfer", nil, api.Handover{To: to}, nil)
}

// Audit gives the newest records of what was done, at most limit of them.
func (c *Client) Audit(ctx context.Context, limit int) ([]fleet.AuditRecord, error) {
	var l api.AuditList
	err := c.request(ctx, http.MethodGet, "audit", url.Values{"limit": {strconv.Itoa(limit)}}, nil, &l)
	return l.Audit, err
}

// Backup writes everything the cluster has agreed on to w. After an error, what
// was written is no backup.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	res, err := c.open(ctx, http.MethodGet, "backup", nil, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read the backup from node %s: %w", c.name, err)
	}
	return nil
}

// sinceQuery names where to resume.
func sinceQuery(since uint64) string {
	if since == 0 {
		return ""
	}
	return url.Values{"since": {strconv.FormatUint(since, 10)}}.Encode()
}
