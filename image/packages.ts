/** One Debian package of the root filesystem, and what of it the capsule keeps. */
export type ImagePackage = {
  readonly name: string;
  /** Why it is in the image. A package without a good reason goes. */
  readonly reason: string;
  /** Files and directories to keep, relative to the root. Shared libraries that they need follow by themselves. */
  readonly keep: readonly string[];
};

/**
 * Everything that is in the image, by package. It is a list of what to keep, not of what to remove: a new dependency in
 * Debian can add nothing to the image by itself, and no package manager, interpreter or init system slips in.
 */
export const imagePackages: readonly ImagePackage[] = [
  {
    name: "containerd",
    reason: "runs the containers and keeps their images",
    keep: ["usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"],
  },
  { name: "runc", reason: "OCI runtime, containerd's own default", keep: ["usr/bin/runc", "usr/sbin/runc"] },
  { name: "crun", reason: "OCI runtime, starts a container in less time than runc", keep: ["usr/bin/crun"] },
  { name: "nftables", reason: "loads the compiled firewall", keep: ["usr/sbin/nft"] },
  {
    name: "iproute2",
    reason: "links, addresses and routes of workloads",
    keep: ["usr/bin/ip", "usr/sbin/bridge", "usr/bin/ss", "usr/share/iproute2"],
  },
  { name: "dnsmasq-base", reason: "answers the workloads' name queries", keep: ["usr/sbin/dnsmasq"] },
  {
    name: "netbase",
    reason: "names of protocols and services, which resolvers look up",
    keep: ["etc/protocols", "etc/services"],
  },
  {
    name: "util-linux",
    reason: "namespaces and block devices: busybox' versions lack what the storage and debug paths use",
    keep: [
      "usr/bin/nsenter",
      "usr/bin/unshare",
      "usr/sbin/blkid",
      "usr/sbin/fsfreeze",
      "usr/bin/flock",
      "usr/bin/findmnt",
      "usr/bin/lsblk",
      "usr/bin/setpriv",
    ],
  },
  {
    name: "util-linux-extra",
    reason: "tells the kernel of a partition that has grown",
    keep: ["usr/bin/resizepart", "usr/sbin/resizepart"],
  },
  {
    name: "mount",
    reason: "mounts of all kinds, loop devices",
    keep: ["usr/bin/mount", "usr/bin/umount", "usr/sbin/losetup"],
  },
  {
    name: "kmod",
    reason: "loads modules by the name of a device, with what they need",
    keep: ["usr/bin/kmod", "usr/sbin/modprobe", "usr/bin/lsmod", "etc/modprobe.d"],
  },
  {
    name: "lvm2",
    reason: "/perm and volumes on a real disk",
    keep: ["usr/sbin/lvm"],
  },
  { name: "dmsetup", reason: "shows what device-mapper has when LVM is at a loss", keep: ["usr/sbin/dmsetup"] },
  {
    name: "dmeventd",
    reason: "grows a thin pool before it is full",
    // The plugin is found by the link, and what it loads only when it is named as a file.
    keep: [
      "usr/sbin/dmeventd",
      "usr/lib/@triplet@/libdevmapper-event-lvm2thin.so",
      "usr/lib/@triplet@/device-mapper/libdevmapper-event-lvm2thin.so",
    ],
  },
  {
    name: "thin-provisioning-tools",
    reason: "LVM checks a thin pool by it before it uses one, and it tells what a snapshot has alone",
    keep: ["usr/sbin/thin_check", "usr/sbin/thin_repair", "usr/sbin/thin_dump", "usr/sbin/thin_ls"],
  },
  {
    name: "e2fsprogs",
    reason: "/perm and volumes are ext4",
    keep: [
      "usr/sbin/mke2fs",
      "usr/sbin/e2fsck",
      "usr/sbin/resize2fs",
      "usr/sbin/tune2fs",
      "usr/sbin/filefrag",
      "etc/mke2fs.conf",
    ],
  },
  {
    name: "xfsprogs",
    reason: "a pool without device-mapper is an XFS with reflinks",
    keep: ["usr/sbin/mkfs.xfs", "usr/sbin/xfs_repair"],
  },
  { name: "fdisk", reason: "grows the last partition into a larger disk", keep: ["usr/sbin/sfdisk"] },
  {
    name: "qemu-system-x86",
    reason: "runs microVMs: a small build for that machine type and KVM alone, and the whole one, which can emulate",
    keep: ["usr/bin/qemu-system-x86_64-microvm", "usr/bin/qemu-system-x86_64"],
  },
  { name: "qemu-system-data", reason: "what starts the kernel of a microVM", keep: ["usr/share/qemu/qboot.rom"] },
  { name: "chrony", reason: "keeps the clock right: tokens depend on it", keep: ["usr/sbin/chronyd"] },
  {
    name: "busybox",
    reason: "a shell and the common tools for debugging, in one small program",
    keep: ["usr/bin/busybox"],
  },
  { name: "ca-certificates", reason: "registries are reached over TLS", keep: ["usr/share/ca-certificates/mozilla"] },
  { name: "libstdc++6", reason: "the Node.js binary links it", keep: ["usr/lib/@triplet@/libstdc++.so.6"] },
  {
    name: "libc6",
    reason: "name services that the C library loads at run time, and its old parts that the Node.js binary still names",
    keep: ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2", "libdl.so.2", "libpthread.so.0", "librt.so.1"].map(
      (name) => `usr/lib/@triplet@/${name}`,
    ),
  },
  {
    name: "libc-bin",
    reason: "getent answers what programs would see of names",
    keep: ["usr/bin/getent", "usr/lib/locale/C.utf8"],
  },
  { name: "base-files", reason: "the tree's shape and the release's identity", keep: ["etc/debian_version"] },
];
