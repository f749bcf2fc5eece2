/**
 * A stick, a machine with a blank disk, an operator on the same network: the whole way to a workload, with what a person
 * types. The image is the one that was built: no agent of the tests is in it.
 */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { diskPath } from "../../image/image.ts";
import { buildKernel } from "../../image/kernel.ts";
import { kvmWorks } from "../../image/qemu/kvm.ts";
import { copyDisk, Machine } from "../../image/qemu/machine.ts";
import { run } from "../../image/run.ts";
import type { Found } from "../../packages/capsulectl/src/discovery/found.ts";
import { buildImages } from "../images/build.ts";
import { startDhcp } from "../support/dhcp.ts";
import { Lan, NetworkNamespace } from "../support/lan.ts";
import { Operator } from "../support/operator.ts";
import { remembered } from "../support/untouched.ts";

const GiB = 1024 ** 3;
const bootMs = 240_000;
let dir: string;
let lan: Lan;
let place: NetworkNamespace;
let operator: Operator;
let dhcp: ChildProcess;
let machine: Machine;
let isStickAsItWas: () => Promise<void>;
const stick = (): string => join(dir, "stick.raw");

before(async () => {
  dir = mkdtempSync(join(tmpdir(), "capsule-install-"));
  await copyDisk(diskPath, stick());
  isStickAsItWas = await remembered(stick(), 1_200);
  writeFileSync(join(dir, "disk.raw"), "");
  truncateSync(join(dir, "disk.raw"), 6 * GiB);
  [lan, place] = await Promise.all([Lan.make(), NetworkNamespace.make()]);
  await lan.join(place.pid, "lan0", "192.0.2.10/24");
  operator = new Operator(join(dir, "home"), place.enter);
  dhcp = await startDhcp(place.enter, "lan0", "192.0.2.100,192.0.2.150");
  machine = await Machine.start({
    dir: join(dir, "machine"),
    disks: [join(dir, "disk.raw")],
    stick: stick(),
    forwards: [],
    tap: { ...(await lan.tap("tap0")), mac: "52:54:00:12:34:56" },
    kvm: await kvmWorks((await buildKernel()).vmlinuz),
    cpus: 1,
    temporary: true,
  });
});
after(async () => {
  await machine?.cutPower();
  dhcp?.kill("SIGKILL");
  for (const network of [lan, place]) network?.close();
  rmSync(dir, { recursive: true, force: true });
});

async function untilDiscovered(holds: (found: Found) => boolean): Promise<Found> {
  for (const deadline = Date.now() + bootMs; ; await sleep(2_000)) {
    const { stdout, stderr } = await operator.ctl(["discover", "-o", "json"]);
    const found = (JSON.parse(stdout === "" ? '{"capsules":[]}' : stdout) as { capsules: Found[] }).capsules.find(
      holds,
    );
    if (found !== undefined) return found;
    if (Date.now() > deadline) throw new Error(`not discovered: ${stderr}\n${machine.console().slice(-2_000)}`);
  }
}

/** As a person reads it. */
function fingerprintOn(console: string): string {
  const lines = /SHA-256: +((?:[0-9a-f]{4} ?){8})\n +((?:[0-9a-f]{4} ?){8})/.exec(console);
  return `${lines?.[1]} ${lines?.[2]}`;
}

test("discover and install, and the machine is a capsule that runs a workload", { timeout: 900_000 }, async () => {
  const installer = await untilDiscovered(({ mode, fingerprint }) => mode === "installer" && fingerprint !== "");
  const console = await machine.untilConsole(/^Any key/m, 60_000);
  assert.match(console, /Installer: +\S+ +id [a-z2-7]{6} /);
  assert.match(console, /no disk of this machine has been changed/);
  assert.ok(console.includes(`capsulectl install ${installer.shortId}`), console);
  assert.equal(installer.adopted, false);
  assert.ok(
    installer.addresses.some((address) => /^192\.0\.2\.1\d\d:50000$/.test(address)),
    installer.addresses.join(),
  );

  let isPulled = false;
  const installed = await operator.ctl(
    ["install", installer.shortId, "--fingerprint", fingerprintOn(console)],
    (text) => {
      if (isPulled || !text.includes("Take out the stick now")) return;
      isPulled = true;
      void machine.pullStick();
    },
  );
  assert.equal(installed.code, 0, installed.stderr);
  assert.ok(isPulled, installed.stderr);
  assert.match(installed.stderr, /\/dev\/sda .*usb .*no: the installer runs from it/);
  assert.match(installed.stderr, /\/dev\/vda .*virtio .*disk0 +blank +possible/);
  assert.match(installed.stdout, /Installed [a-z2-7]{6} on \/dev\/vda; it is adopted as "capsule-123456"/);
  assert.match(installed.stdout, /It answers at 192\.0\.2\./);

  // Nothing else is needed: no adopt, no address, no fingerprint.
  const capsule = await untilDiscovered(({ context }) => context === "capsule-123456");
  assert.deepEqual([capsule.adopted, capsule.mode], [true, "qemu"]);
  const hello = (await buildImages()).get("hello") ?? "";
  const pushed = await operator.ctl(["image", "push", hello]);
  assert.equal(pushed.code, 0, pushed.stderr);
  const manifest = join(dir, "web.yaml");
  writeFileSync(
    manifest,
    'kind: Container\nname: web\ncontainer: {image: "hello:1", ports: [{containerPort: 8080, hostPort: 80}]}\n',
  );
  const applied = await operator.ctl(["apply", "-f", manifest, "--wait=5m"]);
  assert.equal(applied.code, 0, applied.stderr);
  const at = capsule.addresses[0]?.replace(/:50000$/, "") ?? "";
  const page = await run([...place.enter, "curl", "--silent", "--max-time", "30", `http://${at}/`]);
  assert.match(page, /Hello/);
  const info = await operator.ctl(["capsule", "info"]);
  assert.doesNotMatch(info.stdout, /Warning/i);
  assert.match(info.stdout, /vda 6\.0 GiB \(system\)/);
});

test("an install against a capsule that runs is refused", async () => {
  const capsule = await untilDiscovered(({ context }) => context !== "");
  const refused = await operator.ctl(["install", capsule.shortId, "--yes"]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /is a capsule that runs \(qemu\), and no installer: nothing was done/);
});

test("the stick is as it was", async () => {
  await isStickAsItWas();
});
