/** A support bundle of a capsule that holds a secret in every place where one can be: what is in it, and what is not. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { connect as connectHttp2 } from "node:http2";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { keyId } from "@capsule/api/key.ts";
import { signToken, thumbprint } from "@capsule/api/token.ts";
import { repositoryRoot } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import { readConfig, readKey } from "../../packages/capsulectl/src/config.ts";
import { askAgainMs, emulated, patience, TestCapsule } from "../support/test-capsule.ts";

const planted = {
  envOfContainer: "plant-one-Qx7fK2",
  envOfMachine: 'plant two/with "quotes" & Zr9',
  plainName: "plant-three-under-a-plain-name",
  plainWord: "plantplainword",
  argument: "plant-four-Lw8dTq",
  shellArgument: "plant-five-Ub3mYe",
  registry: "plant-six-of-a-registry",
  pull: "plant-seven-of-one-pull",
  file: "plant-eight-in-a-volume",
  exec: "plant-nine-of-a-command",
  execEnv: "plant-ten-of-its-environment",
  systemLog: "plant-eleven-in-a-log",
};
const mark = "<redacted>";

let capsule: TestCapsule;
let keyLines: string[];
const tokens: string[] = [];
const outer = process.env["XDG_CONFIG_HOME"];

const yaml = (value: string): string => JSON.stringify(value);
const manifest = `
kind: Volume
name: data
size: 64MiB
---
kind: Container
name: web
container:
  image: busybox:1
  command: [sh, -c, ${yaml(`while [ ! -e /data/file ]; do sleep 0.1; done; cat /data/file; echo "$DB_PASSWORD"; API_TOKEN=${planted.shellArgument} exec sleep 1d`)}, web, --password, ${planted.argument}]
  env: [{name: DB_PASSWORD, value: ${yaml(planted.envOfContainer)}}, {name: GREETING, value: ${yaml(planted.plainName)}}, {name: MODE, value: ${planted.plainWord}}]
  mounts: [{volumeName: data, mountPath: /data}]
  stopTimeout: 0s
---
kind: MicroVM
name: vm
microVm:
  image: not-there:1
  imagePullPolicy: NEVER
  env: [{name: SETTING, value: ${yaml(planted.envOfMachine)}}]
`;

before(async () => {
  capsule = await TestCapsule.start("support", ["busybox"]);
  process.env["XDG_CONFIG_HOME"] = capsule.configHome;
  assert.equal((await capsule.apply(manifest)).code, 0);
  await capsule.ctl(
    ["registry", "set", "127.0.0.1:1", "--username", "robot-of-the-registry", "--password-stdin"],
    planted.registry,
  );
  assert.equal((await capsule.try(["image", "pull", "127.0.0.1:1/x:1", "--username", "anna"], planted.pull)).code, 1);
  const file = join(capsule.dir, "file");
  writeFileSync(file, `${planted.file}\n`);
  await capsule.until("web", ({ status }) => status.phase === "PHASE_RUNNING", "running");
  await capsule.ctl(["cp", file, "web:/data/file"]);
  // A fault may put anything into a log.
  const line = `2026-01-31T12:00:00.000Z error: Authorization: Bearer ${planted.systemLog}`;
  await capsule.host.exec(["sh", "-c", `echo '${line}' >> /perm/log/dnsmasq.log`]);
  const keys = [
    await capsule.host.exec(["cat", "/perm/tls/server.key"]),
    readFileSync(join(capsule.configHome, "capsule/key.pem"), "utf8"),
  ];
  keyLines = keys.flatMap((pem) => pem.split("\n").filter((text) => text.length > 20 && !text.startsWith("-----")));
  assert.ok(keyLines.length >= 2);
  await callWithTokens();
});
after(async () => {
  if (outer === undefined) delete process.env["XDG_CONFIG_HOME"];
  else process.env["XDG_CONFIG_HOME"] = outer;
  await capsule?.stop();
});

/** One that is taken, one that was used already, and one that is damaged. */
async function callWithTokens(): Promise<void> {
  const key = readKey();
  const context = (await readConfig()).contexts["test"];
  assert.ok(key !== undefined && context !== undefined);
  const { privateKey, certificateDer, certificatePem, keyPem } = key;
  const subject = { privateKey, keyId: keyId(privateKey), thumbprint: thumbprint(certificateDer) };
  const token = signToken({ ...subject, capsuleId: context.capsuleId }, new Date());
  const session = connectHttp2(`https://127.0.0.1:${capsule.host.port}`, {
    ...{ cert: certificatePem, key: keyPem, rejectUnauthorized: false },
  });
  for (const one of [token, token, `${token.slice(0, -8)}AAAAAAAA`]) {
    tokens.push(one);
    const stream = session.request({
      ":method": "POST",
      ":path": "/capsule.v1.CapsuleService/SetHostname",
      "content-type": "application/json",
      authorization: `Bearer ${one}`,
    });
    stream.end('{"hostname": "no name at all"}');
    stream.resume();
    await once(stream, "close");
  }
  session.close();
}

interface Bundle {
  readonly path: string;
  /** Content by name. */
  readonly files: ReadonlyMap<string, string>;
  readonly stderr: string;
}

async function bundle(name: string, ...options: string[]): Promise<Bundle> {
  const path = join(capsule.dir, name);
  const { code, stderr, stdout } = await capsule.try(["capsule", "support-bundle", path, ...options]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^support-bundle\/test written to /);
  const into = `${path}.d`;
  mkdirSync(into);
  await run(["tar", "-xzf", path, "-C", into]);
  const files = new Map<string, string>();
  for (const entry of readdirSync(into, { recursive: true, withFileTypes: true })) {
    const file = join(entry.parentPath, entry.name);
    if (entry.isFile()) files.set(file.slice(into.length + 1), readFileSync(file, "utf8"));
  }
  return { path, files, stderr };
}

/** As it is and in the forms that programs write it in. */
function assertAbsent({ files }: Bundle, secrets: readonly string[]): void {
  for (const secret of secrets) {
    const bytes = Buffer.from(secret);
    const base64 = bytes.toString("base64").replace(/=+$/, "");
    for (const form of [secret, JSON.stringify(secret).slice(1, -1), base64, bytes.toString("hex"), encodeURI(secret)])
      for (const [name, text] of files) assert.ok(!text.includes(form), `${name} has ${secret} as ${form}`);
  }
}

const json = ({ files }: Bundle, name: string) => JSON.parse(files.get(name) ?? "null");

test("has what a helper needs, and no secret; nothing is written on the capsule", {
  timeout: 120_000 * patience,
}, async () => {
  // A command runs while the processes are listed.
  const command = [`--env=TOKEN=${planted.execEnv}`, "web", "--", "sh", "-c", `sleep 1d; : ${planted.exec}`];
  const child = spawn(join(repositoryRoot, "capsulectl"), ["workload", "exec", ...command], {
    env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
    stdio: "ignore",
  });
  try {
    // A pattern that does not find the one who looks.
    const pattern = `[${planted.exec[0]}]${planted.exec.slice(1)}`;
    const isRunning = ["sh", "-c", `grep -l '${pattern}' /proc/[0-9]*/cmdline || true`];
    for (let i = 0; (await capsule.host.exec(isRunning)) === ""; i++) {
      assert.ok(i < 100 * patience, "the command does not run");
      await sleep(askAgainMs);
    }
    await capsule.host.exec(["touch", "/run/before"]);
    const made = await bundle("first.tar.gz");
    const written = await capsule.host.exec(["find", "/perm", "-xdev", "-type", "f", "-newer", "/run/before"]);
    // What any call writes: that its key was used; and what others write.
    const others = /^\/perm\/(state\.db|log\/|containerd\/|workloads\/\w+\/log\/|pools\/|capsule\/chrony)/;
    assert.deepEqual(
      written.split("\n").filter((path) => path !== "" && !others.test(path)),
      [],
    );

    assertAbsent(made, [...Object.values(planted), ...keyLines, ...tokens, "robot-of-the-registry"]);
    assert.equal(statSync(made.path).mode & 0o777, 0o600);
    assert.ok(!readdirSync(capsule.dir).includes("first.tar.gz.part"));
    const wanted = [
      ...["capsule.json", "workloads.json", "volumes.json", "snapshots/data.json", "pools.json", "images.json"],
      ...[
        "registries.json",
        "machine.json",
        "keys.json",
        "audit.json",
        "metrics.txt",
        "events.txt",
        "store.json",
        "errors.txt",
      ],
      ...["logs/capsuled.log", "logs/containerd.log", "logs/dnsmasq.log", "logs/init.log", "logs/kernel.log"],
      ...["machine/versions.txt", "machine/services.json", "machine/cgroups.txt", "machine/processes.txt"],
      ...["machine/memory.txt", "machine/pressure.txt", "machine/kernel.txt", "machine/containerd.txt"],
      ...["storage/mounts.txt", "storage/block-devices.txt", "storage/loop-devices.txt", "storage/space.txt"],
      ...[
        "network/links.txt",
        "network/addresses.txt",
        "network/routes.txt",
        "network/nftables.txt",
        "network/dns.txt",
      ],
      ...["workloads/vm/machine.json", "workloads/vm/console.log"],
      ...(emulated ? ["update.json", "storage/lvm.txt", "storage/device-mapper.txt"] : []),
    ];
    assert.deepEqual(
      wanted.filter((name) => !made.files.has(name)),
      [],
      made.stderr,
    );
    const [vm, web] = json(made, "workloads.json").workloads;
    assert.deepEqual([vm.spec.name, vm.status.phase], ["vm", "PHASE_FAILED"]);
    assert.deepEqual(vm.spec.microVm.env, [{ name: "SETTING", value: mark }]);
    assert.deepEqual(
      web.spec.container.env.map(({ name, value }: Record<string, string>) => [name, value]),
      [
        ["DB_PASSWORD", mark],
        ["GREETING", mark],
        ["MODE", mark],
      ],
    );
    assert.deepEqual(web.spec.container.command.slice(-3), ["web", "--password", mark]);
    assert.equal(web.status.phase, "PHASE_RUNNING");
    const [registry] = json(made, "registries.json").registries;
    assert.deepEqual([registry.host, registry.username, registry.hasPassword], ["127.0.0.1:1", mark, true]);
    const store = json(made, "store.json");
    assert.ok(store.schema >= 6);
    assert.equal(store.rows.workloads, 2);
    assert.match(made.files.get("events.txt") ?? "", / workload\/web Started: /);
    assert.match(made.files.get("network/nftables.txt") ?? "", /^table inet capsule \{$/m);
    assert.match(made.files.get("machine/versions.txt") ?? "", /containerd github\.com/);
    assert.match(made.files.get("machine/processes.txt") ?? "", /^\d+ \S*containerd-shim.* -namespace capsule -id w/m);
    assert.match(made.files.get("machine/cgroups.txt") ?? "", new RegExp(`${web.uid} memory\\.`));
    assert.match(made.files.get("machine/containerd.txt") ?? "", new RegExp(`${web.uid} .*RUNNING`));
    assert.match(made.files.get("logs/dnsmasq.log") ?? "", /Authorization: (Bearer )?<redacted>/);
    assert.match(made.files.get("audit.json") ?? "", /WorkloadService\/Apply/);
    const errors = (made.files.get("errors.txt") ?? "").split("\n").filter((line) => line !== "");
    // What a machine's own tools say of an odd disk is no fault of ours.
    const odd = emulated ? /^storage\// : /^$/;
    assert.deepEqual(
      errors.filter((line) => !odd.test(line)),
      [],
      "everything was collected",
    );
  } finally {
    child.kill("SIGKILL");
  }
});

test("what workloads wrote is in it when it is asked for, without what the capsule knows to be secret", async () => {
  const made = await bundle("logs.tar.gz", "--workload-logs");
  const { file, ...others } = planted;
  assertAbsent(made, [...Object.values(others), ...keyLines, ...tokens]);
  const output = made.files.get("workloads/web/output.log") ?? "";
  assert.match(output, new RegExp(file));
  assert.match(output, /<redacted>/);
});

const ofClient = { skip: emulated && "it is about capsulectl" };

test("replaces no file unless it is told to, and leaves none behind", ofClient, async () => {
  const path = join(capsule.dir, "kept.tar.gz");
  writeFileSync(path, "mine", { mode: 0o644 });
  const refused = await capsule.try(["capsule", "support-bundle", path]);
  assert.equal(refused.code, 5);
  assert.match(refused.stderr, /exists.*--force/);
  assert.equal(readFileSync(path, "utf8"), "mine");
  writeFileSync(`${path}.part`, "of an earlier run", { mode: 0o644 });
  await capsule.ctl(["capsule", "support-bundle", path, "--force"]);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal(readFileSync(path).readUInt16BE(0), 0x1f8b);
  assert.equal((await capsule.try(["capsule", "support-bundle", join(capsule.dir, "no/such/dir/x")])).code, 1);
  assert.deepEqual(
    readdirSync(capsule.dir).filter((name) => name.endsWith(".part")),
    [],
  );
});

test("is given up by a signal, and leaves nothing behind", ofClient, async () => {
  const path = join(capsule.dir, "given-up.tar.gz");
  const child = spawn(join(repositoryRoot, "capsulectl"), ["capsule", "support-bundle", path], {
    env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
    stdio: "ignore",
  });
  const ended = once(child, "exit");
  while (!existsSync(`${path}.part`)) await sleep(5);
  child.kill("SIGINT");
  assert.deepEqual(await ended, [130, null]);
  assert.deepEqual(
    readdirSync(capsule.dir).filter((name) => name.startsWith("given-up")),
    [],
  );
  // The capsule hears of it, and makes the next one.
  for (let i = 0; ; i++) {
    const { code, stderr } = await capsule.try(["capsule", "support-bundle", path]);
    if (code === 0) break;
    assert.match(stderr, /Another support bundle/);
    assert.ok(i < 50, stderr);
    await sleep(100);
  }
});

test("is made without containerd, and tells what is missing", async () => {
  await capsule.host.exec(["capsule-init", "ctl", "stop", "containerd"]);
  const made = await bundle("degraded.tar.gz");
  await capsule.host.exec(["capsule-init", "ctl", "start", "containerd"]);
  assert.match(made.files.get("errors.txt") ?? "", /^images\.json: /m);
  assert.match(made.stderr, /Not in it, or not whole: images\.json: /);
  for (const name of ["workloads.json", "logs/containerd.log", "network/nftables.txt", "store.json"])
    assert.ok(made.files.has(name), name);
  assertAbsent(made, [...Object.values(planted), ...keyLines, ...tokens]);
});
