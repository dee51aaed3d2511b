#!/bin/busybox sh
# Called by getty as "console-login -- NAME". There is nobody to log in.
for name; do :; done
case $name in
poweroff | reboot)
	echo "$name"
	/bin/busybox "$name" -f
	;;
*)
	echo "There are no accounts here: log in as \"poweroff\" or \"reboot\"."
	;;
esac
