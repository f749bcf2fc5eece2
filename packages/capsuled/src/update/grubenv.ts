/**
 * GRUB's environment block (GRUB manual, "Environment block"; grub-core/lib/envblk.c): 1024 bytes of lines NAME=VALUE,
 * filled up with "#". GRUB reads and writes it in place, and so do we.
 *
 * Ours never goes beyond the first sector. The second stays as it is, so that a change is a change of one sector, which a
 * disk writes whole or not at all: a power cut leaves the old choice or the new one.
 */
import { CapsuleError } from "../errors.ts";

export const grubenvBytes = 1024;
const sectorBytes = 512;
const signature = "# GRUB Environment Block\n";
/** No line that GRUB or grub-editenv would have to escape. */
const value = /^[a-z0-9_.-]{0,64}$/;

export type Variables = Readonly<Record<string, string>>;

/** Throws CapsuleError when the block is none. */
export function readGrubenv(block: Buffer): Variables {
  const variables: Record<string, string> = {};
  for (const line of linesOf(block)) {
    const at = line.indexOf("=");
    if (!line.startsWith("#") && at > 0) variables[line.slice(0, at)] = line.slice(at + 1);
  }
  return variables;
}

/** The block with variables set, or with `undefined` unset; the order stays, new ones come last, as grub-editenv does it. */
export function editGrubenv(block: Buffer, changes: Readonly<Record<string, string | undefined>>): Buffer {
  const pending = new Map(Object.entries(changes));
  const lines: string[] = [];
  for (const line of linesOf(block)) {
    const name = line.startsWith("#") ? "" : line.slice(0, line.indexOf("="));
    if (!pending.has(name)) {
      lines.push(line);
      continue;
    }
    const wanted = pending.get(name);
    pending.delete(name);
    if (wanted !== undefined) lines.push(lineOf(name, wanted));
  }
  for (const [name, wanted] of pending) if (wanted !== undefined) lines.push(lineOf(name, wanted));
  const text = lines.map((line) => `${line}\n`).join("");
  if (text.length > sectorBytes) throw unusable("it would need more than one sector");
  const edited = Buffer.alloc(grubenvBytes, "#");
  edited.write(text, "latin1");
  return edited;
}

/** A block with nothing in it. */
export function emptyGrubenv(): Buffer {
  const block = Buffer.alloc(grubenvBytes, "#");
  block.write(signature, "latin1");
  return block;
}

function linesOf(block: Buffer): string[] {
  const text = block.toString("latin1");
  if (block.length !== grubenvBytes || !text.startsWith(signature)) throw unusable("it does not begin as one");
  // What fills it up has no end of a line.
  return text.split("\n").slice(0, -1);
}

function lineOf(name: string, wanted: string): string {
  if (!value.test(wanted)) throw new TypeError(`${name}=${wanted} is no value for the boot loader`);
  return `${name}=${wanted}`;
}

function unusable(why: string): CapsuleError {
  return new CapsuleError("internal", `The boot loader's environment block cannot be used: ${why}.`);
}
