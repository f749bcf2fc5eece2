/** A support bundle to a file here: written beside its place, and moved there when it is whole. */
import { existsSync, rmSync } from "node:fs";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { onInterrupt } from "../interrupt.ts";
import { bytes, note, printDone } from "../output.ts";
import { Progress } from "../progress.ts";
import { type Capsule, withCapsule } from "../session.ts";

export interface SupportBundleOptions {
  readonly force?: boolean;
  readonly workloadLogs?: boolean;
}

export async function supportBundle(
  { capsule: chosen, format }: Globals,
  wanted: string | undefined,
  { force = false, workloadLogs = false }: SupportBundleOptions,
): Promise<void> {
  await withCapsule(chosen, async (capsule) => {
    const file = wanted ?? nameFor(capsule.name, new Date());
    refuseToReplace(file, force);
    const part = `${file}.part`;
    // What an earlier run has left has rights of its own.
    await rm(part, { force: true });
    // Before the file is there: a signal in between would leave it.
    const off = onInterrupt(() => rmSync(part, { force: true }));
    try {
      const { files, faults, sizeBytes } = await written(part, (out) => receive(capsule, workloadLogs, out));
      // Another one may have been made meanwhile.
      refuseToReplace(file, force);
      await rename(part, file);
      for (const fault of faults) note(`Not in it, or not whole: ${fault}`);
      const action = `written to ${file} (${bytes(sizeBytes)}, ${files} files)`;
      await printDone(format, [{ kind: "support-bundle", name: capsule.name, action }]);
    } finally {
      off();
      await rm(part, { force: true });
    }
  });
}

/** What the capsule says of the archive that is in the file now. Throws CliError when it is not whole. */
async function receive({ capsule, name }: Capsule, workloadLogs: boolean, out: FileHandle) {
  const progress = new Progress(name);
  let received = 0;
  try {
    for await (const { output } of capsule.supportBundle({ workloadLogs })) {
      if (output.case === "progress") {
        const { file, files } = output.value;
        // Elsewhere each step is a line.
        progress.update(received, 0, process.stderr.isTTY ? `${files} files, now ${file}` : "collecting");
      } else if (output.case === "data") {
        await out.appendFile(output.value);
        received += output.value.length;
      } else if (output.case === "end") {
        if (BigInt(received) === output.value.sizeBytes) return output.value;
        break;
      }
    }
  } finally {
    progress.end();
  }
  throw new CliError("The bundle ended before its end. Nothing was written; try again.");
}

/** Makes the file and lets `work` fill it. It is on the disk when this resolves. */
async function written<T>(path: string, work: (out: FileHandle) => Promise<T>): Promise<T> {
  const out = await open(path, "wx", 0o600).catch((error: Error) => {
    throw new CliError(`${path} cannot be written: ${error.message}`);
  });
  try {
    const result = await work(out);
    await out.sync();
    return result;
  } finally {
    await out.close();
  }
}

function refuseToReplace(file: string, force: boolean): void {
  if (!force && existsSync(file))
    throw new CliError(`${file} exists. Choose another name, or replace it by --force.`, exitCode.conflict);
}

/** Such as "support-nuc-1-20260131T120000Z.tar.gz", in the present directory. */
function nameFor(capsule: string, now: Date): string {
  const time = now.toISOString().replaceAll(/[-:]|\.\d+/g, "");
  return `support-${capsule.replaceAll(/[^\w.-]/g, "-")}-${time}.tar.gz`;
}
