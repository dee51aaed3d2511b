package ui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// maxIDs is how many tasks, machines or rows one subscription may name.
const maxIDs = 2000

// socket is GET /ws: frames of JSON, one document each (RFC 6455).
func (h *hub) socket(w http.ResponseWriter, r *http.Request) {
	if !ourOrigin(r, h.cfg.Origins) {
		api.NewProblem(http.StatusForbidden, "a page of another site may not open this socket").WriteTo(w)
		return
	}
	since, err := sinceOf(r)
	if err != nil {
		api.NewProblem(http.StatusBadRequest, err.Error()).WriteTo(w)
		return
	}
	var conn *websocket.Conn
	v := h.newViewer(door.CallerOf(r.Context()), func(ctx context.Context, frame []byte) error {
		// A frame begun is finished or times out: the library closes a connection
		// whose write is cancelled, and then no goodbye could be said.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.limits.Write)
		defer cancel()
		return conn.Write(ctx, websocket.MessageText, frame)
	})
	if !h.join(v) {
		api.NewProblem(http.StatusServiceUnavailable, "too many are looking already; close another dashboard").WriteTo(w)
		return
	}
	defer h.leave(v)
	// The origin was compared above, exactly; the library's own check is by pattern.
	conn, err = websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // answered by Accept
	}
	defer conn.CloseNow()
	conn.SetReadLimit(h.limits.FrameBytes)

	ctx, cancel := context.WithCancelCause(h.ctx)
	defer cancel(nil)
	// The library closes a connection whose read is cancelled, without a word. The
	// reader goes on until the goodbye has been said.
	reading, stopReading := context.WithCancel(context.Background())
	defer stopReading()
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		cancel(v.listen(reading, conn))
	}()
	go keepAlive(ctx, conn, h.limits.KeepAlive, cancel)
	err = v.run(ctx, since)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	code, reason := goodbye(err, h.ctx.Err() != nil)
	h.log.Debug("viewer left", slog.String("address", r.RemoteAddr), slog.Any("error", err))
	cancel(nil)
	_ = conn.Close(code, reason) // the viewer may be gone already
	stopReading()
	<-heard
}

// statusSignedOut tells the page to ask who is there (codes from 4000 on are ours).
const statusSignedOut websocket.StatusCode = 4401

// goodbye is the close code for a reason (RFC 6455 section 7.4.1).
func goodbye(err error, closing bool) (websocket.StatusCode, string) {
	var bad *badFrame
	switch {
	case closing:
		return websocket.StatusGoingAway, "the node is stopping"
	case errors.Is(err, errSignedOut):
		return statusSignedOut, "sign in again"
	case errors.As(err, &bad):
		return websocket.StatusPolicyViolation, bad.reason
	default:
		return websocket.StatusTryAgainLater, "come back with the last index you have seen"
	}
}

// keepAlive finds out that a viewer has gone without a word.
func keepAlive(ctx context.Context, conn *websocket.Conn, every time.Duration, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pingCtx, done := context.WithTimeout(context.WithoutCancel(ctx), every)
		err := conn.Ping(pingCtx)
		done()
		if err != nil {
			cancel(fmt.Errorf("the viewer does not answer: %w", err))
			return
		}
	}
}

// badFrame is a frame that is none of ours.
type badFrame struct{ reason string }

func (e *badFrame) Error() string { return e.reason }

// listen reads what the viewer wants until it has gone.
func (v *viewer) listen(ctx context.Context, conn *websocket.Conn) error {
	for {
		kind, frame, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if kind != websocket.MessageText {
			return &badFrame{"frames are JSON in text"}
		}
		if err := v.hear(frame); err != nil {
			return err
		}
	}
}

// hear takes one frame of the viewer. An error ends the connection.
func (v *viewer) hear(frame []byte) error {
	sub, err := parseSubscribe(frame)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch sub.Type {
	case "ping":
		v.reply(api.Frame{Type: api.FramePong, Time: v.hub.cfg.API.Now()})
	case "subscribe":
		next := wants{tasks: setOf(sub.Tasks), machines: setOf(sub.Machines), rows: setOf(sub.Rows)}
		// Whoever wants other things has not been told those yet.
		if !sameSet(v.wants.tasks, next.tasks) || !sameSet(v.wants.machines, next.machines) {
			v.again = true
		}
		v.wants = next
		v.poke()
		v.hub.door().Used(v.caller) // somebody scrolls
	default:
		v.reply(api.Frame{Type: api.FrameError, Time: v.hub.cfg.API.Now(), Text: "frames are of type subscribe or ping"})
	}
	return nil
}

// maxReplies bounds the answers that wait for a viewer that asks and does not read.
const maxReplies = 16

// reply answers the viewer. v.mu is held.
func (v *viewer) reply(f api.Frame) {
	if len(v.replies) < maxReplies {
		v.replies = append(v.replies, f)
	}
	v.poke()
}

// parseSubscribe reads a frame of a viewer. Fields not known here are let pass:
// a newer page may say more.
func parseSubscribe(frame []byte) (api.Subscribe, error) {
	var sub api.Subscribe
	if err := api.CheckJSON(frame); err != nil {
		return sub, &badFrame{"that frame is not the JSON we take"}
	}
	if err := json.Unmarshal(frame, &sub); err != nil {
		return sub, &badFrame{"that frame is no object with a type"}
	}
	if len(sub.Tasks) > maxIDs || len(sub.Machines) > maxIDs || len(sub.Rows) > maxIDs {
		return sub, &badFrame{fmt.Sprintf("a subscription names at most %d ids", maxIDs)}
	}
	return sub, nil
}

func setOf(ids []string) map[string]bool {
	if ids == nil {
		return nil
	}
	out := make(map[string]bool, len(ids))
	for _, id := range ids {
		out[id] = true
	}
	return out
}

func sameSet(a, b map[string]bool) bool {
	return (a == nil) == (b == nil) && maps.Equal(a, b)
}

// sinceOf reads ?since=INDEX.
func sinceOf(r *http.Request) (*uint64, error) {
	text := r.URL.Query().Get("since")
	if text == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, errors.New("since has to be the index of a frame")
	}
	return &n, nil
}
