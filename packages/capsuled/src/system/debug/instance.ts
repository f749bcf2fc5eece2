/** The container of a debug session, as the runtime is asked for it. Pure. */
import { hostname } from "node:os";
import type { Instance } from "../../runtime/instance.ts";

/** How the tool image is called before people. */
export const toolsImage = "capsule-tools";

export type Root =
  /** The tree of the tool image: read-only, with memory where tools write. */
  | { readonly kind: "tools"; readonly directory: string }
  | { readonly kind: "image"; readonly reference: string; readonly digest: string };

const MiB = 1024 ** 2;

export function debugInstance(uid: string, root: Root, logDir: string): Instance {
  const ofTools = root.kind === "tools";
  return {
    uid,
    name: "debug",
    generation: 1,
    image: ofTools ? { reference: toolsImage, digest: "" } : { reference: root.reference, digest: root.digest },
    ...(ofTools ? { rootDir: root.directory } : {}),
    // The capsule's own program, linked to nothing: an image need not have any.
    command: ["/host/usr/sbin/capsule-init", "hold"],
    args: [],
    env: new Map(ofTools ? [["LANG", "C.UTF-8"]] : []),
    workingDir: "/",
    user: "0:0",
    hostname: hostname(),
    network: "host",
    limits: { cpuMillis: 0, memoryBytes: 0, pidsMax: 0 },
    stopSignal: undefined,
    files: new Map(),
    mounts: [],
    logs: { dir: logDir, maxBytes: 65_536, maxFiles: 1 },
    container: {
      addCapabilities: [],
      dropCapabilities: [],
      readOnlyRoot: ofTools,
      sysctls: new Map(),
      userNamespace: false,
      privileged: true,
      tmpfs: ofTools ? ["/tmp", "/root"].map((target) => ({ target, sizeBytes: 64 * MiB })) : [],
      shmBytes: 0,
      init: false,
      sharesMachine: true,
    },
  };
}

/** What a session runs when nothing was asked for. */
export function shellOf(image: string): string[] {
  return image === "" ? ["/usr/bin/bash"] : ["/bin/sh"];
}
