/**
 * Names of links. They follow from the workload's uid, so that the firewall depends on the store alone and is the same
 * before and after a restart of anything.
 */
import { CapsuleError } from "../errors.ts";

/** Every host-side link of a workload starts so; the firewall drops what comes from such a link and is not allowed. */
export const LINK_PREFIX = "c-";

/** Name of the bridge of the workloads. */
export const BRIDGE = "capsule0";

/** Whether an interface of the capsule leads to its workloads only. */
export function isWorkloadLink(name: string): boolean {
  return name === BRIDGE || name.startsWith(LINK_PREFIX);
}

const UID = /^w[a-z2-7]{12}$/;
const INTERFACE = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$/;

/** Host-side link of a workload: 15 characters, the most that Linux takes. */
export function linkName(uid: string): string {
  if (!UID.test(uid)) throw new CapsuleError("internal", `"${uid}" is not the uid of a workload`);
  return `${LINK_PREFIX}${uid}`;
}

/** Returns the name, or throws when it cannot be one of an interface (it goes into command lines and rules). */
export function checkedInterface(name: string): string {
  if (!INTERFACE.test(name)) throw new CapsuleError("internal", `"${name}" is not the name of a network interface`);
  return name;
}
