import type { FileHandle } from "node:fs/promises";
import { create } from "@bufbuild/protobuf";
import { type Duration, durationFromMs, durationMs, timestampDate } from "@bufbuild/protobuf/wkt";
import {
  ConfirmUpdateResponseSchema,
  GetUpdateStatusResponseSchema,
  type PushUpdateRequest,
  PushUpdateRequestSchema,
  PushUpdateResponseSchema,
  RollbackUpdateResponseSchema,
} from "@capsule/api";
import { bundleKey, openBundle } from "../bundle.ts";
import { durationOption } from "../duration.ts";
import type { Globals } from "../globals.ts";
import { letBuffersGrow } from "../heap.ts";
import { bytes, note, printMessage, printTable, say, span } from "../output.ts";
import { persistently } from "../persistently.ts";
import { Progress } from "../progress.ts";
import { reasonOf } from "../rpc-errors.ts";
import { withCapsule } from "../session.ts";
import { confirm as ask } from "./capsule-actions.ts";

const chunkBytes = 512 * 1024;

export interface PushOptions {
  readonly autoConfirm?: string;
  readonly confirmWithin?: string;
  readonly allowDowngrade?: boolean;
  /** commander's form of --no-reboot. */
  readonly reboot?: boolean;
}

export async function push({ capsule: chosen, format }: Globals, path: string, options: PushOptions): Promise<void> {
  const { autoConfirm, confirmWithin, allowDowngrade = false, reboot = true } = options;
  const limits = {
    ...(autoConfirm === undefined ? {} : { autoConfirm: durationFromMs(durationOption(autoConfirm)) }),
    ...(confirmWithin === undefined ? {} : { confirmWithin: durationFromMs(durationOption(confirmWithin)) }),
  };
  const bundle = await openBundle(path);
  const progress = new Progress(path);
  let sentBytes = 0;
  letBuffersGrow();
  try {
    await persistently(
      chosen,
      () => sentBytes,
      async ({ updates }) => {
        const { push: under } = await updates.getUpdateStatus({});
        const offset = under?.bundle === bundleKey(bundle.head) ? Number(under.receivedBytes) : 0;
        const start = { ...bundle.head, sizeBytes: BigInt(bundle.sizeBytes), offset: BigInt(offset) };
        const requests = async function* (): AsyncGenerator<PushUpdateRequest> {
          const value = { ...start, ...limits, allowDowngrade, noReboot: !reboot };
          yield create(PushUpdateRequestSchema, { input: { case: "start", value } });
          for (let at = offset; at < bundle.sizeBytes; ) {
            const data = await chunkAt(bundle.file, at, Math.min(chunkBytes, bundle.sizeBytes - at));
            yield create(PushUpdateRequestSchema, { input: { case: "data", value: data } });
            at += data.length;
            sentBytes = at;
            progress.update(at, bundle.sizeBytes, "sending");
          }
          progress.update(bundle.sizeBytes, bundle.sizeBytes, "reading it back from the disk");
        };
        const answer = await updates.pushUpdate(requests());
        progress.end();
        if (format === "json" || format === "yaml") return await printMessage(format, PushUpdateResponseSchema, answer);
        say(`${answer.version} is in slot ${answer.slot}`);
        note(whatNext(answer.reboots, answer.autoConfirm));
      },
      // The capsule forgot a part of it in between, such as by a power cut.
      (error) => reasonOf(error) === "OFFSET_AHEAD",
    );
  } finally {
    progress.end();
    await bundle.file.close();
  }
}

function whatNext(reboots: boolean, autoConfirm: Duration | undefined): string {
  const restart = reboots
    ? "The capsule restarts into it, on trial."
    : "It is tried with the next restart: `capsulectl capsule reboot`.";
  if (autoConfirm !== undefined)
    return `${restart} It is kept when it was healthy for ${span(durationMs(autoConfirm))}.`;
  return `${restart} Keep it by \`capsulectl capsule update confirm\`; else it is rolled back.`;
}

async function chunkAt(file: FileHandle, at: number, size: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(size);
  const { bytesRead } = await file.read(buffer, 0, size, at);
  if (bytesRead === 0) throw new Error("the bundle became shorter while it was sent");
  return buffer.subarray(0, bytesRead);
}

export async function status({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ updates }) => {
    const answer = await updates.getUpdateStatus({});
    if (format === "json" || format === "yaml")
      return await printMessage(format, GetUpdateStatusResponseSchema, answer);
    printTable(answer.slots, [
      { title: "SLOT", value: ({ name }) => name },
      { title: "VERSION", value: ({ version, running }) => version || (running ? "?" : "-") },
      { title: "EPOCH", value: ({ epoch, version }) => (version === "" ? "-" : String(epoch)), right: true },
      {
        title: "STATE",
        value: ({ running, confirmed }) =>
          [running ? "runs" : "", confirmed ? "confirmed" : ""].filter((word) => word !== "").join(", ") || "-",
      },
    ]);
    const { push: under, trial, last } = answer;
    if (under !== undefined) {
      const part = `${bytes(under.receivedBytes)} of ${bytes(under.totalBytes)}`;
      say(`\nPush:  ${under.version}, ${part}${under.active ? "" : ", cut off: push it again, and it goes on"}`);
    }
    if (trial !== undefined) {
      const left = trial.deadline === undefined ? 0 : timestampDate(trial.deadline).getTime() - Date.now();
      const until = trial.running ? `rolled back in ${span(Math.max(0, left))} unless confirmed` : "tried next";
      const own = trial.autoConfirm === undefined ? "" : `, by itself after ${span(durationMs(trial.autoConfirm))}`;
      say(`\nTrial: ${trial.version} in slot ${trial.slot}, ${until}${own}`);
      for (const fault of trial.faults) say(`       not as before: ${fault}`);
    }
    if (last !== undefined) {
      const when = last.time === undefined ? "" : ` at ${timestampDate(last.time).toISOString()}`;
      say(`\nLast:  ${last.version} ${words[last.result] ?? last.result}${when}${last.reason && `: ${last.reason}`}`);
    }
  });
}

const words: Readonly<Record<string, string>> = {
  confirmed: "confirmed",
  rolledBack: "rolled back",
  cancelled: "not tried",
};

export async function confirm({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ updates }) => {
    const answer = await updates.confirmUpdate({});
    if (format === "json" || format === "yaml") return await printMessage(format, ConfirmUpdateResponseSchema, answer);
    say(`${answer.version} confirmed`);
  });
}

export async function rollback(
  { capsule: chosen, format }: Globals,
  { yes = false }: { yes?: boolean },
): Promise<void> {
  await withCapsule(chosen, async ({ updates, name }) => {
    if (!yes) await ask("roll back", `Take "${name}" back to the other version, with a restart of all workloads?`);
    const answer = await updates.rollbackUpdate({});
    if (format === "json" || format === "yaml") return await printMessage(format, RollbackUpdateResponseSchema, answer);
    const version = answer.version === "" ? "the version before" : answer.version;
    say(answer.reboots ? `restarts into ${version}` : `stays on ${version}`);
  });
}
