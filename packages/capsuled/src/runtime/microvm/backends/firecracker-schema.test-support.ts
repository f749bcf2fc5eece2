/**
 * What Firecracker takes, as far as capsuled says it: fields and types of src/firecracker/swagger/firecracker.yaml in its
 * sources (read at 1.17.0-dev; fields that 1.16 does not have are left out). Firecracker refuses fields that it does not know.
 */

type Type =
  | "string"
  | "boolean"
  | { readonly integer: readonly [least: number, most: number] }
  | { readonly oneOf: readonly string[] }
  | { readonly matching: RegExp }
  | { readonly list: Fields }
  | Fields;

/** A name that ends with "?" may be missing. */
export interface Fields {
  readonly [name: string]: Type;
}

/** Letters, digits and "_" (`checked_id` in its sources). */
const id = { matching: /^[A-Za-z0-9_]+$/ } as const;
const mac = { matching: /^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/ } as const;
const count = { integer: [0, 2 ** 32 - 1] } as const;

const bootSource: Fields = { kernel_image_path: "string", "initrd_path?": "string", "boot_args?": "string" };
const machineConfiguration: Fields = {
  vcpu_count: { integer: [1, 32] },
  mem_size_mib: { integer: [1, 2 ** 32] },
  "smt?": "boolean",
  "track_dirty_pages?": "boolean",
  "huge_pages?": { oneOf: ["None", "2M"] },
};
const drive: Fields = {
  drive_id: id,
  is_root_device: "boolean",
  path_on_host: "string",
  is_read_only: "boolean",
  "partuuid?": "string",
  "cache_type?": { oneOf: ["Unsafe", "Writeback"] },
  "io_engine?": { oneOf: ["Sync", "Async"] },
};
const networkInterface: Fields = { iface_id: id, host_dev_name: "string", "guest_mac?": mac };
const balloon: Fields = {
  amount_mib: count,
  deflate_on_oom: "boolean",
  "stats_polling_interval_s?": count,
  "free_page_hinting?": "boolean",
  "free_page_reporting?": "boolean",
};

/** The file behind `--config-file`. */
export const fullVmConfiguration: Fields = {
  "boot-source": bootSource,
  drives: { list: drive },
  "machine-config?": machineConfiguration,
  "network-interfaces?": { list: networkInterface },
  "vsock?": { guest_cid: { integer: [3, 2 ** 32 - 1] }, uds_path: "string" },
  "entropy?": {},
  "balloon?": balloon,
};

/** Bodies of requests, by method and path. */
export const bodies: Readonly<Record<string, Fields>> = {
  "PUT /actions": { action_type: { oneOf: ["FlushMetrics", "InstanceStart", "SendCtrlAltDel"] } },
  "PATCH /vm": { state: { oneOf: ["Paused", "Resumed"] } },
  "PUT /snapshot/create": {
    mem_file_path: "string",
    snapshot_path: "string",
    "snapshot_type?": { oneOf: ["Full", "Diff"] },
  },
  "PUT /snapshot/load": {
    snapshot_path: "string",
    "mem_backend?": { backend_type: { oneOf: ["File", "Uffd"] }, backend_path: "string" },
    "mem_file_path?": "string",
    "track_dirty_pages?": "boolean",
    "resume_vm?": "boolean",
    "network_overrides?": { list: { iface_id: id, host_dev_name: "string" } },
  },
};

/**
 * What is wrong with a configuration file beyond its fields: names that are there twice, two root devices; undefined when nothing
 * is. Firecracker builds its devices from it one by one, and refuses the second.
 */
export function faultInMachine(configuration: Record<string, unknown>): string | undefined {
  const fault = faultIn(configuration, fullVmConfiguration);
  if (fault !== undefined) return fault;
  const drives = configuration["drives"] as { drive_id: string; is_root_device: boolean; path_on_host: string }[];
  const interfaces = (configuration["network-interfaces"] ?? []) as Record<string, string>[];
  for (const [what, values] of [
    ["drive_id", drives.map(({ drive_id }) => drive_id)],
    ["path_on_host", drives.map(({ path_on_host }) => path_on_host)],
    ["root device", drives.filter(({ is_root_device }) => is_root_device).map(() => "one")],
    ["iface_id", interfaces.map(({ iface_id }) => iface_id)],
    ["host_dev_name", interfaces.map(({ host_dev_name }) => host_dev_name)],
    ["guest_mac", interfaces.map(({ guest_mac }) => guest_mac)],
  ] as const)
    if (new Set(values).size !== values.length) return `${what} is there twice`;
  return undefined;
}

/** What is wrong with a value; undefined when it is as it should be. */
export function faultIn(value: unknown, fields: Fields, at = ""): string | undefined {
  if (!isObject(value)) return `${at || "it"} is no object`;
  for (const name of Object.keys(value))
    if (!Object.hasOwn(fields, name) && !Object.hasOwn(fields, `${name}?`)) return `unknown field ${at}${name}`;
  for (const [key, type] of Object.entries(fields)) {
    const name = key.replace(/\?$/, "");
    const found = Object.hasOwn(value, name) ? value[name] : undefined;
    if (found === undefined && key.endsWith("?")) continue;
    const fault = found === undefined ? `missing field ${at}${name}` : typeFault(found, type, `${at}${name}`);
    if (fault !== undefined) return fault;
  }
  return undefined;
}

function typeFault(value: unknown, type: Type, at: string): string | undefined {
  if (typeof type === "string") return typeof value === type ? undefined : `${at} is no ${type}`;
  if (isIntegers(type)) {
    const [least, most] = type.integer;
    const fits = Number.isInteger(value) && Number(value) >= least && Number(value) <= most;
    return fits ? undefined : `${at} is no integer from ${least} to ${most}`;
  }
  if (isPattern(type))
    return typeof value === "string" && type.matching.test(value) ? undefined : `${at} does not match ${type.matching}`;
  if (isChoice(type))
    return typeof value === "string" && type.oneOf.includes(value)
      ? undefined
      : `${at} is none of ${type.oneOf.join(", ")}`;
  if (!isList(type)) return faultIn(value, type, `${at}.`);
  if (!Array.isArray(value)) return `${at} is no list`;
  return value.map((item, i) => faultIn(item, type.list, `${at}[${i}].`)).find((fault) => fault !== undefined);
}

function isIntegers(type: object): type is { readonly integer: readonly [number, number] } {
  return Array.isArray((type as { integer?: unknown }).integer);
}

function isChoice(type: object): type is { readonly oneOf: readonly string[] } {
  return Array.isArray((type as { oneOf?: unknown }).oneOf);
}

function isPattern(type: object): type is { readonly matching: RegExp } {
  return (type as { matching?: unknown }).matching instanceof RegExp;
}

function isList(type: object): type is { readonly list: Fields } {
  return Object.hasOwn(type, "list");
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
