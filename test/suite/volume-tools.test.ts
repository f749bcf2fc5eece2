/** Looking into volumes without a workload: shell, copies, check, repair. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sleeperOf } from "../support/machines.ts";
import { askAgainMs, patience, TestCapsule } from "../support/test-capsule.ts";
import { diskPath, volumesOf } from "../support/volumes.ts";

let capsule: TestCapsule;
let files: string;
before(async () => {
  capsule = await TestCapsule.start("vtool", ["busybox"]);
  files = mkdtempSync(join(tmpdir(), "capsule-vtool-"));
  await capsule.ctl(["volume", "create", "data", "--size", "64MiB"]);
});
after(async () => {
  await capsule?.stop();
  if (files !== undefined) rmSync(files, { recursive: true, force: true });
});

const user = (name: string): string => sleeperOf(name, "  mounts: [{volumeName: data, mountPath: /data}]\n");
const mount = (...words: string[]): Promise<string> => capsule.ctl(["volume", "mount", ...words]);

async function nothingIsLeft(): Promise<void> {
  const script =
    "grep /run/capsule/volumes /proc/mounts; ctr -n capsule c ls -q; ls /run/capsule/sessions 2>/dev/null; true";
  const deadline = Date.now() + 10_000 * patience;
  for (;;) {
    const left = await capsule.host.exec(["sh", "-c", script]);
    if (left.trim() === "") return;
    assert.ok(Date.now() < deadline, left);
    await sleep(askAgainMs);
  }
}

describe("volume mount", () => {
  test("runs commands with the volume at /mnt and the capsule's own tools", async () => {
    await mount("data", "--", "sh", "-c", "echo hello >/mnt/file; mkdir /mnt/dir");
    assert.equal(await mount("data", "--", "cat", "/mnt/file"), "hello\n");
    assert.equal(await mount("data", "pwd"), "/mnt\n");
    assert.match(await mount("data", "--", "df", "-h", "/mnt"), /\/mnt/);
    assert.equal((await capsule.try(["volume", "mount", "data", "--", "sh", "-c", "exit 7"])).code, 7);
    // A script from standard input, as a shell takes it.
    assert.equal(await capsule.ctl(["volume", "mount", "data"], "cat /mnt/file; exit\n"), "hello\n");
    await nothingIsLeft();
  });

  test("read-only lets nothing be changed", async () => {
    const { code, stderr } = await capsule.try(["volume", "mount", "data", "--read-only", "--", "touch", "/mnt/x"]);
    assert.notEqual(code, 0);
    assert.match(stderr, /Read-only/);
  });

  test("shows nothing of the capsule but its programs", async () => {
    const seen = await mount(
      "data",
      "--",
      "sh",
      "-c",
      "ls -A /perm /run; ls /dev; cat /proc/net/dev; touch /etc/x 2>&1 || true",
    );
    assert.doesNotMatch(seen, /state\.db|capsule\.sock|tls|loop|vda|eth0/);
    assert.match(seen, /Read-only/);
  });

  test("is refused while a workload runs with it, and a workload waits for it", async () => {
    assert.equal((await capsule.apply(user("web"), "--wait=60s")).code, 0);
    const refused = await capsule.try(["volume", "mount", "data", "--", "true"]);
    assert.match(refused.stderr, /in use by web/);
    await capsule.ctl(["workload", "stop", "web", "--wait"]);
    const open = capsule.try(["volume", "mount", "data", "--", "sleep", "4"]);
    await sleep(1_500);
    await capsule.ctl(["workload", "start", "web"]);
    await capsule.until("web", ({ status }) => /in use by a shell/.test(status.message), "told what it waits for");
    assert.equal((await open).code, 0);
    await capsule.until("web", ({ status }) => status.phase === "PHASE_RUNNING", "running");
    await capsule.ctl(["workload", "delete", "web"]);
  });

  test("leaves nothing when its caller or capsuled is killed", async () => {
    const killed = capsule.try(["volume", "mount", "data", "--", "sleep", "60"], "", 1_500);
    await killed;
    await nothingIsLeft();
    const orphaned = capsule.try(["volume", "mount", "data", "--", "sleep", "60"], "", 20_000);
    await sleep(1_500);
    await capsule.killCapsuled();
    await orphaned;
    await capsule.untilServing();
    await nothingIsLeft();
    assert.equal(await mount("data", "cat", "/mnt/file"), "hello\n");
  });
});

describe("cp", () => {
  test("goes into a volume and out of it", async () => {
    const tree = join(files, "tree");
    mkdirSync(join(tree, "below"), { recursive: true });
    writeFileSync(join(tree, "below/a"), "content");
    symlinkSync("below/a", join(tree, "link"));
    await capsule.ctl(["cp", tree, "volume/data:/dir"]);
    assert.equal(
      await mount("data", "--", "sh", "-c", "cd /mnt/dir/tree; cat below/a; readlink link"),
      "contentbelow/a\n",
    );
    await capsule.ctl(["cp", "volume/data:/dir/tree", join(files, "back")]);
    assert.equal(readFileSync(join(files, "back/below/a"), "utf8"), "content");
    await capsule.ctl(["cp", "volume/data:/", join(files, "all")]);
    assert.equal(readFileSync(join(files, "all/file"), "utf8"), "hello\n");
    assert.equal((await capsule.try(["cp", "volume/data:/absent", files])).code, 3);
    assert.equal((await capsule.try(["cp", "volume/nothing:/x", files])).code, 3);
    assert.equal((await capsule.try(["cp", "volume/data:/../../perm/state.db", files])).code, 3);
    await nothingIsLeft();
  });
});

describe("check and repair", () => {
  test("a clean volume is clean, also while it is used", async () => {
    assert.match(await capsule.ctl(["volume", "check", "data"]), /clean/);
    assert.equal((await capsule.apply(user("web"), "--wait=60s")).code, 0);
    assert.match(await capsule.ctl(["volume", "check", "data"]), /clean/);
    assert.match((await capsule.try(["volume", "repair", "data"])).stderr, /in use by web/);
    await capsule.ctl(["workload", "delete", "web"]);
  });

  test("one that noted an error is looked through, and used again when nothing is wrong", async () => {
    assert.equal((await capsule.apply(user("web"), "--wait=60s")).code, 0);
    // As the kernel does at an error. A sysfs of its own, for the capsule's may be read-only.
    const trigger = `d=$(mktemp -d -p /run); mount -t sysfs sysfs $d; echo test >$d/fs/ext4/${await mountedDevice()}/trigger_fs_error; umount $d; rmdir $d`;
    await capsule.host.exec(["sh", "-ec", trigger]);
    assert.notEqual((await capsule.try(["workload", "exec", "web", "--", "touch", "/data/more"])).code, 0, "read-only");
    await capsule.ctl(["workload", "restart", "web", "--wait=60s"]);
    await capsule.ctl(["workload", "exec", "web", "--", "touch", "/data/more"]);
    assert.match(await capsule.ctl(["workload", "events"]), /volume\/data +Normal +Checked/);
    await capsule.ctl(["workload", "delete", "web"]);
  });

  test("one that noted an error and has one is told with the words of e2fsck, and left as it is", async () => {
    const path = await diskPath(capsule, "data");
    // The first group's descriptor says where its bitmap of blocks is (1 KiB each): its checksum does not fit any more.
    const ruin = `b=$(od -An -tu4 -j2048 -N4 ${path}); dd if=/dev/zero of=${path} conv=notrunc bs=1024 seek=$((b)) count=1 2>/dev/null; sync`;
    await capsule.host.exec(["sh", "-c", ruin]);
    assert.equal((await capsule.apply(user("web"), "--wait=60s")).code, 0);
    await capsule.try(["workload", "exec", "web", "--", "sh", "-c", "echo x >/data/new; sync"]);
    await capsule.ctl(["workload", "stop", "web", "--wait"]);
    const { phase, message = "" } = (await volumesOf(capsule)).get("data")?.status ?? {};
    assert.equal(phase, "VOLUME_PHASE_FAILED", message);
    assert.match(message, /bitmap.*volume repair data/);
    await capsule.ctl(["workload", "start", "web"]);
    await capsule.until(
      "web",
      ({ status: { phase, message } }) => phase === "PHASE_FAILED" && /bitmap/.test(message),
      "failed",
    );
    await capsule.ctl(["workload", "delete", "web"]);
    assert.match(await capsule.ctl(["volume", "repair", "data"]), /repaired/);
    assert.equal((await capsule.try(["volume", "check", "data"])).code, 0);
    assert.equal(await mount("data", "cat", "/mnt/file"), "hello\n");
  });

  test("a damaged one is told, repaired when that is asked for, and kept as it was", async () => {
    const path = await diskPath(capsule, "data");
    // The superblock itself; its copy is used.
    const zero = `dd if=/dev/zero of=${path} conv=notrunc bs=1024 seek=1 count=1 2>/dev/null; sync`;
    await capsule.host.exec(["sh", "-c", zero]);
    const checked = await capsule.try(["volume", "check", "data"]);
    assert.equal(checked.code, 1);
    assert.match(`${checked.stdout}${checked.stderr}`, /superblock|damaged/i);
    assert.equal((await capsule.apply(user("web"))).code, 0);
    await capsule.until("web", ({ status }) => status.phase === "PHASE_FAILED", "failed");
    await capsule.ctl(["workload", "delete", "web"]);
    const repaired = await capsule.ctl(["volume", "repair", "data"]);
    assert.match(repaired, /repaired; what it held before is snapshot before-repair-/);
    assert.equal(await mount("data", "cat", "/mnt/file"), "hello\n");
    assert.match(await capsule.ctl(["volume", "snapshots", "data"]), /before-repair-/);
  });
});

/** The kernel's name for the device of the volume that is mounted: the node that mount(8) shows may have another. */
async function mountedDevice(): Promise<string> {
  const number = "$(grep ' /run/capsule/volumes/' /proc/self/mountinfo | head -n 1 | cut -d' ' -f3)";
  return (await capsule.host.exec(["sh", "-c", `basename $(readlink -f /sys/dev/block/${number})`])).trim();
}
