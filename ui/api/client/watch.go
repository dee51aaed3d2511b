package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/coder/websocket"

	"github.com/lpmos/lpmos/ui/api"
)

// Update is one frame of the socket: Snapshot if it is one, else Frame.
type Update struct {
	Frame    *api.Frame
	Snapshot *api.Snapshot
}

// Watch is an open socket.
type Watch struct{ conn *websocket.Conn }

// Watch follows the fleet: from a snapshot on, or from since if that is not 0
// and the node still has what came after it.
func (c *Client) Watch(ctx context.Context, since uint64) (*Watch, error) {
	u := c.base.JoinPath("/ws")
	u.RawQuery = sinceQuery(since)
	// The node opens its socket to its own pages alone; this is one of them.
	header := http.Header{"Origin": {c.base.Scheme + "://" + c.base.Host}}
	c.show(header)
	conn, res, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: c.http, HTTPHeader: header})
	if err != nil {
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			return nil, &Error{Problem: *api.NewProblem(res.StatusCode, "the node would not open its socket: "+res.Status)}
		}
		return nil, fmt.Errorf("open the socket of node %s: %w", c.name, err)
	}
	conn.SetReadLimit(maxAnswer)
	return &Watch{conn: conn}, nil
}

// Subscribe says what to be told; see api.Subscribe.
func (w *Watch) Subscribe(ctx context.Context, s api.Subscribe) error {
	s.Type = "subscribe"
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode subscription: %w", err)
	}
	return w.Send(ctx, b)
}

// Send sends a frame as it is.
func (w *Watch) Send(ctx context.Context, frame []byte) error {
	return w.conn.Write(ctx, websocket.MessageText, frame)
}

// Next waits for a frame. After an error, watch again from the last index.
func (w *Watch) Next(ctx context.Context) (Update, error) {
	_, b, err := w.conn.Read(ctx)
	if err != nil {
		return Update{}, err
	}
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Update{}, fmt.Errorf("read a frame: %w", err)
	}
	var u Update
	if head.Type == api.FrameSnapshot {
		u.Snapshot = new(api.Snapshot)
		err = json.Unmarshal(b, u.Snapshot)
	} else {
		u.Frame = new(api.Frame)
		err = json.Unmarshal(b, u.Frame)
	}
	if err != nil {
		return Update{}, fmt.Errorf("read a frame of type %q: %w", head.Type, err)
	}
	return u, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.conn.Close(websocket.StatusNormalClosure, "") }
