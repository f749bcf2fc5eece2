/** MicroVMs of one image: their root disks share its blocks. COUNT=n; emulated, each takes 15 s of a processor to boot. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { baseLayer, busybox } from "../images/build.ts";
import { writeImage } from "../images/image.ts";
import { workloadOf } from "../support/machines.ts";
import { TestCapsule } from "../support/test-capsule.ts";
import { disksOf, poolOf } from "../support/volumes.ts";

const MiB = 1024 ** 2;
/** As large as many are. */
const imageBytes = 400 * MiB;
const count = Number(process.env["COUNT"] ?? 4);

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("vmten", []);
  const { program, tools } = await busybox();
  const ballast = { path: "ballast", type: "file", data: randomBytes(imageBytes) } as const;
  const image = join(capsule.dir, "big.tar");
  await writeImage(
    { name: "big:1", layers: [baseLayer(program, tools), [ballast]], config: { Env: ["PATH=/bin"] } },
    image,
  );
  await capsule.ctl(["image", "push", image]);
});
after(async () => await capsule?.stop());

/** Bytes that the pool's device was given to write since it was set up; what its filesystem only reserves is none of them. */
async function writtenBytes(): Promise<number> {
  const script = `sync; d=$(grep ' /run/capsule/pools/default ' /proc/mounts | cut -d' ' -f1); awk '{print $7 * 512}' /sys/class/block/\${d#/dev/}/stat`;
  return Number(await capsule.host.exec(["sh", "-ec", script]));
}

/** How many disks of the pool have a name that begins so. */
async function disks(prefix: string): Promise<number> {
  return (await disksOf(capsule)).filter((disk) => disk.startsWith(`disks/${prefix}`)).length;
}

async function applied(numbers: readonly number[]): Promise<void> {
  const fields = "  command: [sleep, 1d]\n  memoryMib: 96\n  stopTimeout: 0s";
  const manifests = numbers.map((i) => workloadOf("MicroVM", `vm${i}`, "big:1", fields));
  const { code, stderr } = await capsule.try(["apply", "-f", "-", "--wait=300s"], manifests.join("---\n"));
  assert.equal(code, 0, stderr);
}

test(`${count} identical microVMs: the image is laid out once, and the others together write less than a hundredth of it`, {
  timeout: 600_000,
}, async () => {
  const usedBytes = async (): Promise<number> => Number((await poolOf(capsule)).usedBytes);
  const empty = await usedBytes();
  await applied([0]);
  const first = await writtenBytes();
  const laidOut = (await usedBytes()) - empty;
  assert.ok(laidOut > imageBytes, `${laidOut} bytes for the first`);
  await applied(Array.from({ length: count - 1 }, (_, i) => i + 1));
  assert.deepEqual([await disks("base-"), await disks("root-")], [1, count]);
  const more = (await writtenBytes()) - first;
  console.log(`${count - 1} more wrote ${more} bytes: ${((100 * more) / imageBytes).toFixed(2)} % of the image`);
  assert.ok(more > 0 && more < imageBytes / 100, `${more} bytes`);
});
