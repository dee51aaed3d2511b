// Package fleet is what the nodes agree on: machines, tasks, images, nodes, the
// cluster's own identity, who may sign in and as what, who lends which addresses,
// what was done by whom, and the rules they all move by.
//
// It is pure. A State is changed by Apply alone, with a Command that carries
// everything that is not in the state: the time, new ids, tokens. The same
// commands in the same order give the same state on every node and at every
// replay, so nothing here reads a clock, a file or the network; a test keeps
// that law. The order of a Go map is such an outside too: it may decide neither
// what a rule does nor what a refusal says.
//
// The state remembers what it has done lately by the ids of the commands, with
// what it answered, refusals as well. A command may therefore be asked for again
// when its answer was lost: it is not done twice, and gets the same answer from a
// node that was there and from one that began with a snapshot.
//
// Passwords, sessions, tokens and codes are known here by their hashes alone. Those
// stand in the log and in snapshots; no event, no other JSON and nothing that is
// printed shows them.
//
// Values handed out (*Task, *Machine, *Image, *Node) are never changed again:
// a rule that changes one puts a new value in its place. Readers may keep them
// without a lock and must not write to them.
package fleet
