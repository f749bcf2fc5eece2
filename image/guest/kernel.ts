/**
 * The kernel of microVMs: Debian's for virtual machines ("cloud"), as the ELF file that a monitor starts without firmware
 * (PVH, or the 64-bit entry), and the few modules that a guest needs.
 */
import { execFileSync } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { zstdDecompressSync } from "node:zlib";
import { extractPackage } from "../apt.ts";
import { fetchKernel, type KernelPackage } from "../kernel.ts";
import { run } from "../run.ts";

const metaPackage = process.arch === "arm64" ? "linux-image-cloud-arm64" : "linux-image-cloud-amd64";
/** What a guest has: disks, a network, memory that it gives back, randomness, ext4. Its serial port is built into the kernel. */
const wanted = [
  "virtio_mmio",
  // For monitors that have PCI; built into Debian's kernel.
  "virtio_pci",
  "virtio_blk",
  "virtio_net",
  "virtio_balloon",
  "virtio-rng",
  "ext4",
];
/**
 * What only machines with one virtio device need: module, type of the device (virtio 1.1, 5), as the kernel writes it. The way
 * to the agent of a monitor without a serial port for it; its users have no business with it where there is none.
 */
const forDevices = { vmw_vsock_virtio_transport: "0x0013" } as const;

/** Begin of the ELF note with the entry point: lengths of name and value (8 or 4 bytes), XEN_ELFNOTE_PHYS32_ENTRY, name. */
const pvhNotes = [8, 4].map((size) => {
  const note = Buffer.alloc(16);
  for (const [i, value] of [4, size, 18].entries()) note.writeUInt32LE(value, i * 4);
  note.write("Xen\0", 12);
  return note;
});

/** Finds the kernel that guests get today, and ensures that its package is in the cache. */
export async function fetchGuestKernel(): Promise<KernelPackage> {
  return await fetchKernel(metaPackage);
}

/** Writes the kernel to `target` and its modules to `tree`/lib/modules, with a list of them in the order of loading. */
export async function unpackGuestKernel(
  { deb, version }: KernelPackage,
  scratch: string,
  target: string,
  tree: string,
): Promise<void> {
  await extractPackage(deb, scratch);
  await writeFile(target, uncompressed(await readFile(join(scratch, "boot", `vmlinuz-${version}`))));
  await copyModules(wanted, join(scratch, "usr"), version, join(tree, "lib/modules"), forDevices);
}

/**
 * Writes modules and all that they need to `to`, with a list of them, `order`, in which they can be loaded. `from` has a
 * lib/modules of kernel packages. Modules of `devices`, and what only they need, have the type of a virtio device behind
 * their path, with a blank between: they are for machines that have one.
 */
export async function copyModules(
  names: readonly string[],
  from: string,
  version: string,
  to: string,
  devices: Readonly<Record<string, string>> = {},
): Promise<void> {
  await run(["depmod", "-b", from, "-w", version]);
  await mkdir(to, { recursive: true });
  const order = new Map<string, string>();
  // What every machine needs is first: what is found later is for the device alone.
  const all = [...names.map((name) => [name, ""] as const), ...Object.entries(devices)];
  for (const [name, device] of all) {
    const shown = await run(["modprobe", "-d", from, "-S", version, "--show-depends", name]);
    for (const [, path = ""] of shown.matchAll(/^insmod (\S+)/gm)) {
      const plain = basename(path).replace(/\.xz$/, "");
      if (order.has(plain)) continue;
      order.set(plain, device);
      const unpacked = 'case "$1" in *.xz) xz -dc "$1" ;; *) cat "$1" ;; esac >"$2"';
      await run(["sh", "-ec", unpacked, "sh", path, join(to, plain)]);
    }
  }
  const lines = [...order].map(([name, device]) => `/lib/modules/${name} ${device}`.trimEnd());
  await writeFile(join(to, "order"), lines.map((line) => `${line}\n`).join(""));
}

/**
 * The ELF file inside a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length). The last
 * four bytes of the payload are its unpacked size.
 */
function uncompressed(image: Buffer): Buffer {
  if (image.toString("latin1", 0x202, 0x206) !== "HdrS") throw new Error("it is no bzImage");
  const start = ((image[0x1f1] || 4) + 1) * 512 + image.readUInt32LE(0x248);
  const payload = image.subarray(start, start + image.readUInt32LE(0x24c));
  const elf = unpack(payload);
  if (elf.toString("latin1", 0, 4) !== "\x7fELF") throw new Error("the kernel holds no ELF file");
  if (!pvhNotes.some((note) => elf.includes(note)))
    throw new Error("the kernel has no PVH entry: QEMU could not start it");
  return elf;
}

function unpack(payload: Buffer): Buffer {
  const size = payload.readUInt32LE(payload.length - 4);
  const data = payload.subarray(0, -4);
  if (data.readUInt32LE(0) === 0xfd2fb528) return zstdDecompressSync(data, { maxOutputLength: size });
  if (data.toString("latin1", 1, 5) === "7zXZ")
    return execFileSync("xz", ["-dc"], { input: data, maxBuffer: size + 1 });
  throw new Error("the kernel is packed in a way that is not known here");
}
