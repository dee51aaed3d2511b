package client

import (
	"context"

	"github.com/lpmos/lpmos/ui/api"
)

// Examine is what keeps machines from booting off the node, as far as it can see
// from inside.
func (c *Client) Examine(ctx context.Context) (e api.Examination, err error) {
	err = c.list(ctx, "doctor", &e)
	return e, err
}
