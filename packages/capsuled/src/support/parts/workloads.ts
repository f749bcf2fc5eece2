/** What the files of workloads tell: records and consoles of microVMs, and, when it is asked for, what workloads have written. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { LogPlace } from "../../logs/files.ts";
import { consoleLog, payloadLog } from "../../logs/places.ts";
import { runPaths } from "../../runtime/microvm/layout.ts";
import type { MachineRecord } from "../../runtime/microvm/record.ts";
import { MachineRecords } from "../../runtime/microvm/record.ts";
import type { Store } from "../../store/store.ts";
import type { WorkloadRecord } from "../../store/workloads.ts";
import { newestLines } from "../lines.ts";
import type { Part, PartList } from "../part.ts";
import { mark } from "../patterns.ts";
import { filesPart, unlessMissing } from "./files.ts";

const logBytes = 128 * 1024;

export interface WorkloadFiles {
  readonly store: Store;
  readonly workloadsDir: string;
  /** Also what workloads have written. */
  readonly withLogs: boolean;
}

export function workloadParts({ store, workloadsDir, withLogs }: WorkloadFiles): PartList[] {
  const records = new MachineRecords(workloadsDir);
  return [
    {
      name: "workloads",
      list: async () =>
        store.workloads.list().flatMap((workload) => {
          const { name, uid, spec } = workload;
          const machine = spec.kind.case === "microVm" ? machineParts(workload, records) : [];
          // The console of an own kernel is what the workload itself writes.
          const isOwnConsole = spec.kind.case === "microVm" && spec.kind.value.kernelPath !== "";
          const hasConsole = spec.kind.case === "microVm" && (withLogs || !isOwnConsole);
          return [
            ...machine,
            ...(hasConsole ? [logPart(`workloads/${name}/console.log`, consoleLog(workloadsDir, uid))] : []),
            ...(withLogs ? [logPart(`workloads/${name}/output.log`, payloadLog(workloadsDir, uid))] : []),
          ];
        }),
    },
  ];
}

function logPart(name: string, place: LogPlace): Part {
  return { name, limitBytes: logBytes, collect: async ({ limitBytes }) => await newestLines(place, limitBytes) };
}

function machineParts({ name, uid }: WorkloadRecord, records: MachineRecords): Part[] {
  const { dir } = runPaths(uid);
  return [
    {
      name: `workloads/${name}/machine.json`,
      collect: async () => {
        const record = await records.get(uid);
        return record === undefined ? "" : `${JSON.stringify(withoutValues(record), undefined, 2)}\n`;
      },
    },
    {
      name: `workloads/${name}/run.txt`,
      // How the payload and the monitor were started and ended; the rest is sockets, and what the monitor was told.
      collect: async (bounds) => {
        const names = (await readdir(dir).catch(unlessMissing)) ?? [];
        const told = names.filter((file) => /^(started|ended)\.json$|\.(pid|exit)$/.test(file));
        const content = await filesPart(
          "",
          told.map((file) => join(dir, file)),
        ).collect(bounds);
        return `${names.join(" ")}\n\n${content}`;
      },
    },
  ];
}

function withoutValues(record: MachineRecord): MachineRecord {
  return { ...record, env: record.env.map(([name, value]) => [name, value === "" ? "" : mark]) };
}
