#!/bin/sh
# The first process of a machine under test. It mounts the file systems of a booted system, unpacks the tests and runs them.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for dir in /tmp /run /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs $dir; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
mkdir /tmp/project
tar -xf /dev/vdb -C /tmp/project
sh /tmp/project/guest.sh </dev/null >/dev/ttyS1 2>&1
echo o >/proc/sysrq-trigger
sleep 60
