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

// String names the profile.
func (p Profile) String() string { return fmt.Sprintf("profile %s (%s)", p.Name, short(p.Digest)) }

// GoString is what %#v prints.
func (p Profile) GoString() string { return p.String() }

// String says how much there is of it.
func (a AnswerFile) String() string { return fmt.Sprintf("%s of %d bytes", a.Name, len(a.Text)) }

// GoString is what %#v prints.
func (a AnswerFile) GoString() string { return a.String() }

// String names the profile that is to be.
func (c PutProfile) String() string { return "put " + c.Profile.String() }

// GoString is what %#v prints.
func (c PutProfile) GoString() string { return c.String() }

// String says which machine is to boot what.
func (c AskBoot) String() string {
	return fmt.Sprintf("ask boot %s of machine %s into profile %s", c.ID, c.MachineID, c.Profile)
}

// GoString is what %#v prints.
func (c AskBoot) GoString() string { return c.String() }

// String names what is to be booted.
func (n NextBoot) String() string {
	return fmt.Sprintf("next boot %s into profile %s", n.ID, n.Profile)
}

// GoString is what %#v prints.
func (n NextBoot) GoString() string { return n.String() }

// String names what was booted.
func (b ProfileBoot) String() string { return fmt.Sprintf("boot %s into profile %s", b.ID, b.Profile) }

// GoString is what %#v prints.
func (b ProfileBoot) GoString() string { return b.String() }

// String says who is meant.
func (v Values) String() string { return fmt.Sprintf("values for %s at %s", v.MAC, v.Addr) }

// GoString is what %#v prints.
func (v Values) GoString() string { return v.String() }
