/** The files that other programs read: whom to ask for names, and for the time. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { MachineDnsSchema, MachineNtpSchema } from "@capsule/api";
import { applyClock, chronyText } from "./clock.ts";
import { applyResolver } from "./resolver.ts";

let run: string;
beforeEach(() => {
  run = mkdtempSync(join(tmpdir(), "capsule-parts-"));
  mkdirSync(join(run, "capsule/machine"), { recursive: true });
});
afterEach(() => rmSync(run, { recursive: true }));

const read = (name: string): string => readFileSync(join(run, name), "utf8");
const lease = "nameserver 192.0.2.1\nsearch given.example\noptions ndots:2\n";

test("servers and domains of the document replace those that were given, and they come back", async () => {
  writeFileSync(join(run, "resolv.conf"), lease);
  await applyResolver(undefined, run);
  assert.equal(read("resolv.conf"), lease);
  await applyResolver(create(MachineDnsSchema, { servers: ["192.0.2.53", "2001:db8::53"] }), run);
  const servers = "nameserver 192.0.2.53\nnameserver 2001:db8::53\n";
  assert.equal(read("resolv.conf"), `${servers}search given.example\noptions ndots:2\n`);
  await applyResolver(create(MachineDnsSchema, { search: ["own.example"] }), run);
  assert.equal(read("resolv.conf"), "nameserver 192.0.2.1\nsearch own.example\noptions ndots:2\n");
  await applyResolver(undefined, run);
  assert.equal(read("resolv.conf"), lease);
  assert.equal(existsSync(join(run, "capsule/machine/resolv.conf")), false, "a lease may write it again");
});

test("a lease that comes meanwhile is what comes back", async () => {
  writeFileSync(join(run, "resolv.conf"), lease);
  await applyResolver(create(MachineDnsSchema, { servers: ["192.0.2.53"] }), run);
  writeFileSync(join(run, "capsule/resolv.conf"), "nameserver 192.0.2.2\n");
  await applyResolver(create(MachineDnsSchema, { servers: ["192.0.2.53"] }), run);
  assert.equal(read("resolv.conf"), "nameserver 192.0.2.53\n");
  await applyResolver(undefined, run);
  assert.equal(read("resolv.conf"), "nameserver 192.0.2.2\n");
});

test("a machine that has no lease yet", async () => {
  await applyResolver(create(MachineDnsSchema, { servers: ["192.0.2.53"] }), run);
  assert.equal(read("resolv.conf"), "nameserver 192.0.2.53\n");
});

test("chrony is started again with what is new, and only then", async () => {
  const original = join(run, "chrony.conf");
  writeFileSync(original, "# chrony.conf(5).\npool pool.ntp.org iburst maxsources 4\nmakestep 1 3\n");
  const places = { original, dir: join(run, "capsule/machine") };
  let restarts = 0;
  const apply = async (servers: string[]): Promise<number> => {
    await applyClock(create(MachineNtpSchema, { servers }), async () => void restarts++, places);
    return restarts;
  };
  assert.equal(await apply([]), 0);
  assert.equal(await apply(["ntp.example", "192.0.2.1"]), 1);
  const wanted = "server ntp.example iburst\nserver 192.0.2.1 iburst\n# chrony.conf(5).\nmakestep 1 3\n";
  assert.equal(read("capsule/machine/chrony.conf"), wanted);
  assert.equal(chronyText(readFileSync(original, "utf8"), ["ntp.example", "192.0.2.1"]), wanted);
  assert.equal(await apply(["ntp.example", "192.0.2.1"]), 1);
  assert.equal(await apply([]), 2);
  assert.equal(existsSync(join(run, "capsule/machine/chrony.conf")), false);
});
