/** A machine without a watchdog of its own, as many virtual servers are, that hangs: the kernel's timer starts it again. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { QemuHost } from "../support/qemu/qemu-host.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-watchdog-"));
let host: QemuHost | undefined;
after(async () => {
  await host?.cutPower();
  rmSync(dir, { recursive: true, force: true });
});

test("PID 1 and all that it started stand still, and within a minute and some the machine starts again", {
  timeout: 720_000,
}, async () => {
  host = await QemuHost.start({ dir, hasWatchdog: false });
  const about = async (file: string): Promise<string> =>
    (await host?.exec(["cat", `/sys/class/watchdog/watchdog0/${file}`]).catch(() => ""))?.trim() ?? "";
  // Its driver is loaded when there was nothing better.
  for (const deadline = Date.now() + 120_000; (await about("state")) !== "active"; await sleep(500))
    assert.ok(Date.now() < deadline, `no watchdog: ${host.machine.console().slice(-2_000)}`);
  assert.deepEqual([await about("identity"), await about("timeout")], ["Software Watchdog", "60"]);
  const before = await host.bootId();
  await host.exec(["sh", "-c", "echo 1 >/sys/fs/cgroup/system/cgroup.freeze"]).catch(() => undefined);
  await host.untilRebooted(before);
});
