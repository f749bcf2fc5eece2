/** What the agent in a guest is told to run: the specification of a container, as far as it has a meaning there. */

import type { ImageConfig } from "../container/image-config.ts";
import { specOf } from "../container/spec.ts";
import type { Instance } from "../instance.ts";

/** Places in the guest (guest.proto). */
export const guestFiles = "/run/payload/files";
export const guestVolumes = "/run/payload/volumes";
const guestRoot = "/run/payload/rootfs";

/** The user is looked up by the agent, in the root filesystem as it is now. */
const placeholder = { uid: 0, gid: 0, additionalGids: [], home: "" };

/** Throws `precondition` when there is no command to run. */
export function guestSpecOf(instance: Instance, config: ImageConfig): Uint8Array {
  const inside: Instance = {
    ...instance,
    // The guest's own network and host name are the payload's; its memory and processors are limited by the machine.
    network: "host",
    limits: { cpuMillis: 0, memoryBytes: 0, pidsMax: instance.limits.pidsMax },
    files: new Map([...instance.files.keys()].map((path, i) => [path, `${guestFiles}/${i}`])),
  };
  const spec = specOf(inside, config, placeholder, undefined) as {
    process: { env: string[] };
    root: Record<string, unknown>;
    linux: Record<string, unknown>;
  };
  spec.root["path"] = guestRoot;
  spec.process.env = spec.process.env.filter((entry) => entry !== "HOME=");
  spec.linux["cgroupsPath"] = "/payload";
  return new TextEncoder().encode(JSON.stringify(spec));
}
