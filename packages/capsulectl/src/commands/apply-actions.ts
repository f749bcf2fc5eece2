import { type ApplyResponse, ApplyResponseSchema, type ApplyResult, ApplyResult_Action } from "@capsule/api";
import { defaultWaitMs, waitOption } from "../duration.ts";
import type { Globals } from "../globals.ts";
import { loadManifests } from "../manifest/load.ts";
import { type Document, placeViolations } from "../manifest/parse.ts";
import { note, printDone, printMessage, say } from "../output.ts";
import { violationsOf } from "../rpc-errors.ts";
import { type Capsule, withCapsule } from "../session.ts";
import { waitUntilVolumesGone } from "../volume-wait.ts";
import { waitUntilGone, waitUntilUp } from "../wait.ts";

const words: Record<ApplyResult_Action, string> = {
  [ApplyResult_Action.UNSPECIFIED]: "",
  [ApplyResult_Action.CREATED]: "created",
  [ApplyResult_Action.UPDATED]: "changed",
  [ApplyResult_Action.UNCHANGED]: "unchanged",
};

export async function apply(
  { capsule: chosen, format }: Globals,
  options: { file: string[]; wait?: string | true; dryRun?: boolean },
): Promise<void> {
  const waitMs = waitOption(options.wait);
  const documents = await loadManifests(options.file);
  await withCapsule(chosen, async (capsule) => {
    const response = await send(capsule, documents, options.dryRun === true);
    if (format === "json" || format === "yaml") await printMessage(format, ApplyResponseSchema, response);
    else
      for (const result of response.results)
        say(`${result.kind}/${result.name} ${words[result.action]}${options.dryRun ? " (dry run)" : ""}`);
    if (waitMs === undefined || options.dryRun === true) return;
    await waitUntilUp(
      capsule,
      response.results.filter(({ kind }) => kind === "workload").map(({ name, generation }) => ({ name, generation })),
      waitMs,
    );
  });
}

export async function diff({ capsule: chosen, format }: Globals, { file }: { file: string[] }): Promise<void> {
  const documents = await loadManifests(file);
  await withCapsule(chosen, async (capsule) => {
    const response = await send(capsule, documents, true);
    if (format === "json" || format === "yaml") return await printMessage(format, ApplyResponseSchema, response);
    for (const result of response.results) printDiff(result);
  });
}

export async function deleteFiles(
  { capsule: chosen, format }: Globals,
  options: { file: string[]; wait: boolean },
): Promise<void> {
  const documents = await loadManifests(options.file);
  await withCapsule(chosen, async (capsule) => {
    const workloads = await presentOf(documents, "workload", async () =>
      (await capsule.workloads.listWorkloads({})).workloads.map(({ spec }) => spec?.name ?? ""),
    );
    const volumes = await presentOf(documents, "volume", async () =>
      (await capsule.volumes.listVolumes({})).volumes.map(({ spec }) => spec?.name ?? ""),
    );
    if (workloads.length > 0) await capsule.workloads.deleteWorkloads({ names: workloads });
    // Nothing of the file must hold a volume of it; others that do are told.
    if (options.wait || volumes.length > 0) await waitUntilGone(capsule, workloads, defaultWaitMs);
    if (volumes.length > 0) await capsule.volumes.deleteVolumes({ names: volumes });
    if (options.wait) await waitUntilVolumesGone(capsule, volumes, defaultWaitMs);
    const action = options.wait ? "deleted" : "is being deleted";
    await printDone(format, [
      ...workloads.map((name) => ({ kind: "workload", name, action })),
      ...volumes.map((name) => ({ kind: "volume", name, action })),
    ]);
  });
}

/** Names of the documents of a kind that the capsule has; tells which it has not. */
async function presentOf(
  documents: readonly Document[],
  wanted: string,
  list: () => Promise<string[]>,
): Promise<string[]> {
  const names = documents.filter(({ kind }) => kind === wanted).map(({ name }) => name);
  if (names.length === 0) return [];
  const present = new Set(await list());
  for (const name of names) if (!present.has(name)) note(`${wanted}/${name} is not there`);
  return names.filter((name) => present.has(name));
}

/** Faults that the capsule finds are told with their place in the file. */
async function send(capsule: Capsule, documents: readonly Document[], dryRun: boolean): Promise<ApplyResponse> {
  try {
    return await capsule.workloads.apply({ resources: documents.map(({ resource }) => resource), dryRun });
  } catch (error) {
    throw placeViolations(documents, violationsOf(error)) ?? error;
  }
}

function printDiff({ kind, name, action, changes }: ApplyResult): void {
  say(`${kind}/${name} ${words[action]}`);
  for (const { path, before, after } of changes) {
    if (before !== "") say(`  - ${path}: ${before}`);
    if (after !== "") say(`  + ${path}: ${after}`);
  }
}
