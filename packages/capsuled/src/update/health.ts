/** Whether a capsule is as it was before an update. */
import { networkInterfaces } from "node:os";
import { isWorkloadLink } from "../network/names.ts";
import { runTool } from "../tool.ts";
import type { Fault } from "./plan.ts";
import type { Before } from "./state.ts";

export interface WorkloadHealth {
  readonly name: string;
  readonly isWanted: boolean;
  readonly isRunning: boolean;
}

export interface Health {
  readonly apiAnswers: boolean;
  /** /perm is the disk's, and with it the database. */
  readonly storageIsReady: boolean;
  readonly hasAddress: boolean;
  readonly gateway: string | undefined;
  readonly workloads: readonly WorkloadHealth[];
}

/** Pure. A workload that was stopped or deleted meanwhile is nobody's fault. */
export function faultsOf(before: Before, now: Health): Fault[] {
  const faults: Fault[] = [];
  if (!now.apiAnswers) faults.push({ kind: "api", message: "the API does not answer" });
  if (!now.storageIsReady) faults.push({ kind: "storage", message: "/perm could not be mounted" });
  if (before.hasAddress && !now.hasAddress) faults.push({ kind: "network", message: "no link has an address" });
  else if (before.gateway !== undefined && now.gateway === undefined)
    faults.push({ kind: "network", message: `the gateway does not answer (it was ${before.gateway})` });
  const down = now.workloads.filter(
    ({ name, isWanted, isRunning }) => isWanted && !isRunning && before.running.includes(name),
  );
  if (down.length > 0) {
    const names = down.slice(0, 5).map(({ name }) => name);
    const more = down.length > names.length ? ` and ${down.length - names.length} more` : "";
    faults.push({ kind: "workload", message: `workloads that ran do not: ${names.join(", ")}${more}` });
  }
  return faults;
}

export function beforeOf({ hasAddress, gateway, workloads }: Health): Before {
  const running = workloads.filter(({ isRunning }) => isRunning).map(({ name }) => name);
  return { hasAddress, gateway, running };
}

/** Bridges and links of workloads tell nothing of the way out. */
export function hasAddress(): boolean {
  return Object.entries(networkInterfaces()).some(
    ([name, addresses]) =>
      !isWorkloadLink(name) &&
      (addresses ?? []).some(({ internal, address }) => !internal && !address.startsWith("fe80:")),
  );
}

/** The next router of IPv4, if it is there: it need not answer pings, only tell its hardware's address. */
export async function answeringGateway(): Promise<string | undefined> {
  const routes = await json<{ gateway?: string; dev: string }>(["ip", "-j", "-4", "route", "show", "default"]);
  for (const { gateway, dev } of routes) {
    if (gateway === undefined) continue;
    await runTool(["ping", "-c", "1", "-W", "2", "-I", dev, gateway]).catch(() => undefined);
    const neighbours = await json<{ lladdr?: string; state: string[] }>([
      ...["ip", "-j", "-4", "neigh", "show", gateway, "dev", dev],
    ]);
    if (neighbours.some(({ lladdr, state }) => lladdr !== undefined && !state.includes("FAILED"))) return gateway;
  }
  return undefined;
}

async function json<T>(command: readonly string[]): Promise<T[]> {
  const text = await runTool(command).catch(() => "");
  return text.trim() === "" ? [] : (JSON.parse(text) as T[]);
}
