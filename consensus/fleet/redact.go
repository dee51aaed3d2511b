package fleet

import "fmt"

// What holds secrets prints without them, by whatever verb: a task's user-data
// and the token of its system are nobody's business but the machine's, and a log
// is read by many. JSON, which is how they are kept, still has them.

// String names the task.
func (t Task) String() string {
	return fmt.Sprintf("task %s (%s, generation %d)", t.ID, t.Status, t.Generation)
}

// GoString is what %#v prints.
func (t Task) GoString() string { return t.String() }

// String says what is wished, and of the user-data only how much there is.
func (sp Spec) String() string {
	return fmt.Sprintf("%s for %q with %d bytes of user-data", sp.ImageName(), sp.NetworkConfig.Hostname, len(sp.UserData))
}

// GoString is what %#v prints.
func (sp Spec) GoString() string { return sp.String() }

// String names the task that is to be.
func (c CreateTask) String() string {
	return fmt.Sprintf("create task %s for %s: %s", c.ID, c.TargetMAC, c.Spec)
}

// GoString is what %#v prints.
func (c CreateTask) GoString() string { return c.String() }

// String names the task.
func (c RetryTask) String() string { return "retry task " + c.TaskID }

// GoString is what %#v prints.
func (c RetryTask) GoString() string { return c.String() }

// String says who came up.
func (c ReportUp) String() string { return fmt.Sprintf("%q at %s came up", c.Hostname, c.IP) }

// GoString is what %#v prints.
func (c ReportUp) GoString() string { return c.String() }

// String names the task that is over.
func (p pastTask) String() string { return "past task " + p.ID }

// GoString is what %#v prints.
func (p pastTask) GoString() string { return p.String() }
