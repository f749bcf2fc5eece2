#!/bin/sh
# Installs what the build and the tests need and this machine lacks: Debian packages, Rust, the npm packages with the
# pinned Node.js. Instant when nothing is missing. Run by `make deps`, as root, on Debian 12 or 13.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build/log build/cache

log=$PWD/build/log/deps.log

fail() {
  echo "deps: $1; the end of $log:" >&2
  tail -n 20 "$log" >&2
  exit 1
}

install() {
  echo "deps: installing $*"
  [ "$(id -u)" = 0 ] || fail "root is needed to install $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update >>"$log" 2>&1 || fail "apt-get update failed"
  apt-get install -y --no-install-recommends "$@" >>"$log" 2>&1 || fail "apt-get install $* failed"
}

# The command of a package stands for it.
missing=""
want() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
want ip iproute2
want nft nftables
want unshare util-linux
want mount mount
want mmdebstrap mmdebstrap
want flock util-linux
want xz xz-utils
want cc gcc
want npm npm
# The OS image: kernel modules, squashfs, boot partition.
want depmod kmod
want modprobe kmod
want mksquashfs squashfs-tools
want mkfs.vfat dosfstools
want mcopy mtools
want sfdisk fdisk
want cpio cpio
want openssl openssl
want zstd zstd
# Pools without device-mapper: the conformance tests make one on this machine.
want mkfs.xfs xfsprogs
want e2fsck e2fsprogs
want xxd xxd
want grub-mkimage grub-common
want swtpm swtpm
[ -e /usr/lib/grub/x86_64-efi ] || [ "$(uname -m)" != x86_64 ] || missing="$missing grub-efi-amd64-bin"
[ -e /usr/lib/grub/i386-pc ] || [ "$(uname -m)" != x86_64 ] || missing="$missing grub-pc-bin"
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -e /usr/lib/aarch64-linux-gnu/libc.a ] || missing="$missing libc6-dev"
# shellcheck disable=SC2086
[ -z "$missing" ] || install $missing

# Rust 1.85 is what Debian 13 has; Debian 12 carries a newer one for its browsers.
rust_new_enough() {
  command -v cargo >/dev/null 2>&1 && rustc --version | awk '{ split($2, v, "."); exit !(v[1] > 1 || v[2] >= 85) }'
}
if ! rust_new_enough; then
  if apt-cache show cargo-web >/dev/null 2>&1; then install cargo-web rustc-web rustfmt-web; else install cargo rustc rustfmt rust-clippy; fi
  rust_new_enough || fail "no Rust of 1.85 or newer could be installed"
fi

# npm ci empties node_modules: only when the lock file is another one.
stamp=node_modules/.capsule-lock
if ! cmp -s package-lock.json "$stamp" 2>/dev/null; then
  echo "deps: npm ci"
  npm ci --no-audit --no-fund >>"$log" 2>&1 || fail "npm ci failed"
  cp package-lock.json "$stamp"
fi
