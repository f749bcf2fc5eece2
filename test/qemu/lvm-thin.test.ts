/** The backend `lvm-thin` on a real thin pool: the conformance suite, bundled and run inside the machine. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { CommandError } from "../../image/run.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";

let dir: string;
let host: QemuHost;
before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-lvm-"));
  host = await QemuHost.start({ dir });
});
after(async () => {
  await host?.stop();
  rmSync(dir, { recursive: true, force: true });
});

test("lvm-thin does what every backend must do", { timeout: 300_000 }, async () => {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, "../storage/lvm-thin.inside.ts")],
    bundle: true,
    platform: "node",
    target: "node24",
    format: "esm",
    write: false,
  });
  const until = Date.now() + 60_000;
  while ((await host.exec(["sh", "-c", "ls /run/capsule/perm-ready 2>/dev/null || true"])) === "") {
    assert.ok(Date.now() < until, "the pool is not there");
  }
  // It removes disks that nobody was promised, as all of these are.
  await host.exec(["capsule-init", "ctl", "stop", "capsuled"]);
  await host.exec(["sh", "-c", "cat >/run/conformance.mjs"], outputFiles[0]?.text ?? "");
  // In the background: a call of the agent has a minute.
  const log = "/run/conformance.log";
  await host.exec(["sh", "-c", `(node /run/conformance.mjs >${log} 2>&1; echo "exit $?" >>${log}) </dev/null &`]);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const report = await host.exec(["cat", log]).catch((error: unknown) => {
      if (error instanceof CommandError) return "";
      throw error;
    });
    const code = /^exit ([0-9]+)$/m.exec(report)?.[1];
    if (code === undefined) continue;
    console.log(report.replace(/^/gm, "  | "));
    assert.equal(code, "0");
    return;
  }
});
