package wire

import "fmt"

// String names the grant, and leaves out the secret of the URL its system reports
// to: agents and nodes write logs.
func (g Grant) String() string {
	return fmt.Sprintf("grant for task %s, generation %d", g.TaskID, g.Generation)
}

// GoString is what %#v prints.
func (g Grant) GoString() string { return g.String() }

// String names the machine, and leaves out its session.
func (r ReportResponse) String() string { return "machine " + r.MachineID }

// GoString is what %#v prints.
func (r ReportResponse) GoString() string { return r.String() }
