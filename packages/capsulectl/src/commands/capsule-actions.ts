import { createInterface } from "node:readline/promises";
import { create, toJson } from "@bufbuild/protobuf";
import { durationFromMs, durationMs, timestampDate } from "@bufbuild/protobuf/wkt";
import {
  type Disk,
  type Filesystem,
  GetInfoResponseSchema,
  type Pool,
  SystemLogLineSchema,
  SystemStatsResponseSchema,
} from "@capsule/api";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { bytes, clean, note, print, printDone, printJson, printMessage, say, sayJson, span } from "../output.ts";
import { withCapsule } from "../session.ts";
import { type LogsOptions, sinceOf, tailOf, write } from "./logs-actions.ts";

export async function info({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ capsule, host }) => {
    const answer = await capsule.getInfo({});
    if (format === "json" || format === "yaml") return await printMessage(format, GetInfoResponseSchema, answer);
    const skew = answer.time === undefined ? 0 : timestampDate(answer.time).getTime() - Date.now();
    const facts: [string, string][] = [
      ["Name", `${answer.hostname} (${answer.shortId}), at ${host}`],
      ["Version", `${answer.version} (${answer.commit}), ${answer.mode}${answer.slot && `, slot ${answer.slot}`}`],
      [
        "System",
        `${answer.architecture}, kernel ${answer.kernel}, ${answer.cpus} processors, ${bytes(answer.memoryBytes)} memory`,
      ],
      ["Up", span(answer.uptime === undefined ? 0 : durationMs(answer.uptime))],
      ["Workloads", `${answer.workloads}, ${answer.workloadsRunning} running`],
      ["Addresses", answer.addresses.join(", ")],
      ["Fingerprint", answer.fingerprint],
      ["Storage", answer.filesystems.map(filesystemText).join(", ")],
      ["Pools", answer.pools.length === 0 ? "" : `${answer.pools.map(poolText).join(", ")}, ${answer.volumes} volumes`],
      ["Disks", answer.disks.map(diskText).join(", ")],
      [
        "Services",
        answer.services
          .map(({ name, state, restarts }) => `${name} ${state}${restarts > 0 ? ` (${restarts} restarts)` : ""}`)
          .join(", "),
      ],
      [
        "Components",
        Object.entries(answer.componentVersions)
          .map(([name, version]) => `${name} ${version}`)
          .join(", "),
      ],
      [
        "Clock",
        Math.abs(skew) < 2_000 ? "as yours" : `${span(Math.abs(skew))} ${skew > 0 ? "ahead of" : "behind"} yours`,
      ],
    ];
    for (const [title, value] of facts.filter(([, value]) => value !== "")) say(`${`${title}:`.padEnd(12)} ${value}`);
    for (const warning of answer.warnings) note(`Warning: ${warning}`);
  });
}

/** Texts of workloads may be in these logs: they are shown with nothing that a terminal obeys. */
export async function logs(
  { capsule: chosen, format }: Globals,
  services: string[],
  options: LogsOptions,
): Promise<void> {
  const request = { services, follow: options.follow === true, ...tailOf(options.tail), ...sinceOf(options.since) };
  await withCapsule(chosen, async ({ capsule }) => {
    for await (const { lines } of capsule.systemLogs(request)) {
      if (format === "json") {
        for (const line of lines) sayJson(toJson(SystemLogLineSchema, line));
        continue;
      }
      const text = lines.map(
        ({ time, service, text: line }) =>
          `${time === undefined ? "" : timestampDate(time).toISOString()} ${service}: ${clean(line)}\n`,
      );
      await write(process.stdout, Buffer.from(text.join("")));
    }
  });
}

export async function stats(
  { capsule: chosen, format }: Globals,
  { follow = false }: { follow?: boolean },
): Promise<void> {
  await withCapsule(chosen, async ({ capsule }) => {
    let samples = 0;
    for await (const answer of capsule.systemStats({ interval: durationFromMs(follow ? 2_000 : 1_000) })) {
      if (samples++ === 0) continue;
      if (format === "json" && follow) sayJson(toJson(SystemStatsResponseSchema, answer));
      else {
        await print(
          format,
          SystemStatsResponseSchema,
          create(SystemStatsResponseSchema, answer),
          [answer],
          [
            { title: "CPU", value: ({ cpuMillis, cpus }) => `${(cpuMillis / 10).toFixed(1)}% of ${cpus * 100}%` },
            { title: "LOAD", value: ({ load1 }) => load1.toFixed(2) },
            {
              title: "MEMORY",
              value: ({ memoryUsedBytes, memoryBytes }) => `${bytes(memoryUsedBytes)} of ${bytes(memoryBytes)}`,
            },
            { title: "CAPSULED", value: ({ capsuledMemoryBytes }) => bytes(capsuledMemoryBytes) },
            { title: "NET IN", value: ({ networkReceiveBytes }) => bytes(networkReceiveBytes) },
            { title: "NET OUT", value: ({ networkTransmitBytes }) => bytes(networkTransmitBytes) },
            { title: "DISK", value: ({ filesystems }) => filesystems.map(filesystemText).join(", ") },
          ],
        );
      }
      if (!follow) return;
    }
  });
}

export async function hostname({ capsule: chosen, format }: Globals, name: string): Promise<void> {
  await withCapsule(chosen, async ({ capsule }) => {
    await capsule.setHostname({ hostname: name });
    await printDone(format, [{ kind: "hostname", name, action: "set" }]);
  });
}

export async function goDown(
  verb: "reboot" | "shutdown",
  { capsule: chosen, format }: Globals,
  { yes = false }: { yes?: boolean },
): Promise<void> {
  await withCapsule(chosen, async ({ capsule, name }) => {
    if (!yes) await confirm(verb, `${verb} "${name}", with all its workloads?`);
    await (verb === "reboot" ? capsule.reboot({}) : capsule.shutdown({}));
    await printDone(format, [{ kind: "capsule", name, action: `${verb} is under way` }]);
  });
}

export async function repair(
  { capsule: chosen, format }: Globals,
  { dryRun = false, yes = false }: { dryRun?: boolean; yes?: boolean },
): Promise<void> {
  await withCapsule(chosen, async ({ capsule, name }) => {
    if (!yes && !dryRun)
      await confirm("repair", `Repair /perm of "${name}"? What cannot be put back in its place goes to lost+found.`);
    for await (const { text } of capsule.repairPerm({ dryRun })) note(text);
    await printDone(format, [{ kind: "capsule", name, action: dryRun ? "left as it is (--dry-run)" : "repaired" }]);
    if (!dryRun) note("Start it again to use /perm: capsulectl capsule reboot");
  });
}

/** Throws CliError unless somebody says yes. */
export async function confirm(verb: string, question: string): Promise<void> {
  if (!process.stdin.isTTY) throw new CliError(`Give --yes to ${verb} without being asked.`, exitCode.usage);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`${question} [y/N] `);
  terminal.close();
  if (!/^y(es)?$/i.test(answer.trim())) throw new CliError("Nothing was done.");
}

export async function version({ capsule: chosen, format }: Globals): Promise<void> {
  const client = { version: process.env["CAPSULE_VERSION"] ?? "0.1.0", node: process.versions.node };
  const structured = format === "json" || format === "yaml";
  if (!structured) say(`capsulectl ${client.version}, node ${client.node}`);
  let capsule: { name: string; version: string } | undefined;
  try {
    await withCapsule(chosen, async ({ identity, name }) => {
      capsule = { name, version: (await identity.getIdentity({})).version };
      if (!structured) say(`${capsule.name} ${capsule.version}`);
    });
  } catch (error) {
    note(error instanceof Error ? error.message : String(error));
  }
  if (structured) await printJson(format, { client, ...(capsule === undefined ? {} : { capsule }) });
}

function filesystemText({ mountPath, usedBytes, sizeBytes }: Filesystem): string {
  return `${mountPath} ${bytes(usedBytes)} of ${bytes(sizeBytes)}`;
}

function poolText({ name, usedBytes, sizeBytes }: Pool): string {
  return `${name} ${bytes(usedBytes)} of ${bytes(sizeBytes)}`;
}

function diskText({ name, model, sizeBytes, system, removable }: Disk): string {
  const notes = [model, system ? "system" : "", removable ? "removable" : ""].filter((text) => text !== "");
  return `${name} ${bytes(sizeBytes)}${notes.length === 0 ? "" : ` (${notes.join(", ")})`}`;
}
