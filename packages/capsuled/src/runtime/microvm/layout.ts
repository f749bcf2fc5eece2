/**
 * Where everything of a microVM is. What must survive a reboot is in the workload's directory; what belongs to one run is
 * below /run/capsule/vm/UID, and of that only `root` is what its monitor can see.
 */
import { join } from "node:path";
import { idRangeOf } from "../container/spec.ts";

export const vmsDir = "/run/capsule/vm";
/** Guest kernel and initramfs, and the programs that the image has for machines. */
export const guestDir = "/usr/lib/capsule/guest";

export interface RunPaths {
  readonly dir: string;
  /** Root directory of the monitor, and the part of it that the monitor can write to. */
  readonly root: string;
  readonly sockets: string;
  /** What the monitor listens on, and what the agent is reached by. */
  readonly control: string;
  readonly agent: string;
  /** Of the payload: when it was started, and how it ended. */
  readonly started: string;
  readonly ended: string;
}

export function runPaths(uid: string): RunPaths {
  const dir = join(vmsDir, uid);
  const root = join(dir, "root");
  const sockets = join(root, "run");
  return {
    dir,
    root,
    sockets,
    control: join(sockets, "control"),
    agent: join(sockets, "agent"),
    started: join(dir, "started.json"),
    ended: join(dir, "ended.json"),
  };
}

/** User and group of a microVM's processes: its own, of the range that its workload would have as a container. */
export function userOf(uid: string): number {
  return idRangeOf(uid).first;
}
