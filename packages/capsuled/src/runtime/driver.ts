/**
 * The interface of a runtime: containers by containerd, microVMs by a VMM. Every method may be called at any time, in
 * any state, twice; each brings the instance towards what it names or says why it cannot. None changes an instance that
 * it was not asked about. Calls for one uid are serial (the reconciler sees to that), except `observe`, `exec`, `copy`
 * and `stats`, which may run beside anything.
 */
import type { Readable } from "node:stream";
import { CapsuleError } from "../errors.ts";
import type { Instance } from "./instance.ts";

export interface RuntimeDriver {
  /** Everything of ours that the runtime has, running or not: to adopt it at the start, and to find orphans. */
  list(signal?: AbortSignal): Promise<readonly Observed[]>;

  /** What the runtime has of one instance; undefined when nothing at all. Cheap. */
  observe(uid: string, signal?: AbortSignal): Promise<Observed | undefined>;

  /**
   * Makes the instance run. Leftovers of an earlier, unfinished try are removed first; an instance of the same generation
   * that exists and has stopped keeps its root filesystem. `link` is called when there is something to connect, and before
   * the payload's first instruction; when it fails nothing runs.
   */
  start(instance: Instance, link: InstanceLink, signal: AbortSignal): Promise<void>;

  /**
   * Ends the instance: stop signal, then SIGKILL after `timeoutMs`. Resolves when no process is left; its root filesystem
   * and logs stay. `stopSignal` as in the instance; the image's own or SIGTERM when undefined.
   */
  stop(uid: string, options: StopOptions, signal: AbortSignal): Promise<void>;

  /** Stands a running instance still, memory and all, and lets it go on. `stop` and `remove` end one that stands still too. */
  pause(uid: string, signal: AbortSignal): Promise<void>;
  resume(uid: string, signal: AbortSignal): Promise<void>;

  /** Removes everything that the runtime has of the instance, by force if it runs. Logs are not the runtime's. */
  remove(uid: string, signal: AbortSignal): Promise<void>;

  /** Calls back with the uid of an instance that may have changed. Events may be lost: the caller resyncs as well. */
  onChange(listener: (uid: string) => void): void;

  exec(uid: string, options: ExecOptions): Promise<ExecSession>;

  /** What a path inside is; links are resolved inside. Undefined when there is none. */
  statPath(uid: string, path: string): Promise<PathStat | undefined>;
  /** Tar stream of a path; errors of the runtime's side destroy the stream with a CapsuleError. */
  copyOut(uid: string, path: string, signal: AbortSignal): Promise<Readable>;
  /** Writes a tar stream into the directory `path`. */
  copyIn(
    uid: string,
    path: string,
    options: { readonly rename: string | undefined },
    data: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ bytes: bigint; entries: bigint }>;

  stats(uid: string): Promise<RuntimeStats | undefined>;
}

/** What a command, a copy and the like get of an instance that stands still. */
export function isPaused(): CapsuleError {
  return new CapsuleError("precondition", "The workload is paused. `capsulectl workload resume` lets it go on.", {
    reason: "PAUSED",
  });
}

/** How an instance is connected to the network of the workloads. */
export interface InstanceLink {
  /** Connects the network namespace of a process; does nothing for an instance without a network of its own. */
  toProcess(pid: number): Promise<void>;
  /** For a machine; undefined for one without a network. */
  readonly tap: TapLink | undefined;
}

export interface TapLink {
  /** Interface to make. It carries the frames of the machine's only network device. */
  readonly name: string;
  readonly mac: string;
  /** With prefix length, where it is an address of the machine. */
  readonly addresses: {
    readonly ipv4: string;
    readonly gateway4: string;
    readonly ipv6: string;
    readonly gateway6: string;
  };
  /** Connects the interface, when it exists. */
  connect(): Promise<void>;
}

export interface Observed {
  readonly uid: string;
  readonly name: string;
  readonly generation: number;
  readonly imageDigest: string;
  readonly task: TaskState;
  /** Of a machine that runs: volumes that it has as disks. */
  readonly attached?: readonly AttachedVolume[];
}

export interface AttachedVolume {
  readonly uid: string;
  readonly readOnly: boolean;
}

export type TaskState =
  /** Prepared, or what is left of a try: no process. */
  | { readonly state: "none" }
  /** A process waits for its start. */
  | { readonly state: "created"; readonly pid: number }
  | { readonly state: "running"; readonly pid: number; readonly startedAt: Date }
  | { readonly state: "paused"; readonly pid: number; readonly startedAt: Date }
  /** What looks after its process does not answer in time: it may run. */
  | { readonly state: "silent" }
  | {
      readonly state: "stopped";
      /** 128 + signal when killed by one. */
      readonly exitCode: number;
      readonly finishedAt: Date;
      readonly outOfMemory: boolean;
      /** Why, when it was not the payload that ended. */
      readonly reason?: string;
    };

export interface StopOptions {
  readonly timeoutMs: number;
  readonly stopSignal: string | undefined;
}

export interface ExecOptions {
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly stdin: boolean;
  readonly size: TerminalSize | undefined;
  readonly env: ReadonlyMap<string, string>;
  readonly workingDir: string | undefined;
  readonly user: string | undefined;
  readonly privileged: boolean;
}

export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

export interface ExecSession {
  readonly stdout: Readable;
  /** Empty with a tty. */
  readonly stderr: Readable;
  /** Resolves when the data has been taken: the caller waits before it reads more of its own input. */
  writeStdin(data: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
  resize(size: TerminalSize): Promise<void>;
  signal(signal: number): Promise<void>;
  /** Resolves with the exit code when the process has ended and both streams are drained to their end. */
  readonly exited: Promise<number>;
  /** Kills the process if it still runs and frees everything. Safe to call twice. */
  dispose(): Promise<void>;
}

export interface PathStat {
  readonly type: "regular" | "directory" | "symlink" | "other";
  /** Permission bits, with setuid, setgid and sticky. */
  readonly mode: number;
  readonly sizeBytes: bigint;
  readonly linkTarget: string;
}

export interface RuntimeStats {
  readonly cpuNanos: bigint;
  readonly memoryBytes: bigint;
  /** 0 is unlimited. */
  readonly memoryLimitBytes: bigint;
  readonly pids: number;
  readonly networkReceiveBytes: bigint;
  readonly networkTransmitBytes: bigint;
  readonly diskReadBytes: bigint;
  readonly diskWriteBytes: bigint;
}
