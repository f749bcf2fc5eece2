/** Volumes against the bare tools, in the capsule's own pool: create, snapshot, restore, export, import. */
import { spawnSync } from "node:child_process";
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import type { TestCapsule } from "../test/support/test-capsule.ts";
import { compare, ms, type Row } from "./measure.ts";

const runs = 7;
const dataMib = 512;

export async function storageRows(capsule: TestCapsule): Promise<Row[]> {
  const { local } = capsule;
  const pool = "/run/capsule/pools/default";
  const shell = (script: string): Promise<string> => local.exec(["sh", "-ec", script]);
  const inside = ["nsenter", "-t", String(local.initPid), "-m", "-p", "-C", "--"];
  await capsule.ctl(["pool", "set", "default", "--overcommit", "2000"]);
  await capsule.ctl(["volume", "create", "large", "--size", "100GiB"]);
  const write = `dd if=/dev/urandom of=/mnt/data bs=1M count=${dataMib} 2>/dev/null; sync`;
  await capsule.ctl(["volume", "mount", "large", "--", "sh", "-c", write]);
  const disk = (await shell(`ls ${pool}/disks/vol-large@*.img`)).trim();

  const create = await compare(
    runs,
    (i) => capsule.ctl(["volume", "create", `b${i}`, "--size", "1GiB"]),
    (i) =>
      shell(`truncate -s 1G ${pool}/bare-${i}; mke2fs -q -F -t ext4 -E nodiscard ${pool}/bare-${i}; sync -f ${pool}`),
  );
  for (let i = 0; i < runs; i++) await capsule.ctl(["volume", "delete", `b${i}`]);
  const snapshot = await compare(
    runs,
    (i) => capsule.ctl(["volume", "snapshot", "large", `s${i}`]),
    (i) => shell(`cp --reflink=always ${disk} ${pool}/bare-${i}; sync ${pool}/bare-${i}`),
  );
  const restore = await compare(
    runs,
    (i) => capsule.ctl(["volume", "restore", "large", "s0", "--as", `r${i}`]),
    (i) => shell(`rm -f ${pool}/bare-${i}; cp --reflink=always ${disk} ${pool}/bare-${i}; sync ${pool}/bare-${i}`),
  );
  for (let i = 0; i < runs; i++) await capsule.ctl(["volume", "delete", `r${i}`]);
  await shell(`rm -f ${pool}/bare-*`);

  // Of 2 GiB with half a GiB that cannot be compressed: a quarter of it is data, as of most volumes.
  await capsule.ctl(["volume", "create", "data", "--size", "2GiB"]);
  await capsule.ctl(["volume", "mount", "data", "--", "sh", "-c", write]);
  const path = (await shell(`ls ${pool}/disks/vol-data@*.img`)).trim();
  const out = join(capsule.dir, "export.zst");
  const bare = (script: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const [command = "", ...args] = [...inside, "cat", path];
      const done = spawnSync("sh", ["-c", script, "bench", [command, ...args].join(" ")], { stdio: "inherit" });
      if (done.status === 0) resolve();
      else reject(new Error(script));
    });
  const exported = await compare(
    3,
    () => capsule.ctl(["volume", "export", "data", out]),
    () => bare(`$1 | zstd -q -3 -T2 >${out}.bare; sync ${out}.bare`),
  );
  const imported = await compare(
    3,
    async (i) => await capsule.ctl(["volume", "import", `i${i}`, out]),
    async () => await bare(`zstd -q -dc ${out}.bare | dd of=${out}.img bs=1M conv=sparse,fsync 2>/dev/null`),
  );
  for (let i = 0; i < 3; i++) await capsule.ctl(["volume", "delete", `i${i}`]);
  const size = statSync(out).size;
  rmSync(`${out}.img`);
  await capsule.ctl(["volume", "delete", "large", "data", "--snapshots"]);
  await capsule.ctl(["pool", "set", "default", "--overcommit", "300"]);

  const rate = (value: number): string => `${Math.round((2048 * 1.048576) / (value / 1000))} MB/s`;
  const plus = (what: string, times: { ours: number; bare: number }, against: string, goalMs: number): Row => ({
    what,
    ours: ms(times.ours),
    against: `${against}: ${ms(times.bare)}`,
    goal: `≤ ${goalMs} ms`,
    result: ms(times.ours),
    met: times.ours <= goalMs,
  });
  const ratio = (what: string, times: { ours: number; bare: number }, against: string, least: number): Row => ({
    what,
    ours: rate(times.ours),
    against: `${against}: ${rate(times.bare)}`,
    goal: `≥ ${least} ×`,
    result: `${(times.bare / times.ours).toFixed(2)} ×`,
    met: times.bare / times.ours >= least,
  });
  return [
    plus("volume create of 1 GiB, whole CLI call until READY", create, "truncate + mke2fs + sync", 1_000),
    plus("snapshot of a volume of 100 GiB, whole CLI call", snapshot, "cp --reflink + sync", 500),
    plus("restore of it as a new volume, whole CLI call until READY", restore, "cp --reflink + sync", 1_000),
    ratio(
      `volume export of 2 GiB with ${dataMib} MiB of noise (${Math.round(size / 1e6)} MB)`,
      exported,
      "cat | zstd -3 -T2",
      0.7,
    ),
    ratio("volume import of it, with e2fsck", imported, "zstd -d | dd conv=sparse,fsync", 0.5),
  ];
}
