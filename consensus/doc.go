// Package consensus is how nodes agree: a Raft node that keeps its log on bbolt,
// applies what is committed to a fleet.State, and tells watchers what changed.
//
// A Node gives three things to the rooms above it. Propose puts a command in
// the log and returns once it is on disk and applied. View reads the state.
// SnapshotAndWatch and Watch follow it without gap or duplicate. Progress is the
// one path around the log: viewers see it at once, the log gets it once a second.
//
// DESIGN.md in this folder says what is promised, and why the figures are what
// they are.
package consensus
