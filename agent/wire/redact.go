package wire

import "fmt"

// String names the grant, and leaves out the secret of the URL its system reports
// to: agents and nodes write logs.
func (g Grant) String() string {
	return fmt.Sprintf("grant for task %s, generation %d", g.TaskID, g.Generation)
}

// GoString is what %#v prints.
func (g Grant) GoString() string { return g.String() }

// String leaves out the grant, in which that secret stands too.
func (g SignedGrant) String() string { return "signed grant" }

// GoString is what %#v prints.
func (g SignedGrant) GoString() string { return g.String() }
