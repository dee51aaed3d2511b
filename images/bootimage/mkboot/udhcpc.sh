#!/bin/sh
# What udhcpc runs when it has an address, or has it no more.
case "$1" in
deconfig)
  ip address flush dev "$interface"
  ip link set "$interface" up
  ;;
bound | renew)
  ip address replace "$ip/$mask" dev "$interface"
  for gateway in $router; do
    ip route replace default via "$gateway" dev "$interface"
    break
  done
  for server in $dns; do
    echo "nameserver $server"
  done >/etc/resolv.conf
  for tty in $(cat /sys/class/tty/console/active); do
    [ "$tty" = tty0 ] && tty=tty1
    echo "network: $interface has address $ip" >"/dev/$tty"
  done
  ;;
esac
