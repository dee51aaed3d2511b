#!/bin/busybox sh
# Called by udhcpc with what the DHCP server said.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
/bin/busybox ip addr flush dev "$interface"
/bin/busybox ip addr add "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do
	/bin/busybox ip route add default via "$gateway" dev "$interface"
	break
done
