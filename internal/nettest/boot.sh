# Boots systemd in a temporary copy of this machine: boot.sh boot|inside|clean DIR. DIR is an empty directory.
# It runs as the first process of its own namespaces (mounts, processes, host name, IPC), in the network of its caller.
set -eu
verb=$1 dir=$2
# A control group below the group of the caller, in the hierarchy that every kernel since 4.5 has.
group() {
	mkdir -p "$dir/cgroup"
	mount -t cgroup2 cgroup2 "$dir/cgroup"
	own=$dir/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/sikkerguard-test$(echo "$dir" | tr / -)
}
case $verb in
boot)
	mount --make-rprivate /
	group
	mkdir "$own"
	echo 0 >"$own/cgroup.procs"
	exec unshare --cgroup sh "$0" inside "$dir"
	;;
clean)
	mount --make-rprivate /
	group
	[ ! -d "$own" ] || find "$own" -depth -type d -exec rmdir {} +
	exit
	;;
esac

mount -t tmpfs tmpfs "$dir"
root=$dir/root
mkdir "$dir/upper" "$dir/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$root"
mount -t proc proc "$root/proc"
# The kernel settings belong to the machine.
for path in sys sysrq-trigger; do
	[ -e "$root/proc/$path" ] || continue
	mount --bind "$root/proc/$path" "$root/proc/$path"
	mount -o remount,bind,ro "$root/proc/$path"
done
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
	touch "$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/shared"
mount --bind "$dir.shared" "$root/shared"
: >"$root/etc/machine-id"
: >"$root/etc/fstab"
# The copy starts no service of the machine.
cat >"$root/etc/systemd/system/test.target" <<UNIT
[Unit]
DefaultDependencies=no
Requires=systemd-journald.service
After=systemd-journald.service
UNIT
mkdir "$root/.old"
cd "$root"
pivot_root . .old
umount -l /.old
mount --make-rshared /
exec env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --system --log-target=console --show-status=no --unit=test.target
