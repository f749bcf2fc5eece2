/**
 * A machine that boots its own kernel, as a user would bring it: Debian's kernel as it is in its package, an initramfs that
 * mounts the root disk, and a root disk with busybox.
 */
import { chmod, copyFile, mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { extractPackage } from "../../image/apt.ts";
import { writeArchive } from "../../image/archive.ts";
import { copyModules, fetchGuestKernel } from "../../image/guest/kernel.ts";
import { busybox } from "./build.ts";

const modules = ["virtio_mmio", "virtio_blk", "virtio_net", "ext4", "button", "evdev"];

const initOfInitramfs = `#!/bin/sh
mount -t devtmpfs dev /dev
while read module; do insmod $module; done </lib/modules/order
until mount -t ext4 /dev/vda /mnt 2>/dev/null; do sleep 0.1; done
mount --move /dev /mnt/dev
exec switch_root /mnt /sbin/init
`;

/** Serves how often it was booted, and shuts down in order when its power button is pressed. */
const initOfRoot = `#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
read arguments </proc/cmdline
echo "an own root was told: $arguments"
echo $(($(cat /www/boots 2>/dev/null || echo 0) + 1)) >/www/boots
sync
for word in $arguments; do case $word in ip=*) address=\${word#ip=} ;; esac; done
IFS=: read client server gateway mask name rest <<EOF
$address
EOF
ifconfig eth0 $client netmask $mask up
route add default gw $gateway
httpd -p 80 -h /www
echo serving
dd if=/dev/input/event0 of=/dev/null bs=24 count=1 2>/dev/null
echo its power button was pressed
mount -o remount,ro /
poweroff -f
`;

/** Writes them below `dir`: root/ is for the root disk, with boot/vmlinuz and boot/initramfs. */
export async function ownMachine(dir: string): Promise<void> {
  const { deb, version } = await fetchGuestKernel();
  const { program, tools } = await busybox();
  const packages = join(dir, "package");
  const [root, initramfs] = [join(dir, "root"), join(dir, "initramfs")];
  await mkdir(packages, { recursive: true });
  await extractPackage(deb, packages);
  for (const tree of [root, initramfs]) {
    for (const name of ["bin", "dev", "proc", "mnt", "sbin", "www", "boot"])
      await mkdir(join(tree, name), { recursive: true });
    await script(join(tree, "bin/busybox"), program);
    for (const name of tools) await symlink("busybox", join(tree, "bin", name));
  }
  await copyModules(modules, join(packages, "usr"), version, join(initramfs, "lib/modules"));
  await script(join(initramfs, "init"), initOfInitramfs);
  await script(join(root, "sbin/init"), initOfRoot);
  await copyFile(join(packages, "boot", `vmlinuz-${version}`), join(root, "boot/vmlinuz"));
  await writeArchive(initramfs, join(root, "boot/initramfs"));
}

async function script(path: string, content: string | Buffer): Promise<void> {
  await writeFile(path, content);
  await chmod(path, 0o755);
}
