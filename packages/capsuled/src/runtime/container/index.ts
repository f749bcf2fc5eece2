import type { Logger } from "pino";
import type { RuntimeDriver } from "../driver.ts";
import type { ImageStore } from "../images.ts";
import { cleanLeases } from "./blobs.ts";
import { connectContainerd } from "./client.ts";
import { ContainerDriver } from "./driver.ts";
import { cleanExecs } from "./exec.ts";
import { proxyIdentity } from "./forwarder.ts";
import { ImageConfigs } from "./image-config.ts";
import { ContainerdImages } from "./images.ts";
import { settleLeftovers } from "./settle.ts";
import { cleanViews } from "./view.ts";

export interface ContainerRuntime {
  readonly driver: RuntimeDriver;
  readonly images: ImageStore;
  readonly configs: ImageConfigs;
  close(): void;
}

/** The container runtime behind a containerd socket. */
export async function openContainerd(options: {
  readonly socket: string;
  readonly log: Logger;
  /** OCI runtime: "crun" (the default) or "runc". */
  readonly runtime?: string;
}): Promise<ContainerRuntime> {
  const { socket, log, runtime = "crun" } = options;
  await cleanExecs();
  await proxyIdentity();
  const client = connectContainerd(socket);
  await cleanLeases(client);
  await settleLeftovers(client, log);
  const configs = new ImageConfigs(client);
  await cleanViews();
  return {
    configs,
    driver: new ContainerDriver({ client, configs, log, runtime }),
    images: new ContainerdImages(client, configs, log),
    close: () => client.close(),
  };
}
