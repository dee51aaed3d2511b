// Package confine takes from this process what a node has no use for: another
// user than root, two capabilities, no way to gain any, and no way to start a
// program. Whoever takes over a node over the network then has that process and
// its data directory, and not the host.
//
// It is done in this process and without starting it anew: the configuration,
// which root may have been the only one to read, is read by then, and the
// process keeps its id and its name. What is taken is taken from every thread,
// and none of it comes back.
package confine
