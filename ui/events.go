package ui

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// events is GET /api/v1/events: the socket's frames as server-sent events, for
// scripts that have nothing but HTTP.
func (h *hub) events(w http.ResponseWriter, r *http.Request) {
	since, err := sinceOf(r)
	if err != nil {
		api.NewProblem(http.StatusBadRequest, err.Error()).WriteTo(w)
		return
	}
	rc := http.NewResponseController(w)
	// The server's limit for reading a request would end the answer to it. A
	// request without deadlines has none to lift.
	_ = rc.SetReadDeadline(time.Time{})
	v := h.newViewer(door.CallerOf(r.Context()), func(_ context.Context, frame []byte) error {
		// A writer without deadlines is a test's; a connection has them.
		_ = rc.SetWriteDeadline(time.Now().Add(h.limits.Write))
		if _, err := fmt.Fprintf(w, "data: %s\n\n", frame); err != nil {
			return err
		}
		return rc.Flush()
	})
	if !h.join(v) {
		api.NewProblem(http.StatusServiceUnavailable, "too many are looking already; close another dashboard").WriteTo(w)
		return
	}
	defer h.leave(v)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	err = v.run(ctx, since)
	h.log.Debug("viewer left", slog.String("address", r.RemoteAddr), slog.Any("error", err))
}
