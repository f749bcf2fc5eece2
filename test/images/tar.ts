/** One file of an archive. Owner root unless given; times are always zero, so that equal input gives equal bytes. */
export type TarEntry = {
  readonly path: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
} & (
  | { readonly type: "file"; readonly data: Uint8Array }
  | { readonly type: "directory" }
  | { readonly type: "symlink" | "link"; readonly target: string }
);

const typeFlags = { file: "0", link: "1", symlink: "2", directory: "5" } as const;
const blockBytes = 512;

/**
 * Writes a POSIX ustar archive.
 * @throws {RangeError} for a path over 100 bytes: the images of the tests have none.
 */
export function tar(entries: readonly TarEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const entry of entries) {
    const data = entry.type === "file" ? entry.data : new Uint8Array();
    parts.push(
      header(entry, data.length),
      Buffer.from(data),
      Buffer.alloc((blockBytes - (data.length % blockBytes)) % blockBytes),
    );
  }
  parts.push(Buffer.alloc(2 * blockBytes));
  return Buffer.concat(parts);
}

function header(entry: TarEntry, size: number): Buffer {
  const block = Buffer.alloc(blockBytes);
  const text = (value: string, offset: number, length: number): void => {
    const bytes = Buffer.from(value);
    if (bytes.length > length) throw new RangeError(`"${value}" is longer than ${length} bytes`);
    bytes.copy(block, offset);
  };
  const octal = (value: number, offset: number, length: number): void =>
    text(`${value.toString(8).padStart(length - 1, "0")}\0`, offset, length);
  text(entry.type === "directory" ? `${entry.path}/` : entry.path, 0, 100);
  octal(entry.mode ?? (entry.type === "file" ? 0o644 : 0o755), 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  octal(size, 124, 12);
  octal(0, 136, 12);
  text(" ".repeat(8), 148, 8); // the checksum counts itself as blanks
  text(typeFlags[entry.type], 156, 1);
  if (entry.type === "symlink" || entry.type === "link") text(entry.target, 157, 100);
  text("ustar\x0000", 257, 8);
  const sum = block.reduce((total, byte) => total + byte, 0);
  text(`${sum.toString(8).padStart(6, "0")}\0 `, 148, 8);
  return block;
}
