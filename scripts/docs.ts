// Writes docs/cli.md from the commands, docs/manifest.md from the .proto files and docs/metrics.md from their table: `node scripts/docs.ts`. With --check it
// only tells whether they are up to date. The version control keeps them, so that they can be read without a build.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createFileRegistry, type DescEnum, type DescField, type DescMessage, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import type { Command } from "commander";

process.env["CAPSULE_NO_MAIN"] = "1";
const { buildProgram } = await import("../packages/capsulectl/src/main.ts");
const { families } = await import("../packages/capsuled/src/server/metrics.ts");
const root = join(import.meta.dirname, "..");

function cliReference(): string {
  const program = buildProgram();
  const lines = [
    "# capsulectl",
    "",
    "Generated from the commands by `make docs`; do not edit.",
    "",
    "    capsulectl [--capsule NAME|HOST:PORT] [-o table|wide|json|yaml] VERB",
    "",
    "The capsule is `--capsule`, else `$CAPSULE_HOST`, else the current context. Results go to stdout, everything else to",
    "stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 6 timed out; `workload exec` ends",
    "with the command's own. `-o json` is one document of the API's protobuf JSON.",
    "",
  ];
  const visit = (command: Command, path: string): void => {
    for (const sub of command.commands) {
      if (sub.name().startsWith("__")) continue;
      const name = `${path} ${sub.name()}`;
      if (sub.commands.length > 0) {
        lines.push(`## ${name.trim()}`, "", `${sentence(sub.description())}`, "");
        visit(sub, name);
        continue;
      }
      const words = sub.registeredArguments.map((one) => {
        const word = one.variadic ? `${one.name()}...` : one.name();
        return one.required ? `<${word}>` : `[${word}]`;
      });
      lines.push(`### ${`${name} ${words.join(" ")}`.trim()}`, "", sentence(sub.description()), "");
      const options = sub.options.filter(({ hidden }) => !hidden);
      if (options.length > 0) {
        lines.push("| option | |", "| --- | --- |");
        for (const { flags, description } of options)
          lines.push(`| \`${flags.replaceAll("|", "\\|")}\` | ${description} |`);
        lines.push("");
      }
    }
  };
  visit(program, "");
  return lines.join("\n");
}

function manifestReference(): string {
  const image = execFileSync(
    join(root, "node_modules/.bin/buf"),
    ["build", "proto", "--as-file-descriptor-set", "-o", "-"],
    {
      cwd: root,
      maxBuffer: 64 * 1024 * 1024,
    },
  );
  const set = fromBinary(FileDescriptorSetSchema, image);
  const registry = createFileRegistry(set);
  const comments = commentsOf(set.file);
  const lines = [
    "# Manifests",
    "",
    "Generated from the `.proto` files by `make docs`; do not edit.",
    "",
    "YAML, several documents to a file, parted by `---`. Each has `kind:` (Container, MicroVM, Volume or Machine) and `name:`; a",
    "Container has its settings in `container:`, a MicroVM in `microVm:`, a Volume and a Machine their own beside the name. Enumerations are written short (`BRIDGE`) or long (`NETWORK_MODE_BRIDGE`),",
    "in any case; durations as `30s` or `1m30s`; sizes as bytes or `512MiB`, `2G` (K, M, G, T are binary).",
    "",
    "Fields marked *later* are in the schema and refused until their feature is there.",
    "",
  ];
  const later = new Set(["probes", "depends_on", "devices", "secrets", "allow_from", "allow_to", "job", "init"]);
  const workloads = new Set(["ContainerSpec", "MicroVmSpec"]);
  const firstOfOneKind = 50;
  const done = new Set<string>();
  const describe = (message: DescMessage, title: string): void => {
    if (done.has(message.typeName)) return;
    done.add(message.typeName);
    lines.push(`## ${title}`, "");
    const about = comments.get(message.typeName);
    if (about !== undefined) lines.push(about, "");
    lines.push("| field | type | |", "| --- | --- | --- |");
    const below: DescMessage[] = [];
    for (const field of message.fields) {
      // What both kinds have is told once.
      if (message.name === "MicroVmSpec" && field.number < firstOfOneKind) continue;
      const isLater =
        (workloads.has(message.name) && later.has(field.name)) ||
        (message.name === "VolumeSpec" && field.name === "encrypted");
      const text = comments.get(`${message.typeName}.${field.name}`) ?? "";
      lines.push(
        `| \`${message.name === "VolumeSpec" && field.name === "size_bytes" ? "size" : field.jsonName}\` | ${typeOf(field)} | ${isLater ? "*later* " : ""}${text.replaceAll("|", "\\|").replaceAll("\n", " ")} |`,
      );
      if (field.message !== undefined && !isLater && !field.message.typeName.startsWith("google."))
        below.push(field.message);
    }
    lines.push("");
    for (const one of below) describe(one, one.name);
  };
  const spec = registry.getMessage("capsule.v1.WorkloadSpec");
  if (spec === undefined) throw new Error("WorkloadSpec is not in the .proto files");
  describe(spec, "Top of a Container or MicroVM");
  const volume = registry.getMessage("capsule.v1.VolumeSpec");
  if (volume === undefined) throw new Error("VolumeSpec is not in the .proto files");
  describe(volume, "Top of a Volume");
  const machine = registry.getMessage("capsule.v1.MachineSpec");
  if (machine === undefined) throw new Error("MachineSpec is not in the .proto files");
  lines.push("What a Machine is, and how a change of its links is confirmed, is in [machine.md](machine.md).", "");
  describe(machine, "Top of a Machine");
  return lines.join("\n");
}

function typeOf(field: DescField): string {
  if (field.fieldKind === "map") return "keys and texts";
  const one =
    field.enum !== undefined
      ? valuesOf(field.enum)
      : field.message !== undefined
        ? messageType(field.message)
        : scalarType(field);
  return field.fieldKind === "list" ? `list of ${one}` : one;
}

function messageType({ name, typeName }: DescMessage): string {
  return typeName === "google.protobuf.Duration" ? "duration" : `[${name}](#${name.toLowerCase()})`;
}

function valuesOf(type: DescEnum): string {
  const prefix = (type.sharedPrefix ?? "").toUpperCase();
  return type.values
    .filter(({ number }) => number !== 0)
    .map(({ name }) => `\`${name.replace(prefix, "")}\``)
    .join(", ");
}

function scalarType({ scalar, name }: DescField): string {
  if (scalar === 9) return "text";
  if (scalar === 8) return "true or false";
  return name.endsWith("_bytes") ? "size" : "number";
}

type Files = ReturnType<typeof fromBinary<typeof FileDescriptorSetSchema>>["file"];

/** Leading comments by full name, from the paths of the source information (descriptor.proto, SourceCodeInfo). */
function commentsOf(files: Files): Map<string, string> {
  const found = new Map<string, string>();
  for (const file of files) {
    for (const { path, leadingComments } of file.sourceCodeInfo?.location ?? []) {
      const [kind, index, inner, innerIndex] = path;
      const message = kind === 4 && index !== undefined ? file.messageType[index] : undefined;
      if (message === undefined || leadingComments === "") continue;
      const text = leadingComments.trim().replace(/\n +/g, "\n");
      if (path.length === 2) found.set(`${file.package}.${message.name}`, text);
      if (path.length === 4 && inner === 2 && innerIndex !== undefined) {
        found.set(`${file.package}.${message.name}.${message.field[innerIndex]?.name}`, text);
      }
    }
  }
  return found;
}

function metricsReference(): string {
  return [
    "# Metrics",
    "",
    "Generated from `packages/capsuled/src/server/metrics.ts` by `make docs`; do not edit.",
    "",
    "    capsulectl capsule metrics",
    "",
    "prints them in the text format of Prometheus. Every call to a capsule needs a key and a token of the moment, which",
    "Prometheus cannot make; so beside it runs",
    "",
    "    capsulectl --capsule nuc-1 capsule metrics --listen 127.0.0.1:9101",
    "",
    "which asks the capsule once for each scrape of `http://127.0.0.1:9101/metrics`. A key with the role `viewer` is enough. When",
    "the capsule does not answer, the scrape fails with 502 and the reason, and `up` is 0 in Prometheus.",
    "",
    "    scrape_configs:",
    "      - job_name: capsule",
    '        static_configs: [{targets: ["127.0.0.1:9101"]}]',
    "",
    'Worth an alert: `capsule_pool_level_percent > 0`, `capsule_pool_up == 0`, `capsule_volumes{phase="MISSING"} > 0`,',
    '`capsule_workloads{phase="FAILED"} > 0`.',
    "",
    "| metric | labels | type | |",
    "| --- | --- | --- | --- |",
    ...families.map(
      ({ name, labels, type, help }) =>
        `| \`${name}\` | ${labels.map((label) => `\`${label}\``).join(", ")} | ${type} | ${help} |`,
    ),
    "",
  ].join("\n");
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

let stale = false;
for (const [name, text] of [
  ["docs/cli.md", cliReference()],
  ["docs/manifest.md", manifestReference()],
  ["docs/metrics.md", metricsReference()],
] as const) {
  const path = join(root, name);
  let old = "";
  try {
    old = readFileSync(path, "utf8");
  } catch {
    // not there yet
  }
  if (old === text) continue;
  if (process.argv.includes("--check")) {
    console.error(`${name} is out of date: run \`make docs\``);
    stale = true;
  } else writeFileSync(path, text);
}
if (stale) process.exitCode = 1;
