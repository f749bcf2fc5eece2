import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { hierarchiesOf, mountTable } from "./cgroups.ts";
import { chooseAddress, freeSubnet, hostLink, hostRules, resolverFor } from "./network.ts";

test("the subnet avoids what the host routes, but not a wide uplink", () => {
  assert.equal(freeSubnet(["default", "10.0.0.0/8"]), "10.213.0");
  assert.equal(freeSubnet(["10.213.0.0/24", "10.213.1.7"]), "10.213.2");
});

test("a capsule's address is stable and never one that is taken", () => {
  const first = chooseAddress("web", "10.213.0", []);
  assert.equal(chooseAddress("web", "10.213.0", []), first);
  const entry = {
    name: "x",
    initPid: 1,
    initStartTime: "1",
    address: first,
    port: 1,
    stateDir: "",
    rootfs: "",
    layer: "",
    checkout: "",
  };
  assert.notEqual(chooseAddress("web", "10.213.0", [entry]), first);
});

test("an interface name fits the kernel's 15 characters whatever the capsule is called", () => {
  assert.ok(hostLink("a-very-long-name-of-a-capsule").length <= 15);
});

test("the host's loopback is closed to capsules before any address is rewritten", () => {
  const rules = hostRules("web", "10.213.0.9", 50_001);
  assert.match(rules, /priority -300; policy accept;\n\s+iifname "capsulebr0" ip daddr 127\.0\.0\.0\/8 drop/);
  assert.match(rules, /ip daddr 127\.0\.0\.1 tcp dport 50001 dnat to 10\.213\.0\.9:50000/);
});

test("a resolver on the host's loopback is reached through the bridge", () => {
  const dir = mkdtempSync(join(tmpdir(), "capsule-resolv-"));
  try {
    const stub = join(dir, "stub");
    const real = join(dir, "real");
    writeFileSync(stub, "nameserver 127.0.0.53\nsearch home.test\n");
    writeFileSync(real, "nameserver 192.0.2.1\n");
    assert.deepEqual(resolverFor("10.213.0.1", [stub]), { text: "nameserver 10.213.0.1", forwardTo: "127.0.0.53" });
    assert.deepEqual(resolverFor("10.213.0.1", [stub, real]), { text: "nameserver 192.0.2.1" });
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("cgroup hierarchies of a hybrid and of a v2 host", () => {
  const hybrid = [
    "35 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd",
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
  ].join("\n");
  assert.equal(mountTable(hierarchiesOf(hybrid)), "cgroup memory memory\ncgroup name=systemd systemd");
  assert.equal(
    mountTable(hierarchiesOf("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate")),
    "cgroup2 - .",
  );
});
