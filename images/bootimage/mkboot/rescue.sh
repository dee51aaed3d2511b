#!/bin/busybox sh
# The first process of the rescue system: it mounts what the kernel serves, loads the
# drivers of the machine's devices, asks for addresses and gives a shell on every
# console. It mounts no disk and writes nothing.
export PATH=/bin HOME=/ TERM=linux PS1='rescue:\w# '
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /etc /run /tmp
mount -t devpts devpts /dev/pts
echo 4 >/proc/sys/kernel/printk

# busybox's halt, poweroff and reboot ask the first process by a signal.
trap 'halt -f' USR1
trap 'poweroff -f' USR2
trap 'reboot -f' TERM

# A driver may show a bus with more devices on it.
for pass in 1 2 3; do
  find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u | xargs modprobe -a -q -b 2>/dev/null
  sleep 1
done

for card in /sys/class/net/*; do
  card=${card##*/}
  [ "$card" = lo ] && continue
  ip link set "$card" up
  udhcpc -b -i "$card" -s /usr/share/udhcpc/default.script -t 5 -T 2 >/dev/null 2>&1 &
done

console() {
  while :; do
    setsid sh -c 'exec sh -i <"$0" >"$0" 2>&1' "/dev/$1"
    sleep 1
  done
}
for tty in $(cat /sys/class/tty/console/active); do
  [ "$tty" = tty0 ] && tty=tty1
  {
    echo
    echo "LPMOS rescue: a shell in memory. No disk is mounted, and nothing was written."
    echo "\"ip address\" shows the network, \"lsscsi\" and /sys/block the disks. \"reboot\" boots the machine's own disk."
  } >"/dev/$tty"
  console "$tty" &
done
while :; do wait; sleep 1; done
