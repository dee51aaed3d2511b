// Package fleet is what the nodes agree on: machines, tasks, images and nodes,
// and the rules they move by.
//
// It is pure. A State is changed by Apply alone, with a Command that carries
// everything that is not in the state: the time, new ids, tokens. The same
// commands in the same order give the same state on every node and at every
// replay, so nothing here reads a clock, a file or the network; a test keeps
// that law.
//
// Values handed out (*Task, *Machine, *Image, *Node) are never changed again:
// a rule that changes one puts a new value in its place. Readers may keep them
// without a lock and must not write to them.
package fleet
