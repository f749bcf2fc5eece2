/** What the agent in a guest is told to run: the specification of a container, as far as it has a meaning there. */

import type { ImageConfig } from "../container/image-config.ts";
import { specOf, type User } from "../container/spec.ts";
import type { Instance } from "../instance.ts";

/** Places in the guest (guest.proto). */
export const guestFiles = "/run/payload/files";
export const guestVolumes = "/run/payload/volumes";
const guestRoot = "/run/payload/rootfs";

/** In the place of a user that the agent looks up, in the root filesystem as it is now. */
export const lookedUpInside: User = { uid: 0, gid: 0, additionalGids: [], home: "" };

/** Throws `precondition` when there is no command to run. */
export function guestSpecOf(instance: Instance, config: ImageConfig): Uint8Array<ArrayBuffer> {
  const inside: Instance = {
    ...instance,
    // The guest's own network and host name are the payload's; its memory and processors are limited by the machine.
    network: "host",
    limits: { cpuMillis: 0, memoryBytes: 0, pidsMax: instance.limits.pidsMax },
    files: new Map([...instance.files.keys()].map((path, i) => [path, `${guestFiles}/${i}`])),
  };
  const spec = specOf(inside, config, lookedUpInside, undefined) as {
    root: Record<string, unknown>;
    linux: Record<string, unknown>;
  };
  spec.root["path"] = guestRoot;
  spec.linux["cgroupsPath"] = "/payload";
  return new TextEncoder().encode(JSON.stringify(spec));
}
