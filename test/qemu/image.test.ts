/** What `make image` writes: the same bytes from the same inputs, and a list of what is in them. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createReadStream, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { buildDir, repositoryRoot } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import { buildSlot, type Slot } from "../../image/slot.ts";

async function digestsOf(slot: Slot): Promise<Record<string, string>> {
  const digests: Record<string, string> = {};
  for (const [name, path] of Object.entries(slot)) {
    const hash = createHash("sha256");
    await pipeline(createReadStream(path), hash);
    digests[name] = hash.digest("hex");
  }
  return digests;
}

test("a slot that is built a second time, from packages fetched anew, has the same bytes", {
  timeout: 600_000,
}, async () => {
  const cache = mkdtempSync(join(buildDir, "reproduced-"));
  try {
    const again = await run([process.execPath, "image/slot.ts"], {
      cwd: repositoryRoot,
      env: { CAPSULE_CACHE: cache },
    });
    assert.deepEqual(await digestsOf(JSON.parse(again) as Slot), await digestsOf(await buildSlot()));
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
});

test("the bill of materials names what is in it, and nothing twice", () => {
  const { spdxVersion, packages } = JSON.parse(readFileSync(join(buildDir, "sbom.spdx.json"), "utf8")) as {
    spdxVersion: string;
    packages: { SPDXID: string; name: string; versionInfo: string }[];
  };
  assert.equal(spdxVersion, "SPDX-2.3");
  const names = new Set(packages.map(({ name }) => name));
  for (const name of ["containerd", "crun", "lvm2", "libc6", "ca-certificates", "@connectrpc/connect", "nix"])
    assert.ok(names.has(name), name);
  assert.ok([...names].some((name) => name.startsWith("linux-image-")));
  for (const name of ["systemd", "apt", "dpkg", "perl-base", "openssh-server", "gcc", "@biomejs/biome"])
    assert.ok(!names.has(name), name);
  assert.equal(new Set(packages.map(({ SPDXID }) => SPDXID)).size, packages.length);
  assert.ok(packages.every(({ versionInfo }) => /^[0-9]/.test(versionInfo)));
});
