/** Waits for volumes. They change seldom: they are asked for again and again. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Volume, VolumePhase } from "@capsule/api";
import { CliError, exitCode } from "./errors.ts";
import { note } from "./output.ts";
import type { Capsule } from "./session.ts";

const everyMs = 100;

/** Resolves with the volume when it holds, telling on stderr what it waits for. Throws CliError timedOut. */
export async function waitForVolume(
  capsule: Capsule,
  name: string,
  holds: (volume: Volume) => boolean,
  timeoutMs: number,
): Promise<Volume> {
  const deadline = Date.now() + timeoutMs;
  let told = "";
  for (;;) {
    const { volume } = await capsule.volumes.getVolume({ name });
    if (volume !== undefined && holds(volume)) return volume;
    const text = `${name}: ${VolumePhase[volume?.status?.phase ?? 0]} ${volume?.status?.message ?? ""}`;
    if (text !== told) note(text);
    told = text;
    if (Date.now() > deadline) throw new CliError(`After ${timeoutMs / 1000} s: ${text}`, exitCode.timedOut);
    await sleep(everyMs);
  }
}

export async function waitUntilVolumesGone(
  capsule: Capsule,
  names: readonly string[],
  timeoutMs: number,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  const told = new Map<string, string>();
  for (;;) {
    const { volumes } = await capsule.volumes.listVolumes({});
    const left = volumes.filter(
      ({ spec, status }) => names.includes(spec?.name ?? "") && status?.phase === VolumePhase.DELETING,
    );
    // One that is there and is not being deleted was made anew.
    if (left.length === 0) return;
    for (const { spec, status } of left) {
      const [name, text] = [spec?.name ?? "", status?.message ?? ""];
      if (told.has(name) && told.get(name) !== text) note(`${name}: ${text}`);
      told.set(name, text);
    }
    if (Date.now() > deadline) {
      const lines = left.map(({ spec, status }) => `${spec?.name}: ${status?.message}`);
      throw new CliError(`After ${timeoutMs / 1000} s these are not gone:\n${lines.join("\n")}`, exitCode.timedOut);
    }
    await sleep(everyMs);
  }
}
