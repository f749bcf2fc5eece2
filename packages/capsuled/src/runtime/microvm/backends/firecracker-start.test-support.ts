/**
 * The start of the stand-in, as Firecracker would start from what a backend says of its program: its words
 * (src/firecracker/src/main.rs in its sources), its configuration, and all that it opens, which has to be in its jail.
 */
import type { Program } from "./backend.ts";
import { faultInMachine } from "./firecracker-schema.test-support.ts";
import { accessTo } from "./jail-view.test-support.ts";

const MiB = 1024 ** 2;
const known = ["--id", "--api-sock", "--config-file"];

export interface StartedAs {
  readonly state: "Not started" | "Running";
  /** Of the guest; 0 while it has none. */
  readonly memoryBytes: number;
  /** Names of its interfaces. */
  readonly interfaces: readonly string[];
}

/** Throws with what would keep it from starting. */
export function startOf(program: Program): StartedAs {
  const words = wordsOf(program.argv.slice(1));
  if (!/^[A-Za-z0-9-]{1,64}$/.test(words.get("--id") ?? ""))
    throw new Error(`Invalid instance ID: ${words.get("--id")}`);
  if (!(words.get("--api-sock") ?? "").startsWith("/run/"))
    throw new Error("its socket cannot be made outside of /run");
  open(program, "/dev/kvm", "write");
  const file = words.get("--config-file");
  if (file === undefined) return { state: "Not started", memoryBytes: 0, interfaces: [] };
  const content = program.files?.find(({ at }) => at === file)?.content;
  if (content === undefined) throw new Error(`${file}: No such file or directory`);
  const configuration = JSON.parse(content) as Configuration;
  const fault = faultInMachine(configuration);
  if (fault !== undefined) throw new Error(`Configuration file: ${fault}`);
  openAll(program, configuration);
  const interfaces = (configuration["network-interfaces"] ?? []).map(({ iface_id }) => iface_id);
  return { state: "Running", memoryBytes: configuration["machine-config"].mem_size_mib * MiB, interfaces };
}

/** Its fields, when it has passed the check of them. */
type Configuration = Record<string, unknown> & {
  readonly "boot-source": { readonly kernel_image_path: string; readonly initrd_path?: string };
  readonly "machine-config": { readonly mem_size_mib: number };
  readonly drives: readonly { readonly path_on_host: string; readonly is_read_only: boolean }[];
  readonly "network-interfaces"?: readonly { readonly iface_id: string; readonly host_dev_name: string }[];
  readonly vsock?: { readonly uds_path: string };
};

function openAll(program: Program, configuration: Configuration): void {
  const { kernel_image_path, initrd_path } = configuration["boot-source"];
  open(program, kernel_image_path, "read");
  if (initrd_path !== undefined) open(program, initrd_path, "read");
  for (const { path_on_host, is_read_only } of configuration.drives)
    open(program, path_on_host, is_read_only ? "read" : "write");
  for (const { host_dev_name } of configuration["network-interfaces"] ?? []) {
    open(program, "/dev/net/tun", "write");
    if (!program.opensTap || program.tap !== host_dev_name)
      throw new Error(`Open tap device failed: ${host_dev_name}: Operation not permitted`);
  }
  if (configuration.vsock?.uds_path.startsWith("/run/") === false)
    throw new Error("Cannot bind the vsock's socket: Permission denied");
}

function open(program: Program, path: string, wanted: "read" | "write"): void {
  const access = accessTo(program, path);
  if (access === undefined) throw new Error(`${path}: No such file or directory`);
  if (wanted === "write" && access === "read") throw new Error(`${path}: Permission denied`);
}

function wordsOf(argv: readonly string[]): Map<string, string> {
  const words = new Map<string, string>();
  for (let i = 0; i < argv.length; i += 2) {
    const [name = "", value] = argv.slice(i);
    if (!known.includes(name)) throw new Error(`Found argument '${name}' which wasn't expected`);
    if (value === undefined) throw new Error(`The argument '${name}' requires a value`);
    if (words.has(name)) throw new Error(`The argument '${name}' was provided more than once`);
    words.set(name, value);
  }
  return words;
}
