// Package wire holds the messages both ends of the agent's conversation speak:
// the inventory an agent reports, the plan a person approves, the grant that
// follows from it, the manifest of an image, and the requests that carry them.
//
// It is the vocabulary of the whole house and a leaf: it imports the standard
// library only, does no I/O, and anybody may import it. The JSON names are part
// of the public API; a field may be added, never renamed or given a new meaning.
package wire
