/** Which backend this machine's default pool has. */
import { existsSync } from "node:fs";
import { defaultPool } from "../layout.ts";
import { permPartition, readBootDisk } from "../substrate/disk.ts";
import { LvmThinBackend } from "./lvm-thin.ts";
import { Pool, Pools } from "./pools.ts";
import { ReflinkBackend } from "./reflink.ts";

const bootDisk = "/run/capsule/boot.json";

/** A machine that was booted from its own disk has a thin pool there; everything else takes a file in `/perm`. */
export function openPools(env: NodeJS.ProcessEnv = process.env): Pools {
  if (existsSync(bootDisk)) {
    const device = async (): Promise<string> => (await permPartition(await readBootDisk(bootDisk))).device;
    return new Pools([new Pool(defaultPool, new LvmThinBackend(device))]);
  }
  const bytes = Number(env["CAPSULE_POOL_BYTES"] ?? 0);
  const size = bytes > 0 ? { sizeBytes: bytes } : {};
  return new Pools([new Pool(defaultPool, new ReflinkBackend({ pool: defaultPool, ...size }))]);
}
