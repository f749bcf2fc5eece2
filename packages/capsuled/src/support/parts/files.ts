/** Parts that are files of the kernel or the capsule, as they are. */
import { open } from "node:fs/promises";
import type { Bounds, Part } from "../part.ts";

/** A part that is one file. */
export function filePart(name: string, path: string): Part {
  return { name, collect: async (bounds) => await contentOf(path, bounds) };
}

/** A part that is several files, each under a line with its path; those that are not there are left out. */
export function filesPart(name: string, paths: readonly string[]): Part {
  return {
    name,
    collect: async (bounds) => {
      const texts = await Promise.all(
        paths.map(async (path) => {
          const text = await contentOf(path, bounds).catch(unlessMissing);
          return text === undefined ? "" : `# ${path}\n${text.trimEnd()}\n\n`;
        }),
      );
      return texts.join("");
    },
  };
}

/** Undefined for a file that is not there, or is the kernel's and has nothing to tell now; throws every other error. */
export function unlessMissing(error: NodeJS.ErrnoException): undefined {
  if (["ENOENT", "ENOTDIR", "EOPNOTSUPP", "ESRCH"].includes(error.code ?? "")) return undefined;
  throw error;
}

/** At most one byte more than the limit, so that whoever cuts the text sees that there is more. Files of the kernel have no size. */
export async function contentOf(path: string, { limitBytes }: Pick<Bounds, "limitBytes">): Promise<string> {
  const file = await open(path, "r");
  try {
    const buffer = Buffer.alloc(limitBytes + 1);
    let size = 0;
    while (size < buffer.length) {
      const { bytesRead } = await file.read(buffer, size, Math.min(65_536, buffer.length - size), null);
      if (bytesRead === 0) break;
      size += bytesRead;
    }
    return buffer.toString("utf8", 0, size);
  } finally {
    await file.close();
  }
}
