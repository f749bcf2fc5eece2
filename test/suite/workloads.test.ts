/** Workloads as a user of capsulectl sees them: containers, and by workloads-microvm.test.ts microVMs. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { isMachine, kind, part } from "../support/kind.ts";
import { workloadOf } from "../support/machines.ts";
import { askAgainMs, patience, TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
let files: string;
before(async () => {
  capsule = await TestCapsule.start("wl");
  files = mkdtempSync(join(tmpdir(), "capsule-wl-files-"));
});
after(async () => {
  await capsule?.stop();
  if (files !== undefined) rmSync(files, { recursive: true, force: true });
});

const memory = isMachine ? "\n  memoryMib: 128" : "";
const box = (name: string, fields: string): string => workloadOf(kind, name, "busybox:1", `${fields}${memory}`);
const ofContainers = { skip: isMachine && "it is about containers" };
const sleeper = (name: string, fields = ""): string =>
  box(name, `  command: [sleep, "1d"]\n  stopTimeout: 0s\n${fields}`);
const script = (text: string): string => `  command: [sh, -c, ${JSON.stringify(text)}]\n  stopTimeout: 0s`;

async function applied(manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, "--wait=30s");
  assert.equal(code, 0, stderr);
}

describe("apply", () => {
  test("runs, does nothing the second time, replaces when the spec changed", async () => {
    await applied(sleeper("web"));
    const first = await capsule.workload("web");
    assert.match((await capsule.apply(sleeper("web"))).stdout, /web unchanged/);
    assert.equal((await capsule.apply(sleeper("not-sent"), "--wait=100d")).code, 2);
    assert.equal((await capsule.try(["workload", "get", "not-sent"])).code, 3);
    assert.match((await capsule.apply(sleeper("web", "  networkMode: BRIDGE"))).stdout, /web unchanged/);
    assert.equal((await capsule.workload("web")).status.pid, first.status.pid);
    const changed = sleeper("web", "  env: [{name: A, value: b}]");
    const diff = await capsule.try(["diff", "-f", "-"], changed);
    assert.match(diff.stdout, new RegExp(`\\+ ${part}\\.env\\[0\\]\\.value: "b"`));
    assert.match((await capsule.apply(changed, "--dry-run")).stdout, /changed \(dry run\)/);
    assert.equal((await capsule.workload("web")).generation, "1");
    await applied(changed);
    const second = await capsule.workload("web");
    assert.equal(second.generation, "2");
    assert.notEqual(second.status.pid, first.status.pid);
    assert.equal((await capsule.ctl(["workload", "exec", "web", "--", "sh", "-c", "echo $A"])).trim(), "b");
  });

  test("refuses what is wrong with file, line and column, and applies nothing", ofContainers, async () => {
    const cases: [string, RegExp, code?: number][] = [
      [`${sleeper("ok")}---\n${sleeper("bad")}  colour: red\n`, /stdin:\d+:3: unknown field "container.colour"/],
      [
        sleeper("bad", "  ports: [{containerPort: http}]"),
        /stdin:7:27: container\.ports\[0\]\.containerPort: a whole number/,
      ],
      [
        sleeper("bad", "  ports: [{containerPort: 80, hostPort: 70000}]"),
        /stdin:7:\d+: container\.ports\[0\]\.hostPort: 70000 is no port/,
      ],
      [
        sleeper("bad", "  resources: {memoryMib: 1}"),
        /stdin:7:\d+: container\.resources\.memoryMib: 1 is not possible/,
      ],
      [`${sleeper("twice")}---\n${sleeper("twice")}`, /workload "twice" is there already/],
      [sleeper("Bad_Name"), /stdin:2:\d+: name: "Bad_Name" is no DNS label/],
      [sleeper("bad", "  restartPolicy: SOMETIMES"), /"SOMETIMES" is none of ALWAYS, ON_FAILURE, NEVER/],
      ["kind: Container\nname: [", /stdin:\d+:\d+: /],
      ["kind: Contaner\nname: x\n", /did you mean Container/],
      [sleeper("bad", "  probes: [{tcp: {port: 80}}]"), /no health checks yet/],
      ["kind: Volume\nname: v\nsize: 1KiB\n", /stdin:3:7: size: 1024 bytes are less than a volume has/],
      [sleeper("bad", "  mounts: [{volumeName: nowhere, mountPath: /data}]"), /No volume has the name "nowhere"/, 3],
      [sleeper("bad", "  image: 'UPPER CASE'").replace("  image: busybox:1\n", ""), /no image reference/],
    ];
    for (const [manifest, expected, expectedCode = 1] of cases) {
      const { code, stderr } = await capsule.apply(manifest);
      assert.equal(code, expectedCode, manifest);
      assert.match(stderr, expected);
    }
    const names = (await capsule.workloads()).map(({ spec }) => spec.name);
    assert.ok(!names.includes("ok") && !names.includes("bad") && !names.includes("twice"), names.join());
  });

  test("all examples apply together and run", { ...ofContainers, timeout: 120_000 * patience }, async () => {
    const { code, stderr } = await capsule.try(["apply", "-f", join(repositoryRoot, "examples"), "--wait=60s"]);
    assert.equal(code, 0, stderr);
    await capsule.ctl(["delete", "-f", join(repositoryRoot, "examples")]);
  });
});

describe("lifecycle", () => {
  test("stop, start and restart; stopped stays stopped through apply and a restart of capsuled", async () => {
    await applied(sleeper("life"));
    await capsule.ctl(["workload", "stop", "life", "--wait"]);
    assert.match((await capsule.apply(sleeper("life"))).stdout, /unchanged/);
    await capsule.killCapsuled();
    await sleep(300);
    await capsule.untilServing();
    await sleep(500);
    assert.equal((await capsule.workload("life")).status.phase, "PHASE_STOPPED");
    await capsule.ctl(["workload", "start", "life", "--wait"]);
    const before = await capsule.workload("life");
    await capsule.ctl(["workload", "restart", "life", "--wait"]);
    const after = await capsule.workload("life");
    assert.notEqual(after.status.pid, before.status.pid);
    assert.equal(after.status.restartCount, before.status.restartCount + 1);
  });

  test("pause stands it still, resume lets it go on; stop and delete end one that is paused", async () => {
    await applied(box("still", script("i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done")));
    const { status } = await capsule.workload("still");
    await capsule.ctl(["workload", "pause", "still", "--wait=30s"]);
    // What it has written may be under way.
    await sleep(1_000);
    const lines = await capsule.ctl(["workload", "logs", "still"]);
    await sleep(500);
    assert.equal(await capsule.ctl(["workload", "logs", "still"]), lines);
    assert.match((await capsule.try(["workload", "exec", "still", "--", "true"])).stderr, /paused.*workload resume/);
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    const paused = await capsule.workload("still");
    assert.deepEqual([paused.status.pid, paused.status.message], [status.pid, "Paused by request"]);
    await capsule.ctl(["workload", "resume", "still", "--wait=30s"]);
    await capsule.ctl(["workload", "exec", "still", "--", "true"]);
    assert.equal((await capsule.workload("still")).status.pid, status.pid);
    await capsule.ctl(["workload", "pause", "still", "--wait=30s"]);
    await capsule.ctl(["workload", "stop", "still", "--wait=30s"]);
    assert.match((await capsule.try(["workload", "pause", "still"])).stderr, /does not run/);
    await capsule.ctl(["workload", "start", "still", "--wait=30s"]);
    await capsule.ctl(["workload", "pause", "still", "--wait=30s"]);
    await capsule.ctl(["workload", "delete", "still"]);
  });

  test("restart policies and exit codes", async () => {
    const manifest = [
      box("never", `${script("exit 3")}\n  restartPolicy: NEVER`),
      box("once", `${script("exit 0")}\n  restartPolicy: ON_FAILURE`),
      box("loop", script("exit 4")),
    ].join("---\n");
    assert.equal((await capsule.apply(manifest)).code, 0);
    const never = await capsule.until("never", ({ status }) => status.phase === "PHASE_FAILED", "failed");
    assert.match(never.status.message, /Exited with code 3; restartPolicy is NEVER/);
    const once = await capsule.until("once", ({ status }) => status.phase === "PHASE_STOPPED", "stopped");
    assert.match(once.status.message, /Completed/);
    // Four starts, and the waits between them.
    const often = 60_000 * patience;
    const loop = await capsule.until("loop", ({ status }) => status.restartCount >= 3, "restarted three times", often);
    assert.equal(loop.status.lastExit?.code, 4);
    assert.match(await capsule.ctl(["workload", "events", "loop"]), /Exited/);
    assert.equal((await capsule.workload("never")).status.restartCount, 0);
  });

  test("a memory limit holds, and the status says so", async () => {
    // Of a machine its own memory is the limit.
    const limit = isMachine ? "" : "\n  resources: {memoryMib: 32}";
    const hog = box(
      "hog",
      // Little by little: one large piece is refused where there is no more.
      `${script(`exec awk 'BEGIN { while (1) a[n++] = n "0123456789abcdef0123456789abcdef" }'`)}\n  restartPolicy: NEVER${limit}`,
    );
    assert.equal((await capsule.apply(hog)).code, 0);
    const { status } = await capsule.until("hog", ({ status: { phase } }) => phase === "PHASE_FAILED", "failed");
    assert.match(status.message, /more memory than its limit/);
  });

  test("an image that does not exist fails with the reason, retries, and delays no other", async () => {
    const missing = `kind: ${kind}\nname: missing\n${part}: {image: "localhost:1/none:1"}\n`;
    assert.equal((await capsule.apply(missing)).code, 0);
    await applied(sleeper("beside"));
    const { status } = await capsule.until("missing", ({ status: { phase } }) => phase === "PHASE_FAILED", "failed");
    assert.match(status.message, /refused/i);
    assert.ok(status.nextRetryAt);
    await capsule.ctl(["workload", "delete", "missing", "beside"]);
  });

  test("a command that does not exist says so in the runtime's words", async () => {
    assert.equal((await capsule.apply(box("nocmd", "  command: [/no/such/program]"))).code, 0);
    const { status } = await capsule.until("nocmd", ({ status: { phase } }) => phase === "PHASE_FAILED", "failed");
    assert.match(status.message, /\/no\/such\/program/);
    await capsule.ctl(["workload", "delete", "nocmd"]);
  });
});

describe("inside", () => {
  before(async () => await applied(sleeper("in", "  env: [{name: GREETING, value: hello}]\n  workingDir: /tmp")));

  const exec = (args: string[], input = "") => capsule.try(["workload", "exec", ...args], input, 20_000 * patience);

  test("exec: output, exit code, input, environment, user, directory", async () => {
    const both = await exec(["in", "--", "sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert.deepEqual(both, { code: 9, stdout: "out\n", stderr: "err\n" });
    assert.equal(
      (await exec(["-i", "in", "--", "sh", "-c", "sleep 0.3; cat"], "line\n".repeat(5_000))).stdout.length,
      25_000,
    );
    assert.equal(
      (await exec(["-e", "X=1", "-w", "/etc", "-u", "web", "in", "--", "sh", "-c", "echo $GREETING $X $PWD $(id -u)"]))
        .stdout,
      "hello 1 /etc 1000\n",
    );
    assert.equal((await exec(["in", "--", "/no/such"])).code, 1);
    assert.equal((await exec(["nobody", "--", "true"])).code, 3);
  });

  test("many execs at once", async () => {
    const results = await Promise.all(
      Array.from({ length: 12 }, (_, i) => exec(["in", "--", "sh", "-c", `echo ${i}; exit ${i}`])),
    );
    assert.deepEqual(
      results.map(({ code, stderr }) => [code, stderr]),
      Array.from({ length: 12 }, (_, i) => [i, ""]),
    );
  });

  test("logs: order, tail, follow through a restart of capsuled", async () => {
    await applied(
      box(
        "talk",
        script("for i in 1 2 3; do echo line $i; done; echo oops >&2; while :; do sleep 0.2; echo tick; done"),
      ),
    );
    // It runs from before its first word on.
    let lines: string[] = [];
    for (let i = 0; i < 20 * patience && !lines.includes("tick"); i++) {
      lines = (await capsule.ctl(["workload", "logs", "talk"])).split("\n");
      await sleep(askAgainMs);
    }
    assert.deepEqual(lines.slice(0, 3), ["line 1", "line 2", "line 3"]);
    assert.match((await capsule.try(["workload", "logs", "talk", "--stderr"])).stderr, /oops/);
    assert.equal((await capsule.ctl(["workload", "logs", "talk", "-n", "1"])).trim(), "tick");
    const before = (await capsule.ctl(["workload", "logs", "talk"])).length;
    await capsule.killCapsuled();
    await sleep(1_000);
    await capsule.untilServing();
    assert.ok((await capsule.ctl(["workload", "logs", "talk"])).length > before + 10, "nothing was lost meanwhile");
    const followed = await capsule.try(["workload", "logs", "-f", "-n", "0", "talk"], "", 2_000 * patience);
    assert.match(followed.stdout, /tick\n/);
  });

  test("cp in and out keeps modes and links, and works in an image without tar or shell", async () => {
    const tree = join(files, "tree");
    mkdirSync(join(tree, "sub"), { recursive: true });
    writeFileSync(join(tree, "run.sh"), "#!/bin/sh\n", { mode: 0o750 });
    writeFileSync(join(tree, "sub/data"), "x".repeat(100_000));
    symlinkSync("sub/data", join(tree, "link"));
    const bare = `kind: ${kind}\nname: bare\n${part}: {image: "bare:1", stopTimeout: 0s}\n`;
    await applied(bare);
    await capsule.ctl(["cp", tree, "bare:/copied"]);
    const back = join(files, "back");
    await capsule.ctl(["cp", "bare:/copied", back]);
    assert.equal(statSync(join(back, "run.sh")).mode & 0o777, 0o750);
    assert.equal(readlinkSync(join(back, "link")), "sub/data");
    assert.equal(readFileSync(join(back, "sub/data"), "utf8").length, 100_000);
    await capsule.ctl(["cp", join(tree, "run.sh"), "bare:/"]);
    await capsule.ctl(["cp", "bare:/run.sh", join(files, "one")]);
    assert.equal(readFileSync(join(files, "one"), "utf8"), "#!/bin/sh\n");
    assert.equal((await capsule.try(["cp", "bare:/nothing", files])).code, 3);
    assert.equal((await capsule.try(["cp", join(files, "nothing"), "bare:/"])).code, 3);
  });

  test("cp out of a hostile workload changes nothing outside of its destination", async () => {
    await applied(sleeper("evil", isMachine ? "" : "  capabilities: {add: [MKNOD]}"));
    const inside = async (text: string): Promise<void> => {
      assert.deepEqual(await exec(["evil", "--", "sh", "-ec", text]), { code: 0, stdout: "", stderr: "" });
    };
    const [loot, outside] = [join(files, "loot"), join(files, "outside")];
    mkdirSync(loot);
    mkdirSync(outside);
    await inside(`mkdir /a; ln -s ${outside} /a/data; cp /bin/busybox /a/su; chmod 6755 /a/su`);
    await capsule.ctl(["cp", "evil:/a/.", loot]);
    assert.equal(statSync(join(loot, "su")).mode & 0o7777, 0o755, "no set-id bit");
    assert.equal(readlinkSync(join(loot, "data")), outside);
    await inside("rm /a/data /a/su; mkdir /a/data; echo x > /a/data/planted; echo x > /a/first");
    const second = await capsule.try(["cp", "evil:/a/.", loot]);
    assert.equal(second.code, 5);
    assert.match(second.stderr, /loot\/data is a link/);
    assert.deepEqual([readdirSync(outside), readdirSync(loot).sort()], [[], ["data", "su"]]);
    // A microVM's payload has no way to make one.
    if (isMachine) return;
    await inside("mkdir /b; mknod /b/disk b 8 0; echo x > /b/file");
    const device = await capsule.try(["cp", "evil:/b", loot]);
    assert.match(device.stderr, /b\/disk is a device node/);
    assert.deepEqual(readdirSync(loot).sort(), ["data", "su"], "nothing, also no directory of before");
  });

  test("stats and describe", async () => {
    assert.match(await capsule.ctl(["workload", "stats", "in"]), isMachine ? /in +\d+\.\d%/ : /in +0\.\d%/);
    assert.match(await capsule.ctl(["workload", "describe", "in"]), /Phase: +RUNNING/);
    const described = JSON.parse(await capsule.ctl(["workload", "describe", "in", "-o", "json"]));
    assert.equal(described.workload.spec.name, "in");
    assert.ok(described.events.length > 0);
  });
});

describe("options of containers", ofContainers, () => {
  const outputOf = async (name: string, fields: string): Promise<string> => {
    const { code, stderr } = await capsule.apply(
      box(name, `${fields}\n  restartPolicy: NEVER\n  stopTimeout: 0s`),
      "--wait=30s",
    );
    assert.equal(code, 0, stderr);
    await capsule.until(name, ({ status }) => status.phase === "PHASE_STOPPED", "ended");
    return await capsule.ctl(["workload", "logs", name]);
  };

  test("user, capabilities, read-only root, sysctls, hostname, limits, tmpfs", async () => {
    const output = await outputOf(
      "opts",
      `  command: [sh, -c, "id -u; touch /x 2>&1; hostname; cat /proc/sys/net/core/somaxconn; grep CapEff /proc/self/status; df -m /scratch | tail -1; ulimit -u"]
  readOnlyRoot: true
  hostname: box.example
  sysctls: {net.core.somaxconn: "77"}
  capabilities: {drop: [ALL], add: [CHOWN]}
  tmpfs: [{mountPath: /scratch, sizeMib: 5}]
  resources: {cpuMillis: 500, memoryMib: 64, pidsMax: 50}`,
    );
    assert.match(output, /^0\ntouch: \/x: Read-only file system\nbox\.example\n77\nCapEff:\t0000000000000001\n/);
    assert.match(output, /tmpfs +5 /);
  });

  test("a user namespace: root inside is nobody outside", async () => {
    await applied(sleeper("userns", "  userNamespace: true"));
    const { pid } = (await capsule.workload("userns")).status;
    const uid = /^Uid:\s+(\d+)/m.exec(await capsule.host.exec(["cat", `/proc/${pid}/status`]))?.[1];
    assert.ok(Number(uid) >= 100_000_000, `uid ${uid} on the host`);
    assert.equal(
      await capsule.ctl(["workload", "exec", "userns", "--", "sh", "-c", "id -u; touch /x && echo made"]),
      "0\nmade\n",
    );
  });

  test("host network and none", async () => {
    const host = await outputOf("hostnet", "  command: [ip, -o, link]\n  networkMode: HOST");
    assert.match(host, /capsule0/);
    const none = await outputOf("nonet", "  command: [ip, -o, link]\n  networkMode: NONE");
    assert.equal(none.trim().split("\n").length, 1);
  });
});

describe("network", () => {
  const fetch = (url: string): string => execFileSync("curl", ["-s", "-m", "5", url], { encoding: "utf8" });

  /** It runs a moment before it listens. */
  async function served(url: string): Promise<string> {
    const deadline = Date.now() + 10_000 * patience;
    for (;;) {
      try {
        return fetch(url);
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await sleep(askAgainMs);
      }
    }
  }

  test("ports, names between workloads, from the capsule itself; conflicts name the holder", async () => {
    const page = (name: string, port: number): string =>
      `kind: ${kind}\nname: ${name}\n${part}: {image: "hello:1", stopTimeout: 0s, ports: [{containerPort: 8080, hostPort: ${port}}]}\n`;
    await applied(page("page", 8081));
    const endpoint = await capsule.host.endpoint(8081);
    assert.match(await served(`http://${endpoint}/`), /Hello/);
    const inside = await capsule.host.exec(["wget", "-q", "-O", "-", "http://127.0.0.1:8081/"]);
    assert.match(inside, /Hello/);
    await applied(sleeper("peer"));
    assert.match(
      await capsule.ctl(["workload", "exec", "peer", "--", "wget", "-q", "-O", "-", "http://page:8080/"]),
      /Hello/,
    );
    const clash = await capsule.apply(page("clash", 8081));
    assert.equal(clash.code, 5);
    assert.match(clash.stderr, /Port 8081\/tcp of the capsule is taken by workload "page"/);
    await capsule.ctl(["workload", "delete", "page"]);
    assert.throws(() => fetch(`http://${endpoint}/`));
    assert.notEqual((await capsule.try(["workload", "exec", "peer", "--", "nslookup", "page"])).code, 0);
  });

  test("outbound calls have the capsule's own address", async (context) => {
    if (capsule.host.runner === "qemu") return context.skip("QEMU's own network hides every address");
    // The host's end of the capsules' bridge, which the runner made.
    const { address } = capsule.local;
    const gateway = address.replace(/[0-9]+$/, "1");
    const server = createServer((request, response) => response.end(request.socket.remoteAddress));
    await new Promise<void>((resolve) => server.listen(0, gateway, resolve));
    try {
      const url = `http://${gateway}:${(server.address() as AddressInfo).port}/`;
      const seen = await capsule.ctl(["workload", "exec", "peer", "--", "wget", "-q", "-O", "-", url]);
      assert.equal(seen, address, "masqueraded");
    } finally {
      server.close();
    }
  });

  test("a port that a process of the capsule holds: failed with the port named, and by itself when it is free", async () => {
    const pid = (await capsule.host.exec(["sh", "-c", "nc -l -p 8099 >/dev/null 2>&1 & echo $!"])).trim();
    const manifest = sleeper("taken", "  ports: [{containerPort: 80, hostPort: 8099}]");
    assert.equal((await capsule.apply(manifest)).code, 0);
    const { status } = await capsule.until("taken", ({ status: { phase } }) => phase === "PHASE_FAILED", "failed");
    assert.match(status.message, /port 8099\/tcp/);
    await capsule.host.exec(["kill", pid]);
    await capsule.until("taken", ({ status: { phase } }) => phase === "PHASE_RUNNING", "running", 40_000 * patience);
  });
});

describe("images", () => {
  test("list, use, remove, prune", async () => {
    assert.match(await capsule.ctl(["image", "list"]), /docker.io\/library\/busybox:1 .* in,/s);
    const used = await capsule.try(["image", "remove", "busybox:1"]);
    assert.notEqual(used.code, 0);
    assert.match(used.stderr, /is used by/);
    await capsule.ctl(["image", "push", "--name", "extra:2", join(repositoryRoot, "build/images/hello.tar")]);
    assert.match(await capsule.ctl(["image", "list"]), /extra:2/);
    await capsule.ctl(["image", "remove", "extra:2"]);
    assert.doesNotMatch(await capsule.ctl(["image", "list"]), /extra:2/);
    assert.equal((await capsule.try(["image", "remove", "extra:2"])).code, 3);
  });
});
