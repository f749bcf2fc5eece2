/** Base disks of images and the root disks made of them, inside a capsule with its containerd. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("bases", ["busybox"]);
});
after(async () => await capsule?.stop());

test("image base volumes", { timeout: 300_000 }, async () => {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, "../storage/image-bases.inside.ts")],
    bundle: true,
    platform: "node",
    target: "node24",
    format: "esm",
    write: false,
    banner: {
      js: 'import { createRequire as __createRequire } from "node:module";const require = __createRequire(import.meta.url);',
    },
  });
  await capsule.host.exec(["sh", "-c", "cat >/run/bases.mjs"], outputFiles[0]?.text ?? "");
  const log = "/run/bases.log";
  await capsule.host.exec([
    "sh",
    "-c",
    `(env -u NODE_TEST_CONTEXT node /run/bases.mjs >${log} 2>&1; echo "exit $?" >>${log}) </dev/null >/dev/null 2>&1 &`,
  ]);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    const report = await capsule.host.exec(["cat", log]).catch(() => "");
    const code = /^exit ([0-9]+)$/m.exec(report)?.[1];
    if (code === undefined) continue;
    console.log(report.replace(/^/gm, "  | "));
    assert.equal(code, "0");
    return;
  }
});
