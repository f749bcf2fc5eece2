import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { EventType, Phase, Role, type WorkloadSpec, WorkloadSpecSchema, WorkloadStatusSchema } from "@capsule/api";
import type { Change } from "./changes.ts";
import { migrations } from "./migrations.ts";
import { Store } from "./store.ts";

let dir: string;
let store: Store;
const now = new Date("2026-11-24T00:00:00Z");

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "capsule-store-"));
  store = new Store(join(dir, "state.db"));
});

afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true });
});

function aSpec(name: string, image = "busybox:1"): WorkloadSpec {
  return create(WorkloadSpecSchema, { name, kind: { case: "container", value: { image } } });
}

function reopen(): void {
  store.close();
  store = new Store(join(dir, "state.db"));
}

describe("database", () => {
  it("is readable by its owner only", () => {
    assert.equal(statSync(join(dir, "state.db")).mode & 0o777, 0o600);
  });

  it("refuses a schema of a newer version and leaves it alone", () => {
    store.close();
    const raw = new DatabaseSync(join(dir, "state.db"));
    raw.exec("PRAGMA user_version = 999");
    raw.close();
    assert.throws(() => new Store(join(dir, "state.db")), /newer version of Capsule/);
    const again = new DatabaseSync(join(dir, "state.db"));
    again.exec(`PRAGMA user_version = ${migrations.length}`);
    again.close();
    store = new Store(join(dir, "state.db"));
  });

  it("refuses a file that is no database", () => {
    writeFileSync(join(dir, "other.db"), "not a database, but long enough to be looked at".repeat(10));
    assert.throws(() => new Store(join(dir, "other.db")), /not a database/);
  });
});

describe("transactions", () => {
  it("keep nothing and publish nothing when a part fails", () => {
    const changes: Change[] = [];
    store.changes.subscribe((change) => changes.push(change));
    assert.throws(() =>
      store.transaction(() => {
        store.workloads.insert(aSpec("web"), now);
        throw new Error("second part");
      }),
    );
    assert.deepEqual(store.workloads.list(), []);
    assert.deepEqual(changes, []);
  });

  it("publish after everything is durable", () => {
    const seen: (string | undefined)[] = [];
    store.changes.subscribe(() => seen.push(store.workloads.get("b")?.name));
    store.transaction(() => {
      store.workloads.insert(aSpec("a"), now);
      store.workloads.insert(aSpec("b"), now);
    });
    assert.deepEqual(seen, ["b", "b"]);
  });

  it("survive a SIGKILL right after they are acknowledged", async () => {
    const path = join(dir, "killed.db");
    const child = spawn(process.execPath, [join(import.meta.dirname, "testing/insert-forever.ts"), path], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let acknowledged = 0;
    for await (const line of createInterface(child.stdout)) {
      acknowledged = Number(line);
      if (acknowledged === 50) child.kill("SIGKILL");
    }
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    const after = new Store(path);
    const count = after.workloads.list().length;
    after.close();
    assert.ok(acknowledged >= 50);
    assert.ok(count >= acknowledged, `${count} found of ${acknowledged} acknowledged`);
  });
});

describe("workloads", () => {
  it("keep spec, wish and status across a restart", () => {
    const { uid } = store.workloads.insert(aSpec("web"), now);
    store.workloads.setDesired("web", "stopped", now);
    store.workloads.setStatus(uid, create(WorkloadStatusSchema, { phase: Phase.STOPPED, message: "Stopped by anna" }));
    reopen();
    const record = store.workloads.get("web");
    assert.equal(record?.uid, uid);
    assert.match(uid, /^w[a-z2-7]{12}$/);
    assert.equal(record?.desired, "stopped");
    assert.equal(record?.status.message, "Stopped by anna");
    assert.equal(record?.spec.kind.case, "container");
  });

  it("count the generation up with each change of the spec", () => {
    store.workloads.insert(aSpec("web"), now);
    assert.equal(store.workloads.updateSpec(aSpec("web", "busybox:2"), now).generation, 2);
    assert.equal(store.workloads.setDesired("web", "stopped", now).generation, 2);
  });

  it("take their addresses and ports with them", () => {
    const { uid } = store.workloads.insert(aSpec("web"), now);
    store.addresses.insert({ address: "10.0.0.2", uid, family: 4 });
    store.hostPorts.replace(uid, [{ protocol: "tcp", port: 80, hostAddress: "" }]);
    store.workloads.remove(uid);
    assert.deepEqual(store.addresses.list(), []);
    assert.deepEqual(store.hostPorts.list(), []);
  });

  it("are another one when applied again after deletion", () => {
    const first = store.workloads.insert(aSpec("web"), now);
    store.workloads.remove(first.uid);
    assert.notEqual(store.workloads.insert(aSpec("web"), now).uid, first.uid);
  });

  it("ignore a late status of one that is gone", () => {
    const { uid } = store.workloads.insert(aSpec("web"), now);
    store.workloads.remove(uid);
    store.workloads.setStatus(uid, create(WorkloadStatusSchema, { message: "late" }));
    assert.deepEqual(store.workloads.list(), []);
  });
});

describe("addresses", () => {
  it("are never given twice", () => {
    const a = store.workloads.insert(aSpec("a"), now);
    const b = store.workloads.insert(aSpec("b"), now);
    store.addresses.insert({ address: "10.0.0.2", uid: a.uid, family: 4 });
    assert.throws(() => store.addresses.insert({ address: "10.0.0.2", uid: b.uid, family: 4 }), /UNIQUE/);
  });
});

describe("host ports", () => {
  const web = { protocol: "tcp", port: 80, hostAddress: "" } as const;

  it("are refused with the name of their holder", () => {
    const a = store.workloads.insert(aSpec("a"), now);
    const b = store.workloads.insert(aSpec("b"), now);
    store.hostPorts.replace(a.uid, [web]);
    assert.throws(() => store.hostPorts.replace(b.uid, [web]), /taken by workload "a"/);
  });

  it("clash between one address and every address, either way round", () => {
    const a = store.workloads.insert(aSpec("a"), now);
    const b = store.workloads.insert(aSpec("b"), now);
    store.hostPorts.replace(a.uid, [{ ...web, hostAddress: "10.0.0.1" }]);
    assert.throws(() => store.hostPorts.replace(b.uid, [web]), /taken/);
    store.hostPorts.replace(b.uid, [{ ...web, hostAddress: "10.0.0.9" }]);
  });

  it("are free for the other protocol, and for the same workload again", () => {
    const a = store.workloads.insert(aSpec("a"), now);
    const b = store.workloads.insert(aSpec("b"), now);
    store.hostPorts.replace(a.uid, [web]);
    store.hostPorts.replace(a.uid, [web]);
    store.hostPorts.replace(b.uid, [{ ...web, protocol: "udp" }]);
  });

  it("stay as they were when a later one of the list clashes", () => {
    const a = store.workloads.insert(aSpec("a"), now);
    const b = store.workloads.insert(aSpec("b"), now);
    store.hostPorts.replace(a.uid, [web]);
    store.hostPorts.replace(b.uid, [{ ...web, port: 81 }]);
    assert.throws(() => store.hostPorts.replace(b.uid, [{ ...web, port: 82 }, web]));
    assert.deepEqual(
      store.hostPorts.list().map(({ port, uid }) => [port, uid]),
      [
        [80, a.uid],
        [81, b.uid],
      ],
    );
  });
});

describe("keys", () => {
  const aKey = (id: string, role = Role.ADMIN) => ({
    id,
    name: `name-${id}`,
    role,
    publicKey: new Uint8Array(32).fill(id.charCodeAt(0)),
    createdAt: now,
  });

  it("are claimed once", () => {
    store.keys.claim(aKey("a"));
    assert.throws(() => store.keys.claim(aKey("b")), /adopted already/);
  });

  it("are the same when added again, and refused under another role or a taken name", () => {
    store.keys.add(aKey("a"));
    store.keys.add(aKey("a"));
    assert.throws(() => store.keys.add(aKey("a", Role.VIEWER)), /enrolled already/);
    assert.throws(() => store.keys.add({ ...aKey("b"), name: "name-a" }), /Another key has the name/);
    assert.equal(store.keys.list().length, 1);
  });

  it("keep the last administrator, whatever other keys there are", () => {
    store.keys.add(aKey("a"));
    store.keys.add(aKey("v", Role.VIEWER));
    assert.throws(() => store.keys.remove("name-a"), /last key of an administrator/);
    store.keys.add(aKey("b"));
    assert.equal(store.keys.remove("name-a").id, "a");
    assert.throws(() => store.keys.remove("a"), /No key/);
  });
});

describe("events", () => {
  const anEvent = (message: string, objectName = "web") =>
    ({ objectKind: "workload", objectName, type: EventType.NORMAL, reason: "Started", message, time: now }) as const;

  it("count the same up instead of repeating it", () => {
    store.events.add(anEvent("x"));
    store.events.add(anEvent("x"));
    store.events.add(anEvent("y"));
    assert.deepEqual(
      store.events.newest(10).map(({ message, count }) => [message, count]),
      [
        ["x", 2],
        ["y", 1],
      ],
    );
  });

  it("roll over per object", () => {
    store.events.add(anEvent("other", "db"));
    for (let i = 0; i < 150; i++) store.events.add(anEvent(`${i}`));
    const web = store.events.newest(1000, { kinds: ["workload"], name: "web" });
    assert.equal(web.length, 100);
    assert.equal(web.at(-1)?.message, "149");
    assert.equal(store.events.newest(1000, { kinds: ["workload"], name: "db" }).length, 1);
  });
});

describe("registries", () => {
  it("are kept, replaced and removed", () => {
    const registry = {
      host: "r:5000",
      mirrors: ["http://m"],
      username: "u",
      password: "p",
      plainHttp: true,
      caCertificate: "",
    };
    store.registries.set(registry);
    reopen();
    assert.deepEqual(store.registries.get("r:5000"), registry);
    assert.equal(store.registries.remove("r:5000"), true);
    assert.equal(store.registries.remove("r:5000"), false);
  });
});

describe("audit", () => {
  it("gives the newest entries, oldest first", () => {
    for (const method of ["A", "B", "C"]) {
      store.audit.add({
        time: now,
        keyId: "k",
        keyName: "n",
        method,
        objects: ["web"],
        result: "ok",
        peerAddress: "::1",
      });
    }
    assert.deepEqual(
      store.audit.newest(2).map(({ method }) => method),
      ["B", "C"],
    );
  });
});
