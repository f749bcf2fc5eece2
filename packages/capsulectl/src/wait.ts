/** Waits for workloads, telling on stderr what they wait for. */
import { Phase, RestartPolicy, type Workload } from "@capsule/api";
import { CliError, exitCode } from "./errors.ts";
import { bytes, note } from "./output.ts";
import type { Capsule } from "./session.ts";

export interface Awaited {
  readonly name: string;
  readonly generation: bigint;
}

/**
 * Resolves when each runs in this generation, or has completed as its restart policy allows. Throws CliError: timedOut
 * with what each still waits for; failed for one that cannot come up any more.
 */
export async function waitUntilUp(capsule: Capsule, awaited: readonly Awaited[], timeoutMs: number): Promise<void> {
  const missing = new Map(awaited.map((one) => [one.name, one]));
  const messages = new Map<string, string>();
  const ended = new Set<string>();
  await watch(capsule, [...missing.keys()], timeoutMs, (workload, gone, synced) => {
    const absent = synced === undefined ? undefined : [...missing.keys()].find((name) => !synced.has(name));
    if (absent !== undefined) throw new CliError(`${absent} was deleted`);
    const name = workload?.spec?.name ?? gone ?? "";
    const one = missing.get(name);
    if (one === undefined) return missing.size === 0;
    if (workload === undefined) throw new CliError(`${name} was deleted`);
    if (workload.generation < one.generation) return false;
    const state = stateOf(workload);
    if (state === "up") missing.delete(name);
    if (state === "ended") {
      missing.delete(name);
      ended.add(`${name}: ${workload.status?.message}`);
    }
    tell(name, workload, messages);
    return missing.size === 0;
  }).catch((error: unknown) => {
    if (!(error instanceof CliError) || error.exitCode !== exitCode.timedOut) throw error;
    const lines = [...missing.keys()].map((name) => `${name}: ${messages.get(name) ?? "nothing is known"}`);
    throw new CliError(`${error.message} these do not run:\n${lines.join("\n")}`, exitCode.timedOut);
  });
  if (ended.size > 0) throw new CliError([...ended].join("\n"));
}

export async function waitUntilStopped(capsule: Capsule, name: string, timeoutMs: number): Promise<void> {
  await watch(
    capsule,
    [name],
    timeoutMs,
    (workload, gone) => gone !== undefined || workload?.status?.phase === Phase.STOPPED,
  );
}

export async function waitUntilPaused(capsule: Capsule, name: string, timeoutMs: number): Promise<void> {
  await watch(capsule, [name], timeoutMs, (workload, gone) => gone !== undefined || workload?.status?.paused === true);
}

export async function waitUntilGone(capsule: Capsule, names: readonly string[], timeoutMs: number): Promise<void> {
  const missing = new Set(names);
  await watch(capsule, names, timeoutMs, (_, gone, synced) => {
    if (gone !== undefined) missing.delete(gone);
    // One that is not in the first list is gone already.
    if (synced !== undefined) for (const name of missing) if (!synced.has(name)) missing.delete(name);
    return missing.size === 0;
  });
}

type Look = (workload: Workload | undefined, gone: string | undefined, synced?: ReadonlySet<string>) => boolean;

/** Looks at each change until `look` says that it is enough. */
async function watch(capsule: Capsule, names: readonly string[], timeoutMs: number, look: Look): Promise<void> {
  if (names.length === 0) return;
  const timeout = AbortSignal.timeout(timeoutMs);
  const first = new Set<string>();
  try {
    for await (const { change } of capsule.workloads.watchWorkloads({ names: [...names] }, { signal: timeout })) {
      if (change.case === "workload") {
        first.add(change.value.spec?.name ?? "");
        if (look(change.value, undefined)) return;
      } else if (change.case === "deleted" && look(undefined, change.value)) return;
      else if (change.case === "synced" && look(undefined, undefined, first)) return;
    }
    throw new CliError("the capsule ended the watch");
  } catch (error) {
    if (timeout.aborted) throw new CliError(`After ${timeoutMs / 1000} s`, exitCode.timedOut);
    throw error;
  }
}

function stateOf({ spec, generation, status }: Workload): "up" | "ended" | "waiting" {
  if (status === undefined || status.observedGeneration < generation) return "waiting";
  if (status.phase === Phase.RUNNING) return status.paused ? "waiting" : "up";
  const policy = spec?.kind.value?.restartPolicy;
  if (policy !== RestartPolicy.NEVER && policy !== RestartPolicy.ON_FAILURE) return "waiting";
  if (status.phase === Phase.STOPPED && status.lastExit?.code === 0) return "up";
  const failed = status.phase === Phase.FAILED && policy === RestartPolicy.NEVER && status.lastExit !== undefined;
  return failed && status.nextRetryAt === undefined ? "ended" : "waiting";
}

function tell(name: string, { status }: Workload, messages: Map<string, string>): void {
  if (status === undefined) return;
  const { doneBytes = 0n, totalBytes = 0n } = status.pull ?? {};
  const progress = totalBytes > 0n ? ` (${bytes(doneBytes)} of ${bytes(totalBytes)})` : "";
  const text = `${Phase[status.phase]} ${status.message}${progress}`;
  if (messages.get(name) === text) return;
  messages.set(name, text);
  note(`${name}: ${text}`);
}
