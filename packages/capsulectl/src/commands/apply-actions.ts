import { create } from "@bufbuild/protobuf";
import {
  type ApplyResponse,
  ApplyResponseSchema,
  type ApplyResult,
  ApplyResult_Action,
  type MachineSpec,
  MachineSpecSchema,
} from "@capsule/api";
import { defaultWaitMs, durationOption, waitOption } from "../duration.ts";
import type { Globals } from "../globals.ts";
import { loadManifests } from "../manifest/load.ts";
import { type Document, isMachine, isResource, placeViolations } from "../manifest/parse.ts";
import { type Done, note, printDone, printMessage, say } from "../output.ts";
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

export interface ApplyOptions {
  readonly file: string[];
  readonly wait?: string | true;
  readonly dryRun?: boolean;
  /** commander's form of --no-confirm. */
  readonly confirm?: boolean;
  readonly confirmWithin?: string;
}

/** The machine first: what runs on it may need its registries and its links. */
export async function apply({ capsule: chosen, format }: Globals, options: ApplyOptions): Promise<void> {
  const waitMs = waitOption(options.wait);
  const dryRun = options.dryRun === true;
  const documents = await loadManifests(options.file);
  const machine = documents.find(isMachine);
  const resources = documents.filter(isResource);
  const results: ApplyResult[] = [];
  if (machine !== undefined) {
    // What is wrong with the rest is said before the machine is changed.
    if (resources.length > 0 && !dryRun) await withCapsule(chosen, (capsule) => send(capsule, documents, true));
    results.push(...(await sendMachine(chosen, documents, machine.machine, options)));
  }
  const finish = async (): Promise<void> => {
    const response = create(ApplyResponseSchema, { results });
    if (format === "json" || format === "yaml") await printMessage(format, ApplyResponseSchema, response);
    else
      for (const result of results)
        say(`${result.kind}/${result.name} ${words[result.action]}${dryRun ? " (dry run)" : ""}`);
  };
  if (resources.length === 0) return await finish();
  await withCapsule(chosen, async (capsule) => {
    results.push(...(await send(capsule, documents, dryRun)).results);
    await finish();
    if (waitMs === undefined || dryRun) return;
    await waitUntilUp(
      capsule,
      results.filter(({ kind }) => kind === "workload").map(({ name, generation }) => ({ name, generation })),
      waitMs,
    );
  });
}

export async function diff({ capsule: chosen, format }: Globals, { file }: { file: string[] }): Promise<void> {
  const documents = await loadManifests(file);
  const machine = documents.find(isMachine);
  const results: ApplyResult[] = [];
  if (machine !== undefined) results.push(...(await sendMachine(chosen, documents, machine.machine, { dryRun: true })));
  if (documents.some(isResource))
    results.push(...(await withCapsule(chosen, (capsule) => send(capsule, documents, true))).results);
  const response = create(ApplyResponseSchema, { results });
  if (format === "json" || format === "yaml") return await printMessage(format, ApplyResponseSchema, response);
  for (const result of results) printDiff(result);
}

export async function deleteFiles(
  { capsule: chosen, format }: Globals,
  options: { file: string[]; wait: boolean },
): Promise<void> {
  const documents = await loadManifests(options.file);
  const done: Done[] = [];
  if (documents.some(isResource)) {
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
      done.push(
        ...workloads.map((name) => ({ kind: "workload", name, action })),
        ...volumes.map((name) => ({ kind: "volume", name, action })),
      );
    });
  }
  if (documents.some(isMachine)) {
    // A machine without a document is as it is by default.
    const [result] = await sendMachine(chosen, documents, create(MachineSpecSchema), {});
    done.push({ kind: "machine", name: result?.name ?? "", action: "is at its defaults" });
  }
  await printDone(format, done);
}

/** Faults that the capsule finds are told with their place in the file. */
async function sendMachine(
  chosen: string | undefined,
  documents: readonly Document[],
  machine: MachineSpec,
  { dryRun = false, confirm = true, confirmWithin }: Pick<ApplyOptions, "dryRun" | "confirm" | "confirmWithin">,
): Promise<ApplyResult[]> {
  const { applyMachine } = await import("../machine-apply.ts");
  const { result } = await applyMachine(chosen, machine, {
    dryRun,
    confirmByHand: !confirm,
    confirmWithinMs: confirmWithin === undefined ? undefined : durationOption(confirmWithin),
    placed: (error) => placeViolations(documents, violationsOf(error)) ?? error,
  });
  return result === undefined ? [] : [result];
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
    const resources = documents.filter(isResource).map(({ resource }) => resource);
    return await capsule.workloads.apply({ resources, dryRun });
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
