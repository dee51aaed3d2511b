#!/bin/busybox sh
# The tiny image's only process of its own: what an installed system does when
# it first comes up from its disk, and nothing more. It never writes to a disk.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
say() { echo "tiny: $*"; }

while read -r driver; do
	insmod "$driver" 2>/dev/null
done </etc/drivers

# Disks turn up when they like: wait for the root file system, 30 s at most.
uuid=$(sed -n 's/.*root=UUID=\([^ ]*\).*/\1/p' /proc/cmdline)
tries=0
until root=$(findfs "UUID=$uuid" 2>/dev/null) && mount -t ext4 -o ro,noload "$root" /mnt/root 2>/dev/null; do
	tries=$((tries + 1))
	if [ "$tries" -ge 300 ]; then
		say "no root file system with UUID $uuid"
		break
	fi
	usleep 100000
done
if [ "$tries" -lt 300 ]; then
	kib=$(df -k /mnt/root | awk 'NR == 2 { print $2 }')
	say "root $root partition $(blockdev --getsize64 "$root") bytes, file system $kib KiB"
fi

# The seed is a FAT volume that holds meta-data (cloud-init's NoCloud).
hostname=tiny
for part in $(awk 'NR > 2 { print $4 }' /proc/partitions); do
	mount -t vfat -o ro "/dev/$part" /mnt/seed 2>/dev/null || continue
	if [ -f /mnt/seed/meta-data ]; then
		value() { sed -n "s/^ *$1: *\"\{0,1\}\([^\"]*\)\"\{0,1\} *\$/\1/p" "/mnt/seed/$2" 2>/dev/null | head -n 1; }
		hostname=$(value local-hostname meta-data)
		instance=$(value instance-id meta-data)
		homes=$(cat /mnt/seed/phone-home 2>/dev/null)
		[ -n "$homes" ] || homes=$(value url vendor-data) # a seed somebody else has made
		mac=$(sed -n 's/.*macaddress: *"\{0,1\}\([0-9A-Fa-f:]*\).*/\1/p' /mnt/seed/network-config 2>/dev/null | head -n 1)
		say "seed on $part: instance $instance"
		umount /mnt/seed
		break
	fi
	umount /mnt/seed
done
hostname "${hostname:-tiny}"

# One try to get an address, from each card that may be meant.
get_address() {
	for dev in /sys/class/net/*; do
		dev=${dev##*/}
		[ "$dev" = lo ] && continue
		[ -n "$mac" ] && [ "$(cat "/sys/class/net/$dev/address")" != "$mac" ] && continue
		ip link set "$dev" up
		udhcpc -q -n -f -t 20 -T 1 -i "$dev" -s /etc/dhcp -x "hostname:$(hostname)" >/dev/null 2>&1 || continue
		say "$dev has $(ip -4 -o addr show dev "$dev" | awk '{ print $4 }')"
		return 0
	done
	return 1
}

# In the background, so that the login prompt does not wait for the network. A
# DHCP server may be gone between its offer and its acknowledgement, and no node
# may answer for a while: like any system, this one asks until it is told.
go_online() {
	ip link set lo up
	until get_address; do
		say "no network yet"
		sleep 1
	done
	[ -n "$homes" ] || return
	tries=0
	while [ "$tries" -lt 100 ]; do
		# The node that installed this may be gone: any will do.
		for home in $homes; do
			# Not wget -T: with it Debian 12's static busybox ends in a segmentation fault.
			timeout 5 wget -q -O /dev/null --post-data "instance_id=$instance&hostname=$(hostname)&fqdn=$(hostname)" "$home" &&
				say "reported home" && return
		done
		tries=$((tries + 1))
		sleep 2
	done
	say "could not report home to" $homes
}
go_online &

while :; do
	getty -l /bin/console-login 38400 tty1 linux
	sleep 5
done 2>/dev/null &
while :; do
	getty -L -l /bin/console-login 115200 ttyS0 vt100
	sleep 1
done
