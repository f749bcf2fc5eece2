import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { DhcpClients } from "./dhcp.ts";

let dir: string;
let states: Record<string, string>;
let said: string[];
let clients: DhcpClients;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-dhcp-"));
  states = { link: "running", dhcp: "waiting" };
  said = [];
  const services = {
    stateOf: async (name: string) => states[name],
    request: async (verb: string, name: string) => {
      said.push(`${verb} ${name}`);
      states[name] = verb === "stop" ? "stopped" : "running";
    },
  };
  const places = { dir: join(dir, "machine"), uplink: join(dir, "uplink"), marker: join(dir, "links") };
  clients = new DhcpClients(services, places);
});
afterEach(() => rmSync(dir, { recursive: true }));

test("a machine without a document is left as it is", async () => {
  await clients.useDefault();
  await clients.useDefault();
  await clients.remember(false);
  assert.deepEqual(said, []);
});

test("a document takes over from the default's client; its own are started again when the list changes only", async () => {
  await clients.stopAllBut(["eth1"], true);
  await clients.start(["eth1"]);
  assert.deepEqual(said, ["stop link"]);
  assert.equal(readFileSync(join(dir, "machine/dhcp"), "utf8"), "eth1\n", "the service waits for it");
  states["dhcp"] = "running";
  await clients.stopAllBut(["eth1"], true);
  await clients.start(["eth1"]);
  assert.deepEqual(said, ["stop link"]);
  await clients.stopAllBut(["eth1", "eth2"], true);
  await clients.start(["eth1", "eth2"]);
  assert.deepEqual(said, ["stop link", "stop dhcp", "start dhcp"]);
  await clients.stopAllBut([], true);
  await clients.start([]);
  assert.deepEqual(said.slice(3), ["stop dhcp"]);
  await clients.useDefault();
  assert.deepEqual(said.slice(4), ["start link"]);
});

test("a kill between the stop and the list is healed", async () => {
  await clients.start(["eth1"]);
  states["dhcp"] = "stopped";
  await clients.start(["eth1"]);
  assert.deepEqual(said, ["start dhcp"]);
});

test("a boot that waits for a document which is gone goes on by the default", async () => {
  await clients.remember(true);
  assert.ok(existsSync(join(dir, "links")));
  await clients.useDefault();
  assert.deepEqual(said, ["restart link"]);
  await clients.useDefault();
  assert.deepEqual(said, ["restart link"]);
  await clients.remember(false);
  assert.ok(!existsSync(join(dir, "links")));
});

test("a namespace has neither a default's client nor a boot", async () => {
  delete states["link"];
  await clients.stopAllBut([], true);
  await clients.useDefault();
  await clients.remember(true);
  assert.deepEqual([said, existsSync(join(dir, "links"))], [[], false]);
});

test("the default's link, until nothing of its lease is left", async () => {
  assert.equal(await clients.defaultLink(), undefined);
  writeFileSync(join(dir, "uplink"), "eth0\n");
  assert.equal(await clients.defaultLink(), "eth0");
  await clients.forgetDefaultLink();
  assert.equal(await clients.defaultLink(), undefined);
});
