// Package lab is a virtual rack: QEMU machines with empty disks on a bridge of
// their own, next to a real node, inside one anonymous network namespace.
//
// [Start] opens the dashboard's listener on the host, then runs the same binary
// again ("lpmos lab inner", which calls [Inner]) in a new network namespace and
// hands it that listener. Everything that belongs to the rack (bridge, taps,
// node, machines) lives in there, so nothing of the host's network is touched,
// and the kernel takes all of it away when the inner process dies, however it dies.
// [Client] steers a running rack: power, disks, consoles, and the node's life.
//
//	DIR/lab.lock               held while the rack lives
//	DIR/lab.sock               control socket, see Client
//	DIR/node/                  lpmos.yaml, node.log and the node's data
//	DIR/machines/NAME/         disks, UEFI variables, serial.log, serial.timed.log, qemu.log
package lab
