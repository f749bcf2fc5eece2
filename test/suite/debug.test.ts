/** `capsule debug`: the machine as it is, the tools of the image, and nothing left of either afterwards. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { workloadOf } from "../support/machines.ts";
import { Screen } from "../support/screen.ts";
import { askAgainMs, patience, type Result, TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
/** What a test leaves open, when it fails. */
const open: { kill(): void }[] = [];

before(async () => {
  capsule = await TestCapsule.start("debug", ["busybox", "bare"]);
  // From here on there is no way to any registry.
  await capsule.host.exec(["sh", "-c", "ip route del default; ip -6 route del default 2>/dev/null; true"]);
});
afterEach(() => {
  for (const one of open.splice(0)) one.kill();
});
after(async () => {
  await capsule?.stop();
});

const debug = (...words: string[]): Promise<string> => capsule.ctl(["capsule", "debug", ...words]);
const tryDebug = (...words: string[]): Promise<Result> => capsule.try(["capsule", "debug", ...words]);
const bash = (script: string): Promise<string> => debug("--", "bash", "-ec", script);
const inCapsule = (script: string): Promise<string> => capsule.host.exec(["sh", "-c", script]);

/** What debug sessions have of the capsule: containers, mounts of theirs, files, and processes that are called so. */
const marker = "31415926";
const leftovers = `
  ctr -n capsule c ls -q; ctr -n capsule t ls -q; ctr -n capsule snapshots ls | grep -v ^KEY | grep Active
  grep capsule/tools /proc/mounts; ls /run/capsule/debug
  grep -l "[${marker[0]}]${marker.slice(1)}" /proc/[0-9]*/cmdline 2>/dev/null; true`;

async function nothingIsLeft(): Promise<void> {
  const deadline = Date.now() + 20_000 * patience;
  for (;;) {
    const left = await inCapsule(leftovers);
    if (left.trim() === "") return;
    assert.ok(Date.now() < deadline, left);
    await sleep(askAgainMs);
  }
}

/** A session that goes on; resolves when its command runs. */
async function begin(...words: string[]): Promise<ChildProcess> {
  const args = ["capsule", "debug", ...words, "--", "bash", "-c", `echo there; exec sleep ${marker}`];
  const child = spawn(join(repositoryRoot, "capsulectl"), args, {
    env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
  });
  open.push({ kill: () => void child.kill("SIGKILL") });
  const said = await new Promise<string>((resolve) => {
    let text = "";
    const take = (chunk: Buffer): void => {
      text += chunk;
      if (text.includes("there")) resolve(text);
    };
    child.stdout?.on("data", take);
    child.stderr?.on("data", take);
    child.once("close", (code) => resolve(`${text} (ended with ${code})`));
  });
  assert.equal(said, "there\n");
  return child;
}

describe("the machine", () => {
  test("is seen as it is: namespaces, processes, network, disks, files", async () => {
    const kinds = ["pid", "net", "ipc", "uts", "cgroup"];
    const own = `for kind in ${kinds.join(" ")}; do readlink /proc/self/ns/$kind; done`;
    assert.equal(await bash(own), await inCapsule(own));
    assert.notEqual(await bash("readlink /proc/self/ns/mnt"), await inCapsule("readlink /proc/self/ns/mnt"));
    const pid = await capsule.capsuledPid();
    const seen = await bash(
      `cat /proc/1/comm; pgrep -f '^/usr/bin/node .*capsuled.mjs'; hostname; stat -c %n /host/perm/state.db /perm/state.db
       lsof -p ${pid} | grep -c /perm/state.db$`,
    );
    const name = (await inCapsule("hostname")).trim();
    assert.match(
      seen,
      new RegExp(`^capsule-init\n${pid}\n${name}\n/host/perm/state.db\n/perm/state.db\n[1-9][0-9]*\n$`),
    );
    const rules = await bash("nft list ruleset");
    assert.match(rules, /table inet capsule/);
    assert.equal(await bash("nft list tables"), await inCapsule("nft list tables"));
    const links = JSON.parse(await bash("ip -j addr")) as { ifname: string; address: string }[];
    const real = JSON.parse(await inCapsule("ip -j addr")) as typeof links;
    assert.deepEqual(
      links.map(({ ifname, address }) => `${ifname} ${address}`),
      real.map(({ ifname, address }) => `${ifname} ${address}`),
    );
    assert.match(await bash("lvm version"), /LVM version/);
    assert.equal(await bash("ls /dev"), await inCapsule("ls -1 /dev | LC_ALL=C sort"));
    // All rights, and no filter.
    assert.match(await bash("grep -h ^Seccomp: /proc/self/status; cat /proc/self/status"), /^Seccomp:\t0\n/);
    const rights = (pid: string): string => `sed -n 's/^CapEff:.//p' /proc/${pid}/status`;
    assert.equal(await bash(rights("self")), await bash(rights("1")));
  });

  test("can be changed", async () => {
    await bash("echo changed >/host/perm/from-debug; touch /run/from-debug");
    assert.equal(await inCapsule("cat /perm/from-debug; rm /perm/from-debug /run/from-debug"), "changed\n");
    await bash("ip link add debug0 type veth peer name debug1; ip link set debug0 up");
    assert.match(await inCapsule("ip -o link show debug0; ip link del debug0"), /debug0/);
    assert.match(await bash("chroot /host ctr -n capsule containers ls -q"), /^t[a-z2-7]{12}\n$/);
  });

  test("its processes can be traced and its packets seen", async () => {
    const traced = await bash(`
      strace -o /tmp/trace -p 1 & sleep ${patience}
      chroot /host capsule-init ctl status >/dev/null; sleep ${patience}; kill %1; wait || true; cat /tmp/trace`);
    assert.match(traced, /accept4?\(/);
    assert.match(await bash("tcpdump -D"), /\.lo .*Up/);
    const packet = await bash(`
      tcpdump -n -i lo -c 1 icmp 2>/dev/null >/tmp/packet & sleep ${patience}
      ping -c 2 127.0.0.1 >/dev/null; wait; cat /tmp/packet`);
    assert.match(packet, /127\.0\.0\.1 > 127\.0\.0\.1: ICMP echo re/);
  });

  test("lets go of a volume while a session is open, which sees it come and go", async () => {
    const session = await begin();
    const of = "volume create data --size 64MiB".split(" ");
    await capsule.ctl(of);
    const user = workloadOf(
      "Container",
      "user",
      "busybox:1",
      "  command: [sleep, 1d]\n  stopTimeout: 0s\n  mounts: [{volumeName: data, mountPath: /data}]",
    );
    assert.equal((await capsule.apply(user, "--wait=60s")).code, 0);
    const seen = `for p in $(pgrep -f 'sleep ${marker}'); do grep -c /host/run/capsule/volumes/ /proc/$p/mounts; done`;
    assert.match(await bash(`${seen} || true`), /^[1-9]/);
    await capsule.ctl(["workload", "delete", "user"]);
    await capsule.ctl(["volume", "delete", "data"]);
    assert.match(await bash(`${seen} || true`), /^0/);
    session.kill("SIGKILL");
    await nothingIsLeft();
  });
});

describe("the session", () => {
  test("gives input, output, exit codes and signals as they are", async () => {
    const { code, stdout, stderr } = await tryDebug("--", "bash", "-c", "echo out; echo err >&2; exit 7");
    assert.deepEqual({ code, stdout, stderr }, { code: 7, stdout: "out\n", stderr: "err\n" });
    assert.equal((await tryDebug("--", "bash", "-c", "kill -9 $$")).code, 137);
    const script = await capsule.try(["capsule", "debug"], "echo shell $BASH; pwd; exit 3\n");
    assert.deepEqual([script.code, script.stdout], [3, "shell /usr/bin/bash\n/\n"]);
    const unknown = await tryDebug("--", "no-such-tool");
    assert.equal(unknown.code, 1);
    assert.match(unknown.stderr, /no-such-tool/);
    await nothingIsLeft();
  });

  test("is a terminal in a terminal, which changes its size", async () => {
    const screen = new Screen(join(repositoryRoot, "capsulectl"), ["capsule", "debug"], {
      columns: 80,
      rows: 24,
      env: { PATH: process.env["PATH"] ?? "", HOME: capsule.dir, XDG_CONFIG_HOME: capsule.configHome },
    });
    open.push(screen);
    const see = (pattern: RegExp, what: string): Promise<string> => screen.until(pattern, what, 20_000 * patience);
    await see(/The capsule's root is \/host[\s\S]*debug .*:\/# $/m, "the prompt");
    screen.type("stty size\r");
    await see(/^24 80$/m, "the size");
    screen.resize(100, 40);
    // The signal and what is typed go two ways.
    screen.type("until stty size | grep '^40 100'; do sleep 0.2; done\r");
    await see(/^40 100$/m, "the other size");
    screen.type("sleep 1000\r");
    await sleep(500 * patience);
    screen.type("\u0003");
    screen.type("echo code $?\r");
    await see(/^code 130$/m, "the end of what was interrupted");
    // The terminal is known, and vi is there.
    screen.type("vi /host/etc/os-release\r");
    await see(/Capsule[\s\S]*~/, "the file in vi");
    screen.type(":q!\r");
    await see(/:\/# $/m, "the prompt again");
    screen.type("exit 5\r");
    const late = sleep(20_000 * patience, "still open", { ref: false });
    assert.equal(await Promise.race([screen.ended, late]), 5, screen.text);
    await nothingIsLeft();
  });

  test("takes an image that is on the capsule, and nothing need be in it", async () => {
    const before = await capsule.ctl(["image", "list", "-o", "json"]);
    const seen = await debug("--image", "busybox:1", "--", "sh", "-c", "echo $PATH; cat /proc/1/comm; ls /host/perm");
    assert.match(seen, /^\/bin\ncapsule-init\n[\s\S]*state\.db\n/);
    const none = await tryDebug("--image", "bare:1", "--", "/sleep", "0");
    assert.deepEqual([none.code, none.stderr], [0, ""]);
    assert.match((await tryDebug("--image", "bare:1")).stderr, /\/bin\/sh/);
    const away = await tryDebug("--image", "registry.invalid/x:1", "--", "true");
    assert.equal(away.code, 1);
    assert.match(away.stderr, /registry\.invalid/);
    assert.equal(await capsule.ctl(["image", "list", "-o", "json"]), before);
    await nothingIsLeft();
  });

  test("is in the audit log, begin and end", async () => {
    await tryDebug("--", "sh", "-c", "exit 9");
    const lines = (await capsule.ctl(["audit"])).split("\n").filter((line) => line.includes("CapsuleService/Debug"));
    assert.match(lines.at(-2) ?? "", /image capsule-tools, sh -c exit 9 +begun/);
    assert.match(lines.at(-1) ?? "", /image capsule-tools, sh -c exit 9 +exit 9/);
    const key = (await asBen(["key", "show"])).stdout.trim();
    for (const role of ["viewer", "operator"]) {
      await capsule.ctl(["key", "add", "ben", key, "--role", role]);
      await asBen(["adopt", `127.0.0.1:${capsule.host.port}`, "--name", "test", "--fingerprint", capsule.fingerprint]);
      const refused = await asBen(["capsule", "debug", "--", "true"]);
      assert.equal(refused.code, 4, refused.stderr);
      assert.equal((await asBen(["capsule", "debug", "--end"])).code, 4);
      await capsule.ctl(["key", "remove", "ben"]);
    }
    assert.match(await capsule.ctl(["audit"]), /ben +CapsuleService\/Debug +PermissionDenied/);
  });
});

const asBen = (args: string[]): Promise<Result> => capsule.try(args, "", 60_000 * patience, join(capsule.dir, "ben"));

describe("what is kept", () => {
  test("is entered again, is told, outlives capsuled, and is ended", async () => {
    await debug("--keep", "--", "bash", "-c", "echo mine >/tmp/note");
    assert.equal(await debug("--keep", "--", "cat", "/tmp/note"), "mine\n");
    assert.equal((await tryDebug("--", "cat", "/tmp/note")).code, 1);
    const warnings = async (): Promise<string> =>
      JSON.stringify(
        (JSON.parse(await capsule.ctl(["capsule", "info", "-o", "json"])) as { warnings: string[] }).warnings,
      );
    assert.match(await warnings(), /debug container with all rights is kept/);
    const other = await tryDebug("--keep", "--image", "busybox:1", "--", "true");
    assert.equal(other.code, 5, other.stderr);
    assert.match(other.stderr, /debug --end/);
    await capsule.ctl(["image", "prune"]);
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    // After what belongs to nobody was removed.
    await inCapsule("until tail -n 3 /perm/log/capsuled.log | grep -q 'adopted what runs'; do sleep 0.2; done");
    assert.equal(await debug("--keep", "--", "cat", "/tmp/note"), "mine\n");
    await debug("--keep", "--", "bash", "-c", `setsid sleep ${marker} </dev/null >/dev/null 2>&1 &`);
    assert.match(await bash(`pgrep -f 'sleep ${marker}'`), /^[0-9]+\n$/);
    assert.match(await debug("--end"), /gone/);
    await nothingIsLeft();
    assert.match(await debug("--end"), /No debug container/);
    assert.doesNotMatch(await warnings(), /debug container/);
  });

  test("goes with the machine", async () => {
    await debug("--keep", "--", "true");
    const session = await begin();
    await capsule.host.cutPower();
    session.kill("SIGKILL");
    await capsule.host.startAgain();
    await capsule.untilServing();
    await nothingIsLeft();
  });
});

describe("what is left", () => {
  test("is nothing, when the caller, capsuled or what it stands on is killed", async () => {
    (await begin()).kill("SIGKILL");
    await nothingIsLeft();
    const orphan = await begin();
    await capsule.killCapsuled();
    await capsule.startCapsuled();
    await capsule.untilServing();
    await nothingIsLeft();
    orphan.kill("SIGKILL");
    const ended = await begin();
    const closed = new Promise((resolve) => ended.once("close", resolve));
    await bash("pkill -KILL -f '^/host/usr/sbin/capsule-init hold' || true");
    assert.notEqual(await closed, 0);
    await nothingIsLeft();
  });
});
