/** build/update.tar: one slot, for capsules that run already. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { cp, link, mkdir, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { run } from "./run.ts";
import type { Slot } from "./slot.ts";
import { sourceDate } from "./source-date.ts";

/** Writes one slot as a tar with a list of digests first; signatures come with updates. */
export async function writeUpdate(slot: Slot, target: string): Promise<void> {
  const dir = `${target}.dir`;
  try {
    await rm(dir, { recursive: true, force: true });
    await mkdir(dir);
    const files: Record<string, { sha256: string; sizeBytes: number }> = {};
    for (const [name, path] of Object.entries(slot)) {
      const member = join(dir, name);
      await link(path, member).catch(() => cp(path, member));
      const hash = createHash("sha256");
      await pipeline(createReadStream(path), hash);
      files[name] = { sha256: hash.digest("hex"), sizeBytes: (await stat(path)).size };
    }
    await writeFile(join(dir, "manifest.json"), `${JSON.stringify({ format: 1, files }, undefined, 2)}\n`);
    const names = ["manifest.json", ...(await readdir(dir)).filter((name) => name !== "manifest.json").sort()];
    const fixed = ["--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "--mode=0644"];
    const time = `--mtime=@${sourceDate.getTime() / 1000}`;
    await run(["tar", "-C", dir, ...fixed, time, "-cf", `${target}.new`, ...names]);
    await rename(`${target}.new`, target);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}
