/**
 * Log files as capsule-init writes them, of workloads and of its services: `NAME`, and rotated ones `NAME.1` (the newest)
 * and up (native/README.md).
 */
import { type FileHandle, open, readdir } from "node:fs/promises";
import { join } from "node:path";

/** Where a log is: its directory and the name of its current file. */
export interface LogPlace {
  readonly dir: string;
  readonly name: string;
}

export interface LogFile {
  readonly handle: FileHandle;
  readonly inode: number;
}

/** Opens all files, oldest first; they stay what they are when they are rotated meanwhile. Empty when there are none. */
export async function openLogFiles({ dir, name: base }: LogPlace): Promise<LogFile[]> {
  const files: LogFile[] = [];
  for (const name of await fileNames(dir, base)) {
    const file = await openLogFile(join(dir, name));
    if (file !== undefined && !files.some(({ inode }) => inode === file.inode)) files.push(file);
    else await file?.handle.close();
  }
  return files;
}

/**
 * The file that comes after one: the next younger; the oldest when that one is gone already. Undefined while there is
 * none.
 */
export async function openNextLogFile(place: LogPlace, inode: number): Promise<LogFile | undefined> {
  const files = await openLogFiles(place);
  const at = files.findIndex((file) => file.inode === inode);
  const next = files[at + 1];
  for (const file of files) if (file !== next) await file.handle.close();
  return next;
}

/** A directory that changes while it is read may show a younger file and not the one before it: then it is read again. */
async function stableNames(dir: string): Promise<string[]> {
  let names = await readdir(dir).catch(() => []);
  for (let attempt = 0; attempt < 10; attempt++) {
    const again = await readdir(dir).catch(() => []);
    if (again.join("/") === names.join("/")) break;
    names = again;
  }
  return names;
}

async function fileNames(dir: string, base: string): Promise<string[]> {
  return (await stableNames(dir))
    .flatMap((name) => {
      if (name === base) return [{ name, age: 0 }];
      const age = name.startsWith(`${base}.`) ? Number(name.slice(base.length + 1)) : Number.NaN;
      return Number.isInteger(age) && age > 0 ? [{ name, age }] : [];
    })
    .sort((a, b) => b.age - a.age)
    .map(({ name }) => name);
}

async function openLogFile(path: string): Promise<LogFile | undefined> {
  // It may have been rotated away in this moment.
  const handle = await open(path, "r").catch(() => undefined);
  if (handle === undefined) return undefined;
  return { handle, inode: (await handle.stat()).ino };
}
