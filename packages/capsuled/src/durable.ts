import { mkdir, open, rename } from "node:fs/promises";
import { dirname } from "node:path";

/** Writes a file so that after a power cut it has its old content or all of the new; durable when this resolves. */
export async function writeDurably(path: string, content: string | Uint8Array, mode: number): Promise<void> {
  const dir = dirname(path);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const scratch = `${path}.new`;
  const file = await open(scratch, "w", mode);
  try {
    await file.writeFile(content);
    await file.chmod(mode);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(scratch, path);
  await syncDirectory(dir);
}

/** Makes the names in a directory durable: a file's own sync does not. */
export async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
