// Package lab is a virtual rack: QEMU machines with empty disks on a bridge of
// their own, next to real nodes, inside one anonymous network namespace.
//
// [Start] opens the dashboards' listeners on the host, then runs the same binary
// again ("lpmos lab inner", which calls [Inner]) in a new network namespace and
// hands it those listeners. Everything that belongs to the rack (bridge, taps,
// nodes, machines) lives in there, so nothing of the host's network is touched,
// and the kernel takes all of it away when the inner process dies, however it dies.
// Each node has a network namespace of its own with a cable to the bridge, that
// can be pulled; n1 is 10.77.0.1, n2 is 10.77.0.2. With several nodes Start
// returns when they are one cluster.
// [Client] steers a running rack: power, disks, consoles, and what nodes endure. A rack
// that is Simulated has no machines and a network with room for thousands:
// [Client.Simulate] runs "lpmos lab fleet" at the end of one more cable (see lab/sim).
//
//	DIR/lab.lock               held while the rack lives
//	DIR/lab.sock               control socket, see Client
//	DIR/node-NAME/             lpmos.yaml, node.log, joined and the node's data
//	DIR/machines/NAME/         disks, UEFI variables, serial.log, serial.timed.log, qemu.log
package lab
