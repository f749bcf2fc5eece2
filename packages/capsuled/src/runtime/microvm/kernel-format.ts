/**
 * Whether a file is a kernel that a microVM boots: an x86-64 bzImage (Documentation/arch/x86/boot.rst) or an ELF with the entry
 * point of PVH (xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY). Pure.
 */

/** So much of its beginning is looked at; the notes of an ELF kernel may be further, and are not looked for then. */
export const kernelHeadBytes = 4_096;

const elfMagic = 0x7f454c46;
const x86_64 = 62;
const loadType = 1;
const noteType = 4;
const setupMagic = 0x53726448; // "HdrS", little endian
/** Its 64-bit entry point came with this version. */
const oldestProtocol = 0x020c;

/** What is wrong with it, to be said after its name; undefined when it looks right. `onlyElf`: for a monitor that unpacks nothing. */
export function kernelFault(head: Buffer, onlyElf = false): string | undefined {
  if (head.length >= 64 && head.readUInt32BE(0) === elfMagic) return elfFault(head);
  const isPacked = head.length >= 0x208 && head.readUInt32LE(0x202) === setupMagic;
  if (isPacked && onlyElf) return "is a bzImage: Firecracker boots the ELF (vmlinux) that is packed in it";
  if (isPacked)
    return head.readUInt16LE(0x206) >= oldestProtocol
      ? undefined
      : "is a kernel older than Linux 3.8, which is not booted";
  return "is no kernel: an x86-64 bzImage, or an ELF (vmlinux) that boots by PVH, is needed";
}

function elfFault(head: Buffer): string | undefined {
  const is64 = head[4] === 2 && head[5] === 1;
  if (!is64 || head.readUInt16LE(18) !== x86_64)
    return "is a program, or a kernel for another processor: x86-64 is needed";
  const headers = programHeaders(head);
  // A kernel is linked into its half of the addresses, a program never is; the entry point of PVH is told by a note.
  const isKernel = headers.some(({ type, address }) => type === loadType && address >= 2n ** 63n);
  if (!isKernel) return "is a program and no kernel";
  return headers.some(({ type }) => type === noteType) ? undefined : "is a kernel that does not boot by PVH";
}

/** Program headers that are in the head. */
function programHeaders(head: Buffer): { readonly type: number; readonly address: bigint }[] {
  const offset = Number(head.readBigUInt64LE(32));
  const size = head.readUInt16LE(54);
  const count = head.readUInt16LE(56);
  return Array.from({ length: count }, (_, i) => offset + i * size)
    .filter((at) => at + 24 <= head.length)
    .map((at) => ({ type: head.readUInt32LE(at), address: head.readBigUInt64LE(at + 16) }));
}
