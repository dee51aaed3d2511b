// Package sim is a fleet on the wire: any number of machines in one process, each of
// which boots as firmware does (netboot/pxeclient) and then lives as the agent does,
// with the agent's own code, against real nodes. Its kernel is the only one there is:
// a machine that would start Linux starts the agent's life in a goroutine, with
// hardware that is made up and, if it is to be installed, with a sparse file for a disk.
//
// All machines share one network card, at the end of a cable of a rack (appliance/lab).
// What they say before they have an address goes out as frames with each machine's own
// hardware address, over one packet socket: the nodes and the bridge see a thousand
// cards, and answers to one card alone come back to it. An address that was lent
// becomes one more of the card's, so that TFTP, HTTP and TLS are the kernel's and come
// from the machine's own address, one that was not lent answers no ARP, and nothing of a
// node's limits for each address is got round. A thousand kernels and a thousand cards
// would have taken another machine than the one that is tested.
//
// An answer to DHCP counts as come when the kernel had it. A thousand machines that share a
// process, and two cores with the nodes, look at it later: that is a row of its own, "answer →
// noticed", and no time that a node took.
//
// What is not simulated: the router solicitations of iPXE, the time that a kernel takes
// to start, and the renewal of leases. What TFTP sends again is not counted.
package sim
