import { join } from "node:path";
import type { Logger } from "pino";
import type { ImageConfigs } from "../container/image-config.ts";
import { AcceleratorProbe } from "./accelerator.ts";
import { FirecrackerBackend } from "./backends/firecracker.ts";
import { QemuBackend } from "./backends/qemu.ts";
import { MicroVmDriver } from "./driver.ts";
import { guestDir } from "./layout.ts";
import type { RootDisks } from "./root-disks.ts";

/** The runtime of microVMs; takes over those that run. */
export async function openMicroVms(options: {
  readonly configs: ImageConfigs;
  readonly roots: RootDisks;
  readonly workloadsDir: string;
  readonly log: Logger;
}): Promise<MicroVmDriver> {
  const accelerator = new AcceleratorProbe(join(guestDir, "vmlinux"), options.log);
  const backends = { qemu: new QemuBackend(), firecracker: new FirecrackerBackend(() => accelerator.found) };
  const driver = new MicroVmDriver({ ...options, accelerator, backends });
  await driver.adopt();
  return driver;
}
