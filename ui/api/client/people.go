package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/lpmos/lpmos/ui/api"
)

// SignIn opens a session and gives its key.
func (c *Client) SignIn(ctx context.Context, s api.SignIn) (api.Who, Key, error) {
	return c.enter(ctx, "session", s)
}

// SetUp makes the first administrator and opens a session.
func (c *Client) SetUp(ctx context.Context, s api.SetUp) (api.Who, Key, error) {
	return c.enter(ctx, "setup", s)
}

func (c *Client) enter(ctx context.Context, path string, in any) (who api.Who, k Key, err error) {
	body, err := json.Marshal(in)
	if err != nil {
		return who, k, fmt.Errorf("encode request: %w", err)
	}
	res, err := c.open(ctx, http.MethodPost, path, nil, "application/json", bytes.NewReader(body))
	if err != nil {
		return who, k, err
	}
	defer res.Body.Close()
	answer, err := c.readAll(res.Body)
	if err != nil {
		return who, k, err
	}
	if err := json.Unmarshal(answer, &who); err != nil {
		return who, k, fmt.Errorf("read the answer of node %s: %w", c.Name(), err)
	}
	for _, cookie := range res.Cookies() {
		if strings.Contains(cookie.Name, "lpmos") && cookie.Value != "" {
			return who, Key{Cookie: cookie}, nil
		}
	}
	return who, k, errors.New("the node gave no session")
}

// SignOut ends the session.
func (c *Client) SignOut(ctx context.Context) error {
	return c.request(ctx, http.MethodDelete, "session", nil, nil, nil)
}

// WhoAmI is who the node takes the client for.
func (c *Client) WhoAmI(ctx context.Context) (w api.Who, err error) {
	err = c.list(ctx, "session", &w)
	return w, err
}

// NewLoginCode makes a code that signs in once: the user of this name, or an
// administrator without an account.
func (c *Client) NewLoginCode(ctx context.Context, user string) (code api.OneCode, err error) {
	err = c.request(ctx, http.MethodPost, "login-links", nil, api.LinkFor{User: user}, &code)
	return code, err
}

// NewSetupCode makes a code that makes the first administrator.
func (c *Client) NewSetupCode(ctx context.Context) (code api.OneCode, err error) {
	err = c.request(ctx, http.MethodPost, "setup-codes", nil, nil, &code)
	return code, err
}

// Users lists every user.
func (c *Client) Users(ctx context.Context) ([]api.User, error) {
	var l api.UserList
	err := c.list(ctx, "users", &l)
	return l.Users, err
}

// CreateUser makes a user.
func (c *Client) CreateUser(ctx context.Context, n api.NewUser) (u api.User, err error) {
	err = c.request(ctx, http.MethodPost, "users", nil, n, &u)
	return u, err
}

// ChangeUser changes the user of this name or id.
func (c *Client) ChangeUser(ctx context.Context, user string, change api.UserChange) (u api.User, err error) {
	err = c.request(ctx, http.MethodPatch, segment("users", user), nil, change, &u)
	return u, err
}

// ChangePassword changes the caller's own password, which ends the session.
func (c *Client) ChangePassword(ctx context.Context, p api.NewPassword) error {
	return c.request(ctx, http.MethodPost, "me/password", nil, p, nil)
}

// DeleteUser forgets a user.
func (c *Client) DeleteUser(ctx context.Context, user string) error {
	return c.request(ctx, http.MethodDelete, segment("users", user), nil, nil, nil)
}

// APITokens lists every API token.
func (c *Client) APITokens(ctx context.Context) ([]api.APIToken, error) {
	var l api.APITokenList
	err := c.list(ctx, "tokens", &l)
	return l.Tokens, err
}

// CreateAPIToken makes an API token.
func (c *Client) CreateAPIToken(ctx context.Context, n api.NewAPIToken) (t api.MadeAPIToken, err error) {
	err = c.request(ctx, http.MethodPost, "tokens", nil, n, &t)
	return t, err
}

// RevokeAPIToken ends the API token of this id or name.
func (c *Client) RevokeAPIToken(ctx context.Context, token string) error {
	return c.request(ctx, http.MethodDelete, segment("tokens", token), nil, nil, nil)
}

// Sessions lists who is signed in.
func (c *Client) Sessions(ctx context.Context) ([]api.Session, error) {
	var l api.SessionList
	err := c.list(ctx, "sessions", &l)
	return l.Sessions, err
}

// EndSession ends the session of this id.
func (c *Client) EndSession(ctx context.Context, id string) error {
	return c.request(ctx, http.MethodDelete, segment("sessions", id), nil, nil, nil)
}

// ExportAudit writes the whole audit, the oldest record first, one JSON document a line.
func (c *Client) ExportAudit(ctx context.Context, w io.Writer) error {
	res, err := c.open(ctx, http.MethodGet, "audit/export", nil, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read the audit from node %s: %w", c.Name(), err)
	}
	return nil
}
