#!/bin/sh
# Started by capsule.ts on the host; becomes PID 1 of a capsule. Two stages in one file, because the cgroup namespace must
# be made while the process is in the capsule's group, and everything else from the child `init` below it.
#   $1 = join: $2 name; the rest of the arguments go to stage two
#   $1 = mount: $2 name, $3 root filesystem, $4 layer, $5 state directory, $6 directory to build the root on
# Standard input: a line "go" once the network is there. Standard error is the capsule's console.
set -eu
stage=$1
name=$2

if [ "$stage" = join ]; then
  for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ ! -e "$dir/capsule-$name/cgroup.procs" ] || group_dirs="${group_dirs:-} $dir/capsule-$name"
  done
  # A cgroup namespace is rooted where its maker is. On v2 this works before the group passes controllers on only.
  for group in $group_dirs; do echo 0 >"$group/cgroup.procs"; done
  shift
  exec unshare --cgroup -- /bin/sh "$0" leaf "$@"
fi

if [ "$stage" = leaf ]; then
  for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ ! -e "$dir/capsule-$name/init/cgroup.procs" ] || echo 0 >"$dir/capsule-$name/init/cgroup.procs"
  done
  shift
  exec unshare --mount --propagation private --pid --fork --net --ipc --uts -- /bin/sh "$0" mount "$@"
fi

rootfs=$3 layer=$4 state=$5 base=$6
echo started

mount -t tmpfs -o mode=755,nosuid "capsule-$name" "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=$layer:$rootfs,upperdir=$base/upper,workdir=$base/work" "capsule-$name" "$base/root"
cd "$base/root"

mount --bind "$state/perm" perm
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs tmp
# /proc stays fully visible and /sys without mounts but on its empty directories: the kernel refuses to mount either in a
# container with a user namespace otherwise.
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys

first=1
while read -r type options place; do
  if [ "$first" = 1 ]; then
    first=0
    [ "$place" = . ] || mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs sys/fs/cgroup
  fi
  [ "$place" = . ] || mkdir -p "sys/fs/cgroup/$place"
  if [ "$options" = - ]; then mount -t "$type" -o nosuid,nodev,noexec cgroup "sys/fs/cgroup/$place"
  else mount -t "$type" -o "nosuid,nodev,noexec,$options" cgroup "sys/fs/cgroup/$place"; fi
done <<TABLE
$CAPSULE_CGROUP_MOUNTS
TABLE
mount -o remount,bind,ro,nosuid,nodev,noexec sys

# Only devices that a capsule uses, never the host's disks, consoles or watchdog.
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mkdir dev/pts dev/shm dev/mqueue dev/net
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
for device in fuse net/tun loop-control loop0 loop1 loop2 loop3 loop4 loop5 loop6 loop7 kvm; do
  [ ! -e "/dev/$device" ] || cp -a "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5,nosuid,noexec devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

if [ -s perm/capsule/hostname ]; then hostname -F perm/capsule/hostname; else hostname "$name"; fi
printf '%s\n' "$CAPSULE_RESOLV_CONF" >run/resolv.conf
# /perm is there already: the services that need it may start.
mkdir run/capsule
: >run/capsule/perm-ready

# Without the word the runner has died: end, and everything made here ends with this process.
read -r word
[ "$word" = go ]

pivot_root . mnt
exec chroot . /bin/sh -c 'umount -l /mnt && exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root container=capsule-namespace /sbin/capsule-init' </dev/null >&2
