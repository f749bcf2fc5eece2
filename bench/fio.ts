/** fio (fio(1)) in a container on its volume, and on the disk that the pool lies on. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { buildDir } from "../image/paths.ts";
import { baseLayer, busybox } from "../test/images/build.ts";
import { programLayer } from "../test/images/debian.ts";
import { writeImage } from "../test/images/image.ts";
import type { TestCapsule } from "../test/support/test-capsule.ts";
import { median, type Row } from "./measure.ts";

const rounds = 3;
/** What a database, a media store and a web server do; sizes so that a round takes a few seconds. */
const jobs = {
  "written in blocks of 1 MiB and flushed": "--rw=write --bs=1M --size=256M --end_fsync=1",
  "4 KiB at random places, each 16th flushed":
    "--rw=randwrite --bs=4k --size=64M --fdatasync=16 --time_based --runtime=5",
  "read at random, 4 KiB": "--rw=randread --bs=4k --size=64M --time_based --runtime=3",
};
const manifest =
  'kind: Volume\nname: io\nsize: 1GiB\n---\nkind: Container\nname: io\ncontainer: {image: "fio:1", command: [sleep, 1d], stopTimeout: 0s, mounts: [{volumeName: io, mountPath: /data}]}\n';

export async function fioRows(capsule: TestCapsule): Promise<Row[]> {
  const path = join(buildDir, "images/fio.tar");
  await mkdir(join(path, ".."), { recursive: true });
  const { program, tools } = await busybox();
  const layers = [baseLayer(program, tools), await programLayer("fio", "usr/bin/fio")];
  await writeImage({ name: "fio:1", layers, config: { Env: ["PATH=/bin"] } }, path);
  await capsule.ctl(["image", "push", path]);
  await capsule.apply(manifest, "--wait=60s");
  const { uid } = await capsule.workload("io");
  const root = `/run/containerd/io.containerd.runtime.v2.task/capsule/${uid}/rootfs`;
  const own = `${root}/lib/ld-*.so.* --library-path ${root}/lib ${root}/lib/fio`;
  await capsule.local.exec(["mkdir", "/perm/bench-io"]);
  const rows: Row[] = [];
  for (const [what, job] of Object.entries(jobs)) {
    const options = `--name=job --ioengine=psync --output-format=json --invalidate=1 ${job}`;
    const ours: number[] = [];
    const bare: number[] = [];
    for (let i = 0; i < rounds; i++) {
      const inside = ["workload", "exec", "io", "--", "sh", "-c", `fio --directory=/data ${options}`];
      ours.push(rateOf(await capsule.ctl(inside)));
      bare.push(rateOf(await capsule.local.exec(["sh", "-c", `${own} --directory=/perm/bench-io ${options}`])));
    }
    rows.push(rowOf(what, median(ours), median(bare)));
  }
  await capsule.local.exec(["rm", "-r", "/perm/bench-io"]);
  await capsule.ctl(["workload", "delete", "io"]);
  await capsule.ctl(["volume", "delete", "io"]);
  return rows;
}

/** Bytes per second of the time that the job took, its flushes included. */
function rateOf(report: string): number {
  const { jobs } = JSON.parse(report.slice(report.indexOf("{"))) as {
    jobs: { job_runtime: number; read: { io_bytes: number }; write: { io_bytes: number } }[];
  };
  const [job] = jobs;
  if (job === undefined) throw new Error(`fio reported no job: ${report}`);
  return (job.read.io_bytes + job.write.io_bytes) / (job.job_runtime / 1000);
}

function rowOf(what: string, ours: number, bare: number): Row {
  const rate = (value: number): string => `${(value / 1e6).toFixed(value < 1e7 ? 1 : 0)} MB/s`;
  return {
    what: `fio in a container on a volume (reflink): ${what}`,
    ours: rate(ours),
    against: `on /perm: ${rate(bare)}`,
    goal: "≥ 0.7 ×",
    result: `${(ours / bare).toFixed(2)} ×`,
    met: ours / bare >= 0.7,
  };
}
