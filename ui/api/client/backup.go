package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/lpmos/lpmos/ui/api"
)

// Backup has the node write a backup of the cluster's state to w. It is one only
// if reading it says so: a node that breaks off cannot say that any more.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath("/api/v1/backup").String(), nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("reach node %s: %w", c.base.Host, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		e := &Error{Problem: *api.NewProblem(res.StatusCode, "")}
		if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&e.Problem); err != nil {
			e.Detail = fmt.Sprintf("node %s answered %s", c.base.Host, res.Status)
		}
		return e
	}
	if _, err := io.Copy(w, res.Body); err != nil {
		return fmt.Errorf("read the backup of node %s: %w", c.base.Host, err)
	}
	return nil
}
