// Package chaos holds tests only: several nodes that are cut off, killed, filled
// up, flipped and misled about the time, and what they must not do over it.
package chaos
