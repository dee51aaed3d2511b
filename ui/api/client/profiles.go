package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

// Profiles lists what machines can be booted into once.
func (c *Client) Profiles(ctx context.Context) ([]api.Profile, error) {
	var l api.ProfileList
	err := c.list(ctx, "profiles", &l)
	return l.Profiles, err
}

// Profile is one of them.
func (c *Client) Profile(ctx context.Context, name string) (p api.Profile, err error) {
	err = c.list(ctx, segment("profiles", name), &p)
	return p, err
}

// UploadProfileFile sends a file for a profile.
func (c *Client) UploadProfileFile(ctx context.Context, name string, file io.Reader) (f fleet.ProfileFile, err error) {
	err = c.send(ctx, http.MethodPost, "profile-files", url.Values{"name": {name}}, "application/octet-stream", file, &f)
	return f, err
}

// PutProfile makes a profile.
func (c *Client) PutProfile(ctx context.Context, w api.ProfileWish) (p api.Profile, err error) {
	err = c.request(ctx, http.MethodPost, "profiles", nil, w, &p)
	return p, err
}

// DeleteProfile removes one.
func (c *Client) DeleteProfile(ctx context.Context, name string) error {
	return c.request(ctx, http.MethodDelete, segment("profiles", name), nil, nil, nil)
}

// PreviewBoot says what booting a machine into a profile would take.
func (c *Client) PreviewBoot(ctx context.Context, machine, profile, disk string) (p api.BootPreview, err error) {
	q := url.Values{"profile": {profile}}
	if disk != "" {
		q.Set("disk", disk)
	}
	err = c.request(ctx, http.MethodGet, segment("machines", machine, "boot"), q, nil, &p)
	return p, err
}

// AskBoot has a machine boot a profile once.
func (c *Client) AskBoot(ctx context.Context, machine string, w api.BootWish) (m api.Machine, err error) {
	err = c.request(ctx, http.MethodPost, segment("machines", machine, "boot"), nil, w, &m)
	return m, err
}

// CancelBoot takes such a wish back.
func (c *Client) CancelBoot(ctx context.Context, machine string) (m api.Machine, err error) {
	err = c.request(ctx, http.MethodDelete, segment("machines", machine, "boot"), nil, nil, &m)
	return m, err
}
