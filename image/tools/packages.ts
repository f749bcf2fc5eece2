/** One Debian package of the tool image (`capsule debug`), and what of it is kept. */
export interface ToolPackage {
  readonly name: string;
  /** Names in /usr/bin and /usr/sbin; all of them when absent, but for scripts of interpreters that are not there. */
  readonly programs?: readonly string[];
  /** Further files and directories, relative to the root. Shared libraries follow by themselves. */
  readonly keep?: readonly string[];
}

/** What an engineer wants at three in the morning, by subject. Nothing here may need an interpreter but a shell. */
export const toolPackages: readonly ToolPackage[] = [
  // A shell and what goes with it; busybox has the rest of the names.
  { name: "bash" },
  { name: "coreutils" },
  { name: "findutils" },
  { name: "grep" },
  { name: "sed" },
  { name: "mawk" },
  { name: "diffutils" },
  { name: "tar" },
  { name: "gzip" },
  { name: "xz-utils", programs: ["xz", "xzcat", "unxz"] },
  { name: "zstd", programs: ["zstd", "zstdcat", "unzstd"] },
  { name: "less" },
  { name: "vim-tiny", keep: ["etc/vim/vimrc.tiny"] },
  { name: "jq" },
  { name: "bsdextrautils", programs: ["column", "hexdump", "hd"] },
  { name: "busybox" },
  { name: "ncurses-base", programs: [], keep: ["usr/share/terminfo"] },
  { name: "libc-bin", programs: ["getent", "getconf", "ldd", "iconv"], keep: ["usr/lib/locale/C.utf8"] },
  {
    name: "libc6",
    programs: [],
    keep: ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"].map((name) => `usr/lib/@triplet@/${name}`),
  },
  { name: "netbase", programs: [], keep: ["etc/protocols", "etc/services"] },
  // Processes.
  { name: "procps" },
  { name: "psmisc", programs: ["fuser", "killall", "prtstat", "pstree"] },
  { name: "htop" },
  { name: "iotop-c" },
  { name: "sysstat", programs: ["iostat", "mpstat", "pidstat"] },
  { name: "strace", programs: ["strace"] },
  { name: "lsof" },
  { name: "util-linux" },
  { name: "util-linux-extra" },
  { name: "kmod" },
  // Disks and filesystems.
  { name: "mount" },
  { name: "lvm2" },
  { name: "dmsetup" },
  { name: "thin-provisioning-tools" },
  { name: "cryptsetup-bin", programs: ["cryptsetup"] },
  { name: "e2fsprogs", keep: ["etc/mke2fs.conf"] },
  {
    name: "xfsprogs",
    // Not xfs_scrub, which brings 36 MB of Unicode tables.
    programs: ["mkfs.xfs", "xfs_db", "xfs_growfs", "xfs_info", "xfs_io", "xfs_logprint", "xfs_repair", "xfs_spaceman"],
  },
  { name: "dosfstools" },
  { name: "gdisk", programs: ["gdisk", "sgdisk"] },
  { name: "fdisk" },
  { name: "hdparm" },
  { name: "smartmontools", programs: ["smartctl"], keep: ["usr/share/smartmontools/drivedb.h"] },
  { name: "nvme-cli" },
  { name: "sqlite3", programs: ["sqlite3"] },
  // Hardware.
  { name: "pciutils", programs: ["lspci", "setpci"] },
  { name: "pci.ids", programs: [], keep: ["usr/share/misc/pci.ids"] },
  { name: "usbutils", programs: ["lsusb", "usb-devices"] },
  // The network.
  { name: "iproute2", keep: ["usr/share/iproute2"] },
  { name: "nftables" },
  { name: "conntrack" },
  { name: "ethtool" },
  { name: "tcpdump" },
  { name: "iputils-ping" },
  { name: "iputils-tracepath" },
  { name: "socat", programs: ["socat"] },
  { name: "curl" },
  { name: "openssl", programs: ["openssl"], keep: ["etc/ssl/openssl.cnf", "usr/lib/ssl"] },
];

/** Names that Debian's scripts would make, and what of the capsule is seen where programs look for it. */
export const links: Readonly<Record<string, string>> = {
  "usr/bin/awk": "mawk",
  "usr/bin/vi": "vim.tiny",
  "usr/bin/vim": "vim.tiny",
  "etc/mtab": "/proc/self/mounts",
  "etc/resolv.conf": "/run/resolv.conf",
  "etc/hosts": "/host/etc/hosts",
  "etc/ssl/certs": "/host/etc/ssl/certs",
  "usr/lib/modules": "/host/usr/lib/modules",
  "var/run": "/run",
  "var/lock": "/run/lock",
  "var/tmp": "/tmp",
};
