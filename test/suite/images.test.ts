/** Pushes that are broken, hostile or cut, as a user of capsulectl and containerd see them. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { type ImageSpec, imageArchive, imageParts } from "../images/image.ts";
import { tar } from "../images/tar.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let files: string;
before(async () => {
  capsule = await TestCapsule.start("images", ["busybox"]);
  files = mkdtempSync(join(tmpdir(), "capsule-images-files-"));
});
after(async () => {
  await capsule?.stop();
  if (files !== undefined) rmSync(files, { recursive: true, force: true });
});

/** What is left in containerd of imports: leases, and content that was not there before. */
async function leftovers(before: ReadonlySet<string> = new Set()): Promise<string[]> {
  const lines = async (what: string): Promise<string[]> =>
    (await capsule.host.exec(["ctr", "-n", "capsule", ...what.split(" ")])).split("\n").filter((line) => line !== "");
  return [...(await lines("leases ls -q")), ...(await lines("content ls -q"))].filter((line) => !before.has(line));
}

const layered = (name: string, seed: number): ImageSpec => ({
  name,
  layers: [[{ path: "data", type: "file", data: Buffer.alloc(1_000_000, `${name} ${seed}`) }]],
});

test("broken and hostile archives are refused and leave nothing", async () => {
  const before = await capsule.ctl(["image", "list", "-o", "json"]);
  const content = new Set(await leftovers());
  const good = readFileSync(join(repositoryRoot, "build/images/busybox.tar"));
  const fresh = imageArchive(layered("broken:1", 1));
  // In the middle of the layer, whose digest then is another.
  const changed = Buffer.from(fresh);
  changed.writeUInt8(fresh.readUInt8(600_000) ^ 1, 600_000);
  const cases: Record<string, Uint8Array> = {
    empty: new Uint8Array(),
    garbage: Buffer.from("this is no archive ".repeat(1_000)),
    truncated: good.subarray(0, good.length - 900_000),
    zeros: Buffer.alloc(50_000_000),
    changed,
    cut: fresh.subarray(0, 600_000),
  };
  for (const [name, data] of Object.entries(cases)) {
    const path = join(files, `${name}.tar`);
    writeFileSync(path, data);
    const { code, stderr } = await capsule.try(["image", "push", path], "", 60_000);
    assert.equal(code, 1, `${name}: ${stderr}`);
    assert.match(stderr, /archive/, name);
    assert.deepEqual(await leftovers(content), [], name);
  }
  assert.equal(await capsule.ctl(["image", "list", "-o", "json"]), before);
});

test("an archive with blobs as of an OCI layout, which is none", async () => {
  const { blobs } = imageParts(layered("no-layout:1", 2));
  const named = blobs.map((data) => ({
    data,
    path: `blobs/sha256/${createHash("sha256").update(data).digest("hex")}`,
  }));
  const [layer, config] = named;
  const manifest = [{ Config: config?.path, RepoTags: ["no-layout:1"], Layers: [layer?.path] }];
  const entries = [...named, { path: "manifest.json", data: Buffer.from(JSON.stringify(manifest)) }];
  const archive = tar(entries.map((entry) => ({ ...entry, type: "file" as const })));
  assert.match(await capsule.ctl(["image", "push", "-"], archive), /no-layout:1/);
  await capsule.ctl(["image", "remove", "no-layout:1"]);
});

test("a push that capsuled does not survive leaves nothing", async () => {
  const content = new Set(await leftovers());
  const archive = imageArchive(layered("killed:1", 3));
  const push = spawn(join(repositoryRoot, "capsulectl"), ["image", "push", "-"], {
    env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
    stdio: ["pipe", "ignore", "ignore"],
  });
  push.stdin.on("error", () => undefined);
  const ended = new Promise((resolve) => push.once("close", resolve));
  push.stdin.write(archive.subarray(0, 900_000));
  for (let i = 0; i < 100 && (await leftovers(content)).length === 0; i++) await sleep(50);
  assert.ok((await leftovers(content)).length > 0, "it has begun");
  await capsule.killCapsuled();
  assert.notEqual(await ended, 0);
  await sleep(300);
  await capsule.untilServing();
  assert.deepEqual(await leftovers(content), []);
});

test("a container whose directory a power cut has taken starts again", async () => {
  const manifest = `kind: Container\nname: torn\ncontainer: {image: "busybox:1", command: [sleep, 1d], stopTimeout: 0s}\n`;
  assert.equal((await capsule.apply(manifest, "--wait=60s")).code, 0);
  await capsule.ctl(["workload", "stop", "torn"]);
  const { uid } = await capsule.workload("torn");
  const mount = await capsule.host.exec(["ctr", "-n", "capsule", "snapshots", "mounts", "/x", uid]);
  const directory = /upperdir=([^, ]+)\/fs/.exec(mount)?.[1];
  assert.ok(directory !== undefined, mount);
  await capsule.host.exec(["rm", "-r", directory]);
  await capsule.ctl(["workload", "start", "torn", "--wait=60s"]);
  await capsule.until("torn", ({ status }) => status.phase === "PHASE_RUNNING", "running", 60_000);
  await capsule.ctl(["workload", "delete", "torn"]);
});

test("an image that was not yet safe on the disk stays after a crash of capsuled, and goes after a boot", async () => {
  const name = "docker.io/library/busybox:1";
  const listed = (): Promise<string> => capsule.host.exec(["ctr", "-n", "capsule", "images", "ls"]);
  const again = async (): Promise<void> => {
    await capsule.host.exec(["ctr", "-n", "capsule", "images", "label", name, "capsule.unsettled=1"]);
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
  };
  assert.doesNotMatch(await listed(), /unsettled/, "a push that is answered is safe");
  await again();
  assert.ok((await listed()).includes(name));
  assert.doesNotMatch(await listed(), /unsettled/);
  // As after a boot: nothing of /run is there.
  await capsule.host.exec(["rm", "/run/capsule/images-checked"]);
  await capsule.host.exec(["ctr", "-n", "capsule", "leases", "create", "--id", "of-a-pull"]);
  await again();
  assert.ok(!(await listed()).includes(name));
  assert.equal(await capsule.host.exec(["ctr", "-n", "capsule", "leases", "ls", "-q"]), "");
});
