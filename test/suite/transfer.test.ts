/** Export and import of volumes as a user of capsulectl sees them. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BreakingProxy } from "../support/proxy.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let file: string;
before(async () => {
  capsule = await TestCapsule.start("xfer", ["busybox"]);
  file = join(capsule.dir, "data.zst");
  const manifest = `kind: Volume\nname: data\nsize: 200MiB\n---\n${user("web", "data")}`;
  assert.equal((await capsule.apply(manifest, "--wait=60s")).code, 0);
  await sh("web", "dd if=/dev/urandom of=/data/noise bs=1M count=24 2>/dev/null; echo before >/data/file; sync");
});
after(async () => await capsule?.stop());

const user = (name: string, volume: string): string =>
  `kind: Container\nname: ${name}\ncontainer:\n  image: busybox:1\n  command: [sleep, 1d]\n  stopTimeout: 0s\n  mounts: [{volumeName: ${volume}, mountPath: /data}]\n`;
const sh = (name: string, script: string): Promise<string> =>
  capsule.ctl(["workload", "exec", name, "--", "sh", "-c", script], "", 60_000);

/** Scratch disks, of which none may stay. */
async function scratchDisks(): Promise<string> {
  const script =
    "if [ -e /run/capsule/boot.json ]; then lvm lvs --noheadings -o lv_name capsule | tr -d ' '; else ls /run/capsule/pools/default/new /run/capsule/pools/default/disks; fi";
  return (await capsule.host.exec(["sh", "-c", script]))
    .split("\n")
    .filter((line) => line.startsWith("next-"))
    .join();
}

describe("an export", () => {
  test("is of one moment while the workload runs on, and plain tools can read it", async () => {
    await capsule.ctl(["volume", "export", "data", file]);
    await sh("web", "echo after >/data/file");
    const image = join(capsule.dir, "data.img");
    execFileSync("zstd", ["-q", "-d", "-f", file, "-o", image]);
    assert.equal(statSync(image).size, 200 * 1024 ** 2);
    execFileSync("e2fsck", ["-f", "-n", image]);
    const held = execFileSync("debugfs", ["-R", "cat /file", image], { stdio: ["ignore", "pipe", "ignore"] });
    assert.equal(held.toString(), "before\n");
    assert.ok(statSync(file).size < 40 * 1024 ** 2, "what is empty takes no room");
    // The digest, by the tools that docs/volume-image.md names.
    const pipeline = `zstd -q -dc '${file}' | split -b 1M --filter 'sha256sum | cut -c1-64' | xxd -r -p | sha256sum | cut -c1-64`;
    const digest = execFileSync("sh", ["-c", pipeline]).toString().trim();
    assert.ok(readFileSync(file).subarray(-500).toString("latin1").includes(`"digest":"${digest}"`));
    assert.equal(await scratchDisks(), "");
  });

  test("goes to standard output too, and of a snapshot", async () => {
    await capsule.ctl(["volume", "snapshot", "data", "s"]);
    await sh("web", "echo later >/data/file");
    const out = join(capsule.dir, "s.zst");
    await capsule.ctl(["volume", "export", "data", out, "--snapshot", "s"]);
    const image = execFileSync("zstd", ["-q", "-dc", out], { maxBuffer: 2 ** 30 });
    const piped = spawnSync(
      "sh",
      ["-c", `"$0" volume export data - --snapshot s | zstd -q -dc | sha256sum`, "./capsulectl"],
      {
        env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
        cwd: join(import.meta.dirname, "../.."),
      },
    );
    assert.equal(piped.stdout.toString().slice(0, 64), createHash("sha256").update(image).digest("hex"));
    assert.equal((await capsule.try(["volume", "export", "data", out, "--snapshot", "none"])).code, 3);
    assert.equal((await capsule.try(["volume", "export", "nothing", join(capsule.dir, "x")])).code, 3);
    assert.ok(!existsSync(join(capsule.dir, "x")) && !existsSync(join(capsule.dir, "x.partial")));
  });
});

describe("an import", () => {
  test("makes the volume that was exported, as large as it is asked to be", async () => {
    assert.equal((await capsule.try(["volume", "import", "data", file])).code, 5);
    await capsule.ctl(["volume", "import", "again", file, "--size", "256MiB"]);
    assert.equal((await capsule.apply(user("reader", "again"), "--wait=60s")).code, 0);
    assert.equal(await sh("reader", "cat /data/file"), "before\n");
    const sums = await Promise.all(["web", "reader"].map((name) => sh(name, "sha256sum /data/noise")));
    assert.equal(sums[0], sums[1]);
    const kib = Number((await sh("reader", "df -Pk /data | tail -n 1")).trim().split(/\s+/)[1]);
    assert.ok(kib > 220 * 1024, `${kib} KiB`);
    await capsule.ctl(["workload", "delete", "reader"]);
    await capsule.ctl(["volume", "delete", "again"]);
  });

  test("of standard input", async () => {
    await capsule.ctl(["volume", "import", "piped", "-"], readFileSync(file));
    await capsule.ctl(["volume", "delete", "piped"]);
  });

  test("that is cut, changed, of another format or damaged is refused, and nothing of it stays", async () => {
    const whole = readFileSync(file);
    const bad = (name: string, change: (path: string) => void): string => {
      const path = join(capsule.dir, name);
      writeFileSync(path, whole);
      change(path);
      return path;
    };
    const cases: [string, RegExp][] = [
      [bad("cut", (path) => truncateSync(path, Math.floor(whole.length / 2))), /ends in the middle|without its end/],
      [
        bad("endless", (path) => truncateSync(path, whole.lastIndexOf(Buffer.from([0x5c, 0x2a, 0x4d, 0x18])))),
        /without its end/,
      ],
      [bad("changed", (path) => writeFileSync(path, changed(whole))), /damaged at MiB|no export of a volume/],
      [bad("digest", (path) => writeFileSync(path, otherDigest(whole))), /digest/],
      [bad("text", (path) => writeFileSync(path, "hello, this is no volume")), /no export of a volume/],
      [bad("empty", (path) => writeFileSync(path, "")), /it is empty/],
    ];
    for (const [path, reason] of cases) {
      const { code, stderr } = await capsule.try(["volume", "import", "bad", path]);
      assert.equal(code, 1, path);
      assert.match(stderr, reason, path);
      assert.equal((await capsule.try(["volume", "get", "bad"])).code, 3);
    }
    const damaged = join(capsule.dir, "damaged.zst");
    writeFileSync(damaged, damagedImage(whole));
    const { stderr } = await capsule.try(["volume", "import", "bad", damaged]);
    assert.match(stderr, /filesystem is damaged|no ext4/);
    assert.equal(await scratchDisks(), "");
  });
});

describe("a connection that breaks", () => {
  let proxy: BreakingProxy;
  before(async () => {
    proxy = await BreakingProxy.start(capsule.host.port);
    await capsule.ctl(["adopt", `127.0.0.1:${proxy.port}`, "--name", "shaky", "--fingerprint", capsule.fingerprint]);
    await capsule.ctl(["context", "use", "test"]);
  });
  after(() => proxy?.stop());

  test("does not end an export, and its file is the same", async () => {
    proxy.breakAfterBytes = 5 * 1024 ** 2;
    const out = join(capsule.dir, "shaky.zst");
    const { code, stderr } = await capsule.try([
      "--capsule",
      "shaky",
      "volume",
      "export",
      "data",
      out,
      "--snapshot",
      "s",
    ]);
    proxy.breakAfterBytes = Number.POSITIVE_INFINITY;
    assert.equal(code, 0, stderr);
    assert.ok(proxy.broken > 2, `${proxy.broken} connections were broken`);
    assert.ok(readFileSync(out).equals(readFileSync(join(capsule.dir, "s.zst"))));
    assert.equal(await scratchDisks(), "");
  });

  test("does not end an import", async () => {
    const before = proxy.broken;
    proxy.breakAfterBytes = 5 * 1024 ** 2;
    const { code, stderr } = await capsule.try(["--capsule", "shaky", "volume", "import", "shaken", file]);
    proxy.breakAfterBytes = Number.POSITIVE_INFINITY;
    assert.equal(code, 0, stderr);
    assert.ok(proxy.broken - before > 2, `${proxy.broken - before} connections were broken`);
    await capsule.ctl(["volume", "delete", "shaken"]);
  });

  test("does not end an import whose answer is lost", async () => {
    const before = proxy.broken;
    proxy.breakAnswerAfterBytes = statSync(file).size;
    const { code, stderr } = await capsule.try(["--capsule", "shaky", "volume", "import", "answered", file]);
    proxy.breakAnswerAfterBytes = Number.POSITIVE_INFINITY;
    assert.equal(code, 0, stderr);
    assert.equal(proxy.broken - before, 1);
    await capsule.ctl(["volume", "delete", "answered"]);
  });

  test("nor does a capsuled that is killed, with a snapshot; what it left goes", async () => {
    const out = join(capsule.dir, "killed.zst");
    const exporting = capsule.try(["volume", "export", "data", out, "--snapshot", "s"]);
    await sleep(400);
    await capsule.killCapsuled();
    const { code, stderr } = await exporting;
    assert.equal(code, 0, stderr);
    assert.ok(readFileSync(out).equals(readFileSync(join(capsule.dir, "s.zst"))));
    const importing = capsule.try(["volume", "import", "killed", file]);
    await sleep(400);
    await capsule.killCapsuled();
    const imported = await importing;
    assert.equal(imported.code, 0, imported.stderr);
    await capsule.ctl(["volume", "delete", "killed"]);
    const deadline = Date.now() + 70_000;
    while ((await scratchDisks()) !== "") {
      assert.ok(Date.now() < deadline, await scratchDisks());
      await sleep(500);
    }
  });
});

/** One bit in the middle of what is compressed. */
function changed(whole: Buffer): Buffer {
  const copy = Buffer.from(whole);
  const at = Math.floor(whole.length / 2);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

function otherDigest(whole: Buffer): Buffer {
  const copy = Buffer.from(whole);
  const at = copy.lastIndexOf('"digest":"') + '"digest":"'.length;
  copy[at] = copy[at] === 0x30 ? 0x31 : 0x30;
  return copy;
}

/** Whole as a file, with a filesystem of which the second block group is overwritten: made by the format's own tools. */
function damagedImage(whole: Buffer): Buffer {
  const image = execFileSync("zstd", ["-q", "-dc"], { input: whole, maxBuffer: 2 ** 30 });
  // Root directory's inode table and more.
  image.fill(0xa5, 4 * 1024 ** 2, 6 * 1024 ** 2);
  image.fill(0, 64 * 1024, 1024 ** 2);
  const chunk = 1024 ** 2;
  const frames: Buffer[] = [];
  const digest = createHash("sha256");
  for (let at = 0; at < image.length; at += chunk) {
    const part = image.subarray(at, at + chunk);
    frames.push(execFileSync("zstd", ["-q", "-c", "-1"], { input: part, maxBuffer: 2 ** 30 }));
    digest.update(createHash("sha256").update(part).digest());
  }
  const headerLength = 8 + whole.readUInt32LE(4);
  const trailer = Buffer.from(
    JSON.stringify({ format: "capsule-volume-end", chunks: frames.length, digest: digest.digest("hex") }),
  );
  const lead = Buffer.alloc(8);
  lead.writeUInt32LE(0x184d2a5c, 0);
  lead.writeUInt32LE(trailer.length, 4);
  return Buffer.concat([whole.subarray(0, headerLength), ...frames, lead, trailer]);
}
