// Package boot does what a kernel expects of its first process before the agent
// can work: mount the file systems the kernel serves, load drivers, read the
// kernel command line, set the clock, get an address by DHCP, and at the end
// restart the machine.
//
// A kernel panics when its first process exits, and nobody stands beside the
// machine. So nothing here is fatal: what fails says so in a sentence on the
// console, and is left out or tried again.
package boot

// Say prints one sentence on the machine's console.
type Say func(format string, args ...any)
