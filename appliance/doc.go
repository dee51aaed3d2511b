// Package appliance is one node put together: it opens what the node is made
// of in order, hands each part the services of the others, and closes them the
// other way round. It holds no rule of its own.
package appliance
