package consensus

import (
	"context"
	"log/slog"
	"slices"

	"github.com/hashicorp/go-hclog"
)

// raftLogger hands the Raft library's lines to slog, one level quieter than it
// means them: an election at start is a warning to the library and an ordinary
// thing to a node without peers.
type raftLogger struct {
	hclog.Logger // what the library never calls does nothing
	to           *slog.Logger
}

func newRaftLogger(l *slog.Logger) hclog.Logger {
	return &raftLogger{Logger: hclog.NewNullLogger(), to: l.With("part", "raft")}
}

// silence is what the library says again and again of a node that does not
// answer. We say it once, by the node's name (see peers.go). That a snapshot was
// not sent or not taken is not among it: the fault may be this node's own.
var silence = []string{"failed to heartbeat to", "failed to appendEntries to", "failed to contact", "failed to make requestVote RPC",
	"failed to get previous log", "appendEntries rejected, sending older logs", "heartbeat timeout reached, starting election",
	"Election timeout reached, restarting election", "failed to decode incoming command"}

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if slices.Contains(silence, msg) {
		level = hclog.Debug
	}
	switch level {
	case hclog.Warn:
		to = slog.LevelInfo
	case hclog.Error:
		to = slog.LevelError
	}
	if l.to.Enabled(context.Background(), to) {
		l.to.Log(context.Background(), to, msg, args...)
	}
}

func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) IsTrace() bool { return false }
func (l *raftLogger) IsDebug() bool { return l.to.Enabled(context.Background(), slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool  { return l.IsDebug() }
func (l *raftLogger) IsWarn() bool  { return true }
func (l *raftLogger) IsError() bool { return true }

func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{Logger: l.Logger, to: l.to.With(args...)}
}

func (l *raftLogger) Named(name string) hclog.Logger {
	return &raftLogger{Logger: l.Logger, to: l.to.With("of", name)}
}
