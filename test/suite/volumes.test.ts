/** Volumes as a user of capsulectl sees them. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { isMachine } from "../support/kind.ts";
import { sleeperOf } from "../support/machines.ts";
import { askAgainMs, patience, TestCapsule } from "../support/test-capsule.ts";
import { diskPath } from "../support/volumes.ts";

interface VolumeJson {
  readonly uid: string;
  readonly spec: { readonly sizeBytes: string; readonly labels: Record<string, string> };
  readonly status: {
    readonly phase: string;
    readonly message: string;
    readonly usedBy: string[];
    readonly mounted: boolean;
    readonly sizeBytes: string;
  };
}

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("vol", ["busybox"]);
});
after(async () => await capsule?.stop());

const user = (name: string, mounts: string, fields = ""): string => sleeperOf(name, `  mounts: [${mounts}]\n${fields}`);
const volume = (name: string, size = "64MiB"): string => `kind: Volume\nname: ${name}\nsize: ${size}\n`;
const all = (...documents: string[]): string => documents.join("---\n");
const sh = (name: string, script: string): Promise<string> =>
  capsule.ctl(["workload", "exec", name, "--", "sh", "-c", script]);
const get = async (name: string): Promise<VolumeJson> =>
  JSON.parse(await capsule.ctl(["volume", "get", name, "-o", "json"])) as VolumeJson;

async function applied(manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, "--wait=60s");
  assert.equal(code, 0, stderr);
}

/** What the capsule has mounted or set up for volumes. */
async function leftOf(uid: string): Promise<string> {
  return await capsule.host.exec(["sh", "-c", `grep ${uid} /proc/mounts || true`]);
}

describe("a volume", () => {
  test("is made, listed, found by its label, grown and deleted", async () => {
    await capsule.ctl(["volume", "create", "first", "--size", "64MiB", "-l", "tier=db"]);
    assert.equal((await capsule.try(["volume", "create", "first", "--size", "64MiB"])).code, 5);
    const made = await get("first");
    assert.equal(made.status.phase, "VOLUME_PHASE_READY");
    assert.equal(made.spec.labels["tier"], "db");
    assert.match(await capsule.ctl(["volume", "list", "-l", "tier=db"]), /^first +READY +64\.0 MiB/m);
    assert.doesNotMatch(await capsule.ctl(["volume", "list", "-l", "tier=web"]), /first/);
    await capsule.ctl(["volume", "resize", "first", "130MiB"]);
    assert.equal((await get("first")).status.sizeBytes, String(132 * 1024 ** 2), "whole extents");
    const shrunk = await capsule.try(["volume", "resize", "first", "64MiB"]);
    assert.match(shrunk.stderr, /does not shrink/);
    await capsule.ctl(["volume", "delete", "first"]);
    assert.equal((await capsule.try(["volume", "get", "first"])).code, 3);
    assert.equal((await capsule.try(["volume", "delete", "first"])).code, 3);
  });

  test("of a bad size or name is refused with the reason", async () => {
    for (const [size, reason] of [
      ["0", /a size is needed/],
      ["-1", /is no size|unknown option/],
      ["1T7", /is no size/],
      ["9999T", /more than a volume can have/],
      ["99999999999999999999T", /is no size/],
      ["1MiB", /less than a volume has/],
    ] as const) {
      const { code, stderr } = await capsule.try(["volume", "create", "bad", `--size=${size}`]);
      assert.notEqual(code, 0, size);
      assert.match(stderr, reason);
    }
    for (const name of ["Bad", "a_tmeta", "a/b", "-x", "x".repeat(64)])
      assert.notEqual((await capsule.try(["volume", "create", "--size=64MiB", "--", name])).code, 0, name);
    for (const name of ["snapshot", "pvmove0", "pool", "perm"]) {
      await capsule.ctl(["volume", "create", name, "--size=64MiB"]);
      await capsule.ctl(["volume", "delete", name]);
    }
  });
});

/** A machine has the volume as a disk: the capsule mounts nothing. */
const isMountedInUse = !isMachine;

describe("in a workload", () => {
  test("it is empty at first, keeps what is written, and is unmounted when nobody uses it", async () => {
    await applied(all(user("web", "{volumeName: data, mountPath: /data}"), volume("data")));
    assert.equal(await sh("web", "ls -A /data"), "");
    await sh("web", "echo kept >/data/witness");
    const { uid, status } = await get("data");
    assert.deepEqual([status.usedBy, status.mounted], [["web"], isMountedInUse]);
    await capsule.ctl(["workload", "stop", "web", "--wait"]);
    assert.equal(await leftOf(uid), "");
    assert.equal((await get("data")).status.mounted, false);
    await capsule.ctl(["workload", "start", "web", "--wait"]);
    assert.equal(await sh("web", "cat /data/witness"), "kept\n");
    // A new version of the workload has the same volume.
    await applied(user("web", "{volumeName: data, mountPath: /elsewhere}"));
    assert.equal(await sh("web", "cat /elsewhere/witness"), "kept\n");
  });

  test("a volume that nobody has made is refused, with its name", async () => {
    const { code, stderr } = await capsule.apply(user("lost", "{volumeName: nowhere, mountPath: /data}"));
    assert.equal(code, 3);
    assert.match(stderr, /No volume has the name "nowhere"/);
    assert.equal((await capsule.try(["workload", "get", "lost"])).code, 3);
  });

  test("one mounter at a time: refused at apply, naming the holder; several may read", async () => {
    const second = await capsule.apply(user("second", "{volumeName: data, mountPath: /data}"));
    assert.equal(second.code, 5);
    assert.match(second.stderr, /held by workload "web"/);
    await applied(user("web", "{volumeName: data, mountPath: /data, readOnly: true}"));
    await applied(user("second", "{volumeName: data, mountPath: /data, readOnly: true}"));
    assert.equal(
      await sh("second", "cat /data/witness; touch /data/x 2>&1 || true"),
      "kept\ntouch: /data/x: Read-only file system\n",
    );
    const refused = await capsule.try(["volume", "delete", "data"]);
    assert.match(refused.stderr, /mounted by workload "second", workload "web"/);
    await capsule.ctl(["workload", "delete", "second"]);
    assert.equal(await sh("web", "cat /data/witness"), "kept\n");
    await applied(user("web", "{volumeName: data, mountPath: /data}"));
  });

  test("directories of it are mounted, made when they may be, and never by way of a link", async () => {
    await sh("web", "mkdir /data/a; echo below >/data/a/file; ln -s /etc /data/out");
    const sub = (path: string, more = ""): string =>
      user("web", `{volumeName: data, mountPath: /sub, subPath: ${path}${more}}`);
    await applied(sub("a"));
    assert.equal(await sh("web", "cat /sub/file"), "below\n");
    await applied(sub("new/deep"));
    assert.equal(await sh("web", "ls -A /sub"), "");
    for (const [path, more] of [
      ["out", ""],
      ["absent", ", readOnly: true"],
    ] as const) {
      assert.equal((await capsule.apply(sub(path, more))).code, 0);
      await capsule.until("web", ({ status }) => /subPath/.test(status.message), "refused", 60_000 * patience);
    }
    await applied(user("web", "{volumeName: data, mountPath: /data}"));
    assert.equal(await sh("web", "ls /data/new"), "deep\n");
  });

  test("with a user namespace its owners are those that the container sees", {
    skip: isMachine && "it is about containers",
  }, async () => {
    await applied(
      all(volume("mapped"), user("ns", "{volumeName: mapped, mountPath: /data}", "  userNamespace: true\n")),
    );
    await sh("ns", "touch /data/mine");
    assert.equal(await sh("ns", "stat -c %u:%g /data /data/mine"), "0:0\n0:0\n");
    await applied(user("ns", "{volumeName: mapped, mountPath: /data}"));
    assert.equal(await sh("ns", "stat -c %u:%g /data/mine"), "0:0\n");
    await capsule.ctl(["workload", "delete", "ns"]);
  });

  test("belongs to whom its spec says", async () => {
    await applied(
      all(
        `${volume("owned")}filesystem: {ownerUid: 1000, ownerGid: 1001}\n`,
        user("own", "{volumeName: owned, mountPath: /data}", "  user: '1000:1001'\n"),
      ),
    );
    assert.equal(await sh("own", "touch /data/x && stat -c %u:%g /data/x"), "1000:1001\n");
    await capsule.ctl(["workload", "delete", "own"]);
  });

  test("grows while it is mounted, or says when it will", async () => {
    const { stderr } = await capsule.try(["volume", "resize", "data", "256MiB"]);
    if (/grows when/.test((await get("data")).status.message)) {
      assert.match(stderr, /next (unmounted|started)/);
      await capsule.ctl(["workload", "restart", "web", "--wait"]);
    }
    const kib = Number((await sh("web", "df -Pk /data | tail -n 1")).trim().split(/\s+/)[1]);
    assert.ok(kib > 220 * 1024, `${kib} KiB`);
    assert.equal(await sh("web", "cat /data/witness"), "kept\n");
  });

  test("is flushed and unmounted on stop, also when capsuled was killed in between", async () => {
    const { uid } = await get("data");
    const { pid } = (await capsule.workload("web")).status;
    await capsule.killCapsuled();
    await sleep(300);
    await capsule.untilServing();
    await sh("web", "echo after-the-kill >/data/witness");
    assert.equal((await capsule.workload("web")).status.pid, pid, "undisturbed");
    assert.equal((await get("data")).status.mounted, isMountedInUse);
    await capsule.ctl(["workload", "stop", "web", "--wait"]);
    assert.equal(await leftOf(uid), "");
    await capsule.ctl(["workload", "start", "web", "--wait"]);
    assert.equal(await sh("web", "cat /data/witness"), "after-the-kill\n");
  });

  test("one that ends while capsuled is away leaves nothing mounted", async () => {
    const { uid } = await get("data");
    const pid = (await capsule.workload("web")).status.pid;
    await capsule.apply(user("web", "{volumeName: data, mountPath: /data}", "  restartPolicy: NEVER\n"), "--wait=60s");
    const again = (await capsule.workload("web")).status.pid;
    assert.notEqual(again, pid);
    await capsule.killCapsuled();
    await capsule.host.exec(["kill", "-9", String(again)]).catch(() => "");
    await sleep(300);
    await capsule.untilServing();
    await capsule.until("web", ({ status }) => status.phase === "PHASE_FAILED", "ended", 60_000 * patience);
    const deadline = Date.now() + 10_000 * patience;
    while ((await leftOf(uid)) !== "") {
      assert.ok(Date.now() < deadline, "still mounted");
      await sleep(askAgainMs);
    }
  });

  test("deleted by force, its user is stopped first; what mounts it then says so", async () => {
    await applied(user("web", "{volumeName: data, mountPath: /data}"));
    await capsule.ctl(["volume", "delete", "data", "--force"]);
    assert.equal((await capsule.workload("web")).desired, "RUN_STATE_STOPPED");
    await capsule.ctl(["workload", "start", "web"]);
    await capsule.until(
      "web",
      ({ status }) => /volume "data" does not exist/.test(status.message),
      "failed",
      60_000 * patience,
    );
    await capsule.ctl(["workload", "delete", "web"]);
  });

  test("a file of both is deleted as a whole", async () => {
    const manifest = all(volume("both"), user("both", "{volumeName: both, mountPath: /data}"));
    await applied(manifest);
    const deleted = await capsule.try(["delete", "-f", "-"], manifest);
    assert.equal(deleted.code, 0, deleted.stderr);
    assert.match(deleted.stdout, /volume\/both deleted/);
  });
});

describe("faults", () => {
  test("a damaged filesystem fails its workload with the words of e2fsck, and is not touched", async () => {
    await capsule.ctl(["volume", "create", "broken", "--size=64MiB"]);
    const path = await diskPath(capsule, "broken");
    // The superblock's magic number, and its copies are not asked.
    await capsule.host.exec(["sh", "-c", `printf 'xx' | dd of=${path} bs=1 seek=1080 conv=notrunc 2>/dev/null; sync`]);
    assert.equal((await capsule.apply(user("hurt", "{volumeName: broken, mountPath: /data}"))).code, 0);
    const { status } = await capsule.until(
      "hurt",
      ({ status: { phase } }) => phase === "PHASE_FAILED",
      "failed",
      60_000,
    );
    assert.match(status.message, /broken/);
    await capsule.ctl(["workload", "delete", "hurt"]);
    await capsule.ctl(["volume", "delete", "broken"]);
  });

  test("a disk that is gone is MISSING, and never made anew", async () => {
    await capsule.ctl(["volume", "create", "lost", "--size=64MiB"]);
    await removeDisk("lost");
    await capsule.killCapsuled();
    await sleep(300);
    await capsule.untilServing();
    const deadline = Date.now() + 20_000 * patience;
    while ((await get("lost")).status.phase !== "VOLUME_PHASE_MISSING") {
      assert.ok(Date.now() < deadline, JSON.stringify((await get("lost")).status));
      await sleep(askAgainMs);
    }
    const { message } = (await get("lost")).status;
    assert.match(message, /vol-lost is not in the pool/);
    await capsule.ctl(["volume", "delete", "lost"]);
  });
});

async function removeDisk(name: string): Promise<void> {
  const path = await diskPath(capsule, name);
  if (path.startsWith("/dev/")) await capsule.host.exec(["lvm", "lvremove", "--yes", `capsule/vol-${name}`]);
  else await capsule.host.exec(["rm", path]);
}
