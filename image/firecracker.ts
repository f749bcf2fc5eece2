/**
 * Firecracker for the image. Debian does not have it: whoever wants it names the program of a release, FIRECRACKER=FILE. What
 * it is, is part of the layer's name (layer.ts) and of the bill of materials (sbom.ts).
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";

/** Where it is in the capsule. */
export const firecrackerPath = "usr/bin/firecracker";

export interface FirecrackerProgram {
  readonly file: string;
  readonly sha256: string;
}

const x86_64 = 62;
const interpreterType = 3;

/** Undefined when the image is made without it. Throws when the file is no program for it. */
export async function firecrackerProgram(file = process.env["FIRECRACKER"]): Promise<FirecrackerProgram | undefined> {
  if (file === undefined || file === "") return undefined;
  const content = await readFile(file).catch((cause: unknown) => {
    throw new Error(`FIRECRACKER=${file}: it cannot be read`, { cause });
  });
  const fault = programFault(content);
  if (fault !== undefined) throw new Error(`FIRECRACKER=${file}: it ${fault}`);
  return { file, sha256: createHash("sha256").update(content).digest("hex") };
}

/** What is wrong with it (https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html). Pure. */
export function programFault(content: Buffer): string | undefined {
  const isElf = content.length >= 64 && content.toString("latin1", 0, 4) === "\x7fELF";
  if (!isElf) return "is no program (ELF): the release is an archive, which has it as release-*/firecracker-*-x86_64";
  if (content[4] !== 2 || content[5] !== 1 || content.readUInt16LE(18) !== x86_64) return "is not for x86-64";
  const [start, size, count] = [
    Number(content.readBigUInt64LE(32)),
    content.readUInt16LE(54),
    content.readUInt16LE(56),
  ];
  for (let i = 0; i < count; i++) {
    const at = start + i * size;
    if (at + 4 > content.length) return "is not whole";
    // The image has the libraries of its own programs only.
    if (content.readUInt32LE(at) === interpreterType) return "needs libraries: those of the releases need none";
  }
  return undefined;
}
