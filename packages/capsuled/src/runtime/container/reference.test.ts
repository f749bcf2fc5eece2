import assert from "node:assert/strict";
import { test } from "node:test";
import { CapsuleError } from "../../errors.ts";
import { normalizeReference, pathOf, registryOf } from "./reference.ts";

const digest = `sha256:${"a".repeat(64)}`;

test("references are completed as docker completes them", () => {
  const cases: [string, string][] = [
    ["busybox", "docker.io/library/busybox:latest"],
    ["busybox:1", "docker.io/library/busybox:1"],
    ["org/app", "docker.io/org/app:latest"],
    ["docker.io/busybox", "docker.io/library/busybox:latest"],
    ["registry.example/app:1.2", "registry.example/app:1.2"],
    ["registry.example:5000/a/b_c/d-e:x", "registry.example:5000/a/b_c/d-e:x"],
    ["localhost/app", "localhost/app:latest"],
    [`app@${digest}`, `docker.io/library/app@${digest}`],
    [`app:1@${digest}`, `docker.io/library/app:1@${digest}`],
    ["[::1]:5000/app", "[::1]:5000/app:latest"],
  ];
  for (const [short, full] of cases) {
    assert.equal(normalizeReference(short), full);
    assert.equal(normalizeReference(full), full, "again, the same");
  }
  assert.equal(registryOf("registry.example:5000/a/b:1"), "registry.example:5000");
  assert.equal(pathOf("registry.example:5000/a/b:1"), "a/b:1");
});

test("what is no reference is refused", () => {
  for (const bad of [
    "",
    "UPPER",
    "a b",
    "a//b",
    "/a",
    "a:",
    "a:b:c",
    "a@sha256:1",
    "../a",
    "a/../b",
    "x".repeat(600),
    "a@b@c",
    "-a",
    "h.x/",
  ]) {
    assert.throws(
      () => normalizeReference(bad),
      (error) => error instanceof CapsuleError && error.kind === "invalid",
      bad,
    );
  }
});
