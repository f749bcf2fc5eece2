/** The commands of docs/storage.md and docs/operations.md, run as they are written. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { repositoryRoot } from "../../image/paths.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("docs", ["busybox"]);
});
after(async () => await capsule?.stop());

test("docs/storage.md", { timeout: 300_000 }, () => runBoxes("storage.md", 6));
test("docs/operations.md", { timeout: 300_000 }, () => runBoxes("operations.md", 1));

/** Runs what is in the boxes of a page, one after the other in a directory of the page. */
function runBoxes(page: string, atLeast: number): void {
  const text = readFileSync(join(repositoryRoot, "docs", page), "utf8");
  const blocks = [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block ?? "");
  assert.ok(blocks.length >= atLeast, `${blocks.length} boxes`);
  const dir = join(capsule.dir, page);
  mkdirSync(join(dir, "bin"), { recursive: true });
  symlinkSync(join(repositoryRoot, "capsulectl"), join(dir, "bin/capsulectl"));
  const script = join(dir, "script.sh");
  for (const block of blocks) {
    writeFileSync(script, `set -eux\n${block}`);
    const said = execFileSync("bash", ["-o", "pipefail", script], {
      cwd: dir,
      env: {
        PATH: `${join(dir, "bin")}:${process.env["PATH"] ?? ""}`,
        HOME: capsule.dir,
        XDG_CONFIG_HOME: capsule.configHome,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    console.log(said.toString().replace(/^/gm, "  | "));
  }
}
