/** Manifests: YAML of several documents to resources of the API. Everything is checked before anything is returned. */
import { create, fromJson } from "@bufbuild/protobuf";
import {
  type MachineSpec,
  MachineSpecSchema,
  type Resource,
  ResourceSchema,
  VolumeSpecSchema,
  WorkloadSpecSchema,
} from "@capsule/api";
import { isMap, isScalar, LineCounter, type Node, parseAllDocuments, type YAMLMap } from "yaml";
import { boundsOf, maxNodes } from "./bounds.ts";
import { convertMessage, entriesOf, type Json, type Offsets, offsetOf, type Scope } from "./convert.ts";
import { ManifestError, Place, type Problem, positionOf } from "./problems.ts";
import { nearest } from "./suggest.ts";

/** What a document says, and where its fields are. */
export type Document = ResourceDocument | MachineDocument;

interface Placed {
  readonly name: string;
  readonly place: Place;
  readonly offsets: Offsets;
}

export interface ResourceDocument extends Placed {
  readonly kind: "workload" | "volume";
  readonly resource: Resource;
}

/** The capsule's own set-up: there is one. */
export interface MachineDocument extends Placed {
  readonly kind: "machine";
  readonly machine: MachineSpec;
}

const kinds = ["Container", "MicroVM", "Volume", "Machine"] as const;

export function isResource(document: Document): document is ResourceDocument {
  return document.kind !== "machine";
}

export function isMachine(document: Document): document is MachineDocument {
  return document.kind === "machine";
}

/** Throws ManifestError with every fault of every file. */
export function parseManifests(files: readonly { readonly name: string; readonly text: string }[]): Document[] {
  const problems: Problem[] = [];
  const documents: Document[] = [];
  let nodesLeft = maxNodes;
  for (const { name, text } of files) {
    const { nodes, fault } = boundsOf(text, nodesLeft);
    nodesLeft -= nodes;
    if (fault === undefined) documents.push(...parseFile(name, text, problems));
    else problems.push({ file: name, ...positionOf(text, fault.offset), message: fault.message });
  }
  const seen = new Map<string, Document>();
  for (const document of documents) {
    const isOnly = document.kind === "machine";
    const key = isOnly ? document.kind : `${document.kind}/${document.name}`;
    const first = seen.get(key);
    const place = isOnly ? "" : "name";
    if (first !== undefined && (isOnly || document.name !== "")) {
      const { line } = first.place.at(first.offsets.get(place) ?? 0);
      const what = isOnly ? "a Machine" : `${document.kind} "${document.name}"`;
      document.place.fault(
        document.offsets.get(place) ?? 0,
        `${what} is there already, in ${first.place.file}:${line}${isOnly ? ": a capsule has one" : ""}`,
      );
    } else seen.set(key, document);
  }
  if (problems.length > 0) throw new ManifestError(problems);
  return documents;
}

function parseFile(file: string, text: string, problems: Problem[]): Document[] {
  const lines = new LineCounter();
  const place = new Place(file, lines, problems);
  // Aliases stay unresolved and are refused where they stand: a few of them could make a file of any size.
  // Integers as bigint, so that none loses digits on the way.
  const parsed = parseAllDocuments(text, { lineCounter: lines, uniqueKeys: true, intAsBigInt: true, version: "1.2" });
  if (!Array.isArray(parsed)) return [];
  return parsed.flatMap((document) => {
    for (const { pos, message } of document.errors)
      place.fault(pos[0], (message.split("\n")[0] ?? "").replace(/ at line .*$/, ""));
    if (document.errors.length > 0 || document.contents === null) return [];
    return parseDocument(document.contents as Node, place);
  });
}

function parseDocument(contents: Node, place: Place): Document[] {
  if (isScalar(contents) && contents.value === null) return [];
  if (!isMap(contents)) {
    place.fault(offsetOf(contents), "a document has `kind:`, `name:` and more fields");
    return [];
  }
  const offsets: Offsets = new Map([["", offsetOf(contents)]]);
  const scope: Scope = { place, offsets };
  const kind = kindOf(contents, scope);
  if (kind === undefined) return [];
  if (kind === "Machine") return [machineOf(contents, scope)];
  const json = kind === "Volume" ? volumeOf(contents, scope) : workloadOf(contents, kind, scope);
  const name = typeof json === "object" && json !== null && !Array.isArray(json) ? json["name"] : undefined;
  if (typeof name !== "string" || name === "") place.fault(offsetOf(contents), "`name:` is missing");
  const resource = create(ResourceSchema);
  try {
    resource.kind =
      kind === "Volume"
        ? { case: "volume", value: fromJson(VolumeSpecSchema, json) }
        : { case: "workload", value: fromJson(WorkloadSpecSchema, json) };
  } catch (error) {
    // Faults that were noted leave gaps in the JSON; another one is a fault of ours.
    place.fault(offsetOf(contents), error instanceof Error ? error.message : String(error));
  }
  return [{ resource, kind: kind === "Volume" ? "volume" : "workload", name: String(name ?? ""), place, offsets }];
}

/** `name` is the machine's own, as that of every document is its object's. */
function machineOf(contents: YAMLMap, scope: Scope): MachineDocument {
  const { place, offsets } = scope;
  const json = convertMessage(contents, MachineSpecSchema, "", scope, new Set(["kind", "name"]));
  let machine = create(MachineSpecSchema);
  try {
    machine = fromJson(MachineSpecSchema, json);
  } catch (error) {
    // As for resources.
    place.fault(offsetOf(contents), error instanceof Error ? error.message : String(error));
  }
  const name = entriesOf(contents, scope).find(({ key }) => key === "name");
  if (name?.value !== undefined && name.value !== null) {
    const at = offsetOf(name.value);
    const text = isScalar(name.value) && typeof name.value.value === "string" ? name.value.value : "";
    if (text === "") place.fault(at, "name: a text is needed: the machine's host name");
    else if (machine.hostname !== "" && machine.hostname !== text)
      place.fault(at, `name: "${text}" is not the host name, "${machine.hostname}": one of the two is enough`);
    if (machine.hostname === "") offsets.set("hostname", at);
    machine.hostname ||= text;
  }
  return { kind: "machine", machine, name: machine.hostname, place, offsets };
}

function kindOf(contents: YAMLMap, { place }: Scope): (typeof kinds)[number] | undefined {
  const entry = entriesOf(contents, { place }).find(({ key }) => key === "kind");
  if (entry === undefined) {
    place.fault(offsetOf(contents), `\`kind:\` is missing: one of ${kinds.join(", ")}`);
    return undefined;
  }
  const value = isScalar(entry.value) ? String(entry.value.value) : "";
  const kind = kinds.find((one) => one === value);
  if (kind === undefined) {
    const meant = nearest(value, kinds);
    place.fault(
      entry.value === null ? entry.at : offsetOf(entry.value),
      `kind "${value}" is none of ${kinds.join(", ")}${meant === undefined ? "" : `: did you mean ${meant}?`}`,
    );
  }
  return kind;
}

const payloads = { Container: "container", MicroVM: "microVm" } as const;

function workloadOf(contents: YAMLMap, kind: "Container" | "MicroVM", scope: Scope): Json {
  const wanted = payloads[kind];
  const other = kind === "Container" ? payloads.MicroVM : payloads.Container;
  for (const { key, at } of entriesOf(contents, { place: scope.place })) {
    if (key === other) scope.place.fault(at, `a ${kind} has \`${wanted}:\`, not \`${other}:\``);
  }
  const json = convertMessage(contents, WorkloadSpecSchema, "", scope, new Set(["kind", other])) as {
    [key: string]: Json;
  };
  if (json[wanted] === undefined) scope.place.fault(offsetOf(contents), `\`${wanted}:\` is missing`);
  return json;
}

/** A volume's fields stand at the top; its size is called `size`. */
function volumeOf(contents: YAMLMap, scope: Scope): Json {
  const size = entriesOf(contents, { place: scope.place }).find(({ key }) => key === "size");
  const json = convertMessage(contents, VolumeSpecSchema, "", scope, new Set(["kind", "size"])) as {
    [key: string]: Json;
  };
  if (size?.value === undefined || size.value === null) {
    if (json["sizeBytes"] === undefined) scope.place.fault(offsetOf(contents), "`size:` is missing, such as 2GiB");
    return json;
  }
  const field = VolumeSpecSchema.field.sizeBytes;
  scope.offsets.set("sizeBytes", offsetOf(size.value));
  const holder = contents.clone() as YAMLMap;
  holder.items = holder.items.filter(({ key }) => isScalar(key) && key.value === "size");
  for (const item of holder.items) if (isScalar(item.key)) item.key.value = field.jsonName;
  return { ...json, ...(convertMessage(holder, VolumeSpecSchema, "", scope) as { [key: string]: Json }) };
}

/** Faults that the capsule found, at their places in the files. */
export function placeViolations(
  documents: readonly Document[],
  violations: readonly { readonly path: string; readonly description: string }[],
): ManifestError | undefined {
  const resources = documents.filter(isResource);
  const problems = violations.flatMap(({ path, description }): Problem[] => {
    const match = /^(?:resources\[([0-9]+)\]|machine)\.?(.*)$/.exec(path);
    const document = match?.[1] === undefined ? documents.find(isMachine) : resources[Number(match[1])];
    if (match === null || document === undefined) return [];
    const below = match[2] ?? "";
    const offset = nearestOffset(document.offsets, below);
    // As it is written in a manifest.
    const shown = document.kind === "volume" && below === "sizeBytes" ? "size" : below;
    const message = shown === "" ? description : `${shown}: ${description}`;
    return [{ file: document.place.file, ...document.place.at(offset), message }];
  });
  return problems.length === 0 ? undefined : new ManifestError(problems);
}

/** The place of a field, or of the nearest one around it. */
function nearestOffset(offsets: Offsets, path: string): number {
  for (let at = path; at !== ""; at = at.slice(0, Math.max(at.lastIndexOf("."), at.lastIndexOf("["), 0))) {
    const offset = offsets.get(at);
    if (offset !== undefined) return offset;
  }
  return offsets.get("") ?? 0;
}
