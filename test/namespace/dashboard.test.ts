/** The dashboard in a real pseudo-terminal, before a real capsule: what a person sees, types, and gets back. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { repositoryRoot } from "../../image/paths.ts";
import { Screen } from "../support/screen.ts";
import { patience, TestCapsule } from "../support/test-capsule.ts";

const capsulectl = join(repositoryRoot, "capsulectl");
/** Wipes the screen, names the window, writes to the clipboard, has the terminal answer, in seven and in eight bits. */
const evil = String.raw`\033[2J\033[Hgone\033]0;renamed\007\033]52;c;ZXZpbA==\007\033[6n\302\2331m\r`;
const evilScript = `i=0; while true; do i=$((i+1)); printf '${evil}line %d\\n' $i; sleep 1; done`;
const manifest = `
kind: Container
name: evil
container:
  image: busybox:1
  command: [sh, -c, ${JSON.stringify(evilScript)}]
  stopTimeout: 0s
---
kind: Container
name: quiet
container:
  image: busybox:1
  command: [sleep, "1000000"]
  stopTimeout: 0s
  resources: {memoryMib: 64}
`;

/** Columns of one at the right of the screen. */
const aGraph = /[▁▂▃▄▅▆▇█]{3} {0,2}$/m;

let capsule: TestCapsule;
const open: Screen[] = [];

before(async () => {
  capsule = await TestCapsule.start("dash", ["busybox"]);
  const { code, stderr } = await capsule.apply(manifest, "--wait=60s");
  assert.equal(code, 0, stderr);
});
after(async () => {
  for (const screen of open) screen.kill();
  await capsule?.stop();
});

interface Options {
  readonly columns?: number;
  readonly rows?: number;
  readonly env?: Readonly<Record<string, string>>;
}

/** Below a shell, which tells how it ended, and whether it left the terminal as it was. */
function start(args: readonly string[] = [], { columns = 80, rows = 24, env = {} }: Options = {}): Screen {
  const script = `was=$(stty -g); "$@"; code=$?; [ "$was" = "$(stty -g)" ] && echo "restored, ended with $code"`;
  const screen = new Screen("/bin/sh", ["-c", script, "sh", capsulectl, ...args, "dashboard"], {
    columns,
    rows,
    env: {
      PATH: process.env["PATH"] ?? "",
      HOME: capsule.dir,
      XDG_CONFIG_HOME: capsule.configHome,
      LANG: "C.UTF-8",
      ...env,
    },
  });
  open.push(screen);
  return screen;
}

async function see(screen: Screen, pattern: RegExp, what: string): Promise<string> {
  return await screen.until(pattern, what, 20_000 * patience);
}

async function startShown(args?: readonly string[], options?: Options): Promise<Screen> {
  const screen = start(args, options);
  await see(screen, /evil +RUNNING +[0-9.]+%/, "showing the workloads and their use");
  return screen;
}

/** The terminal is as it was, in every respect. */
async function assertRestored(screen: Screen, code: number): Promise<void> {
  await screen.ended;
  await see(screen, new RegExp(`restored, ended with ${code}`), `restored, with ${code}`);
  assert.equal(screen.isAlternate, false, "the screen of before is back");
  assert.equal(screen.wraps, true, "lines go on in the next");
  assert.ok(
    screen.written.lastIndexOf("\u001b[?25h") > screen.written.lastIndexOf("\u001b[?25l"),
    "the cursor is to be seen",
  );
}

test("shows a capsule's health with graphs, its workloads and what happened, in 80 × 24", async () => {
  const screen = await startShown();
  const text = await see(screen, /CPU [0-9]+% of [0-9]+, load/, "showing the use of the processors");
  const rows = text.split("\n");
  assert.equal(rows.length, 24);
  assert.match(rows[0] ?? "", /^ Capsule \[1 test\]/);
  assert.match(rows[1] ?? "", /^ 127\.0\.0\.1:[0-9]+ {2}up {2}\S+ \S+ \(\w+\) {2}up \S+ {2}2 of 2 running/);
  assert.match(text, /MEM [0-9]+%, .* of .*iB/);
  assert.match(text, /POOL default [0-9]+% of .*iB/);
  assert.match(text, /NET ↓.*\/s ↑.*\/s/);
  assert.match(text, /^> evil +RUNNING/m);
  assert.match(text, /^ {2}quiet +RUNNING +[0-9.]+% +[0-9.]+ [KM]iB +0 +\S+ {2}Running/m);
  assert.match(text, / quiet Started: /);
  assert.match(rows[23] ?? "", /^ q quit .*\? help *$/);
  // Columns are added, the newest at the right.
  await see(screen, aGraph, "a graph");
  screen.type("?");
  await see(screen, /ctrl-c +leave/, "the help");
  screen.type("x");
  await see(screen, /RSTRT/, "back");
  screen.type("q");
  await assertRestored(screen, 0);
});

test("follows the log of the selected workload, and nothing in it reaches the terminal", async () => {
  const screen = await startShown([], { columns: 120, rows: 40 });
  screen.type("\r");
  const text = await see(screen, /Log of evil(.*\n)+.*line ([0-9]+)/, "the log");
  const last = Math.max(...[...text.matchAll(/line ([0-9]+)/g)].map(([, n]) => Number(n)));
  await see(screen, new RegExp(`line ${last + 3}\\b`), "lines that come");
  assert.match(screen.text, /^ Capsule \[1 test\]/, "the screen was not wiped");
  screen.type("\u001b[B");
  await see(screen, /Log of quiet/, "the log of the other");
  assert.doesNotMatch(screen.text, /line [0-9]/);
  screen.type("z");
  await see(screen, /^ Capsule.*\n.*\n ─ Log of quiet/, "the log alone");
  screen.type("q");
  await assertRestored(screen, 0);
  for (const sequence of ["\u001b]", "\u0007", "\u001b[6n", "\u009b", "renamed"])
    assert.ok(!screen.written.includes(sequence), `${JSON.stringify(sequence)} was written`);
});

test("of a log that grows faster than can be read shows the newest, and stays in hand", async () => {
  const flood =
    "kind: Container\nname: flood\ncontainer:\n  image: busybox:1\n  command: [yes, flooding]\n  stopTimeout: 0s\n  resources: {cpuMillis: 300}\n";
  assert.equal((await capsule.apply(flood, "--wait=60s")).code, 0);
  const screen = await startShown();
  screen.type("\u001b[Bl");
  await see(screen, /Log of flood: it grows faster than can be read(.*\n)+ flooding/, "the newest of the flood");
  screen.type("e");
  await see(screen, / ─ Events/, "the events");
  await capsule.ctl(["workload", "delete", "flood"]);
  await see(screen, /2 of 2 running/, "the deletion");
  assert.doesNotMatch(screen.text, /^[> ] flood /m);
  screen.type("q");
  await assertRestored(screen, 0);
});

test("is drawn anew in another size, and says when a terminal is too small", async () => {
  const screen = await startShown();
  screen.resize(120, 40);
  await see(screen, /^ CPU .* MEM .* POOL .* NET /m, "four graphs beside each other");
  assert.match(screen.rows[39] ?? "", /^ q quit/);
  screen.resize(60, 20);
  await see(screen, /This terminal has 60 columns and 20 rows,\s+the dashboard needs 80 and 24/, "what is needed");
  screen.resize(80, 24);
  await see(screen, /^> evil +RUNNING/m, "everything again");
  assert.match(screen.rows[23] ?? "", /^ q quit/);
  screen.type("q");
  await assertRestored(screen, 0);
});

test("gives the terminal back on every way out", async () => {
  const crash = join(capsule.dir, "crash.cjs");
  writeFileSync(
    crash,
    'if (process.argv[1]?.endsWith("capsulectl.cjs")) process.on("SIGUSR2", () => { throw new Error("boom"); });',
  );
  const ways: readonly [string, number, (screen: Screen) => void][] = [
    ["ctrl-c", 0, (screen) => screen.type("\u0003")],
    ["SIGTERM", 143, (screen) => process.kill(childOf(screen.pid), "SIGTERM")],
    ["SIGINT", 130, (screen) => process.kill(childOf(screen.pid), "SIGINT")],
    ["SIGHUP", 129, (screen) => process.kill(childOf(screen.pid), "SIGHUP")],
    ["a crash", 1, (screen) => process.kill(childOf(screen.pid), "SIGUSR2")],
  ];
  for (const [name, code, leave] of ways) {
    const screen = await startShown([], { env: { NODE_OPTIONS: `--require ${crash}` } });
    assert.equal(screen.isAlternate, true, name);
    leave(screen);
    await assertRestored(screen, code);
    if (name === "a crash") assert.match(screen.text, /the dashboard failed: Error: boom/);
  }
});

test("ends when its terminal is gone", async () => {
  const screen = await startShown();
  const pid = childOf(screen.pid);
  screen.kill();
  await screen.ended;
  for (let i = 0; i < 100 && isAlive(pid); i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(isAlive(pid), false);
});

test("says why a capsule cannot be reached, and goes on by itself when it can", async () => {
  const screen = await startShown();
  await see(screen, aGraph, "a graph, in which there can be a gap");
  await capsule.killCapsuled();
  const down = await see(
    screen,
    /UNREACHABLE for \S+, .*: (the connection was lost|.*ECONNREFUSED)/,
    "that it is unreachable",
  );
  assert.match(down, /\[1 test!\]/);
  assert.match(down, /^> evil +RUNNING/m, "what was known stays");
  await capsule.startCapsuled().catch(() => undefined); // capsule-init may have been faster
  await see(screen, / {2}up {2}.*2 of 2 running/, "up again");
  await see(screen, /·/, "the gap");
  screen.type("l");
  await see(screen, /line [0-9]+/, "the log again");
  screen.type("q");
  await assertRestored(screen, 0);
});

test("tells a capsule that says nothing from one that is gone", async () => {
  const screen = await startShown();
  const pid = await capsule.capsuledPid();
  // Its kernel still takes what is sent to it.
  await capsule.host.exec(["kill", "-STOP", String(pid)]);
  try {
    await see(screen, / {2}SILENT for [0-9]+s/, "silent");
    await see(screen, /UNREACHABLE for \S+ .*: the connection was lost/, "given up");
    await see(screen, /UNREACHABLE for [0-9]+s, .*: no answer within 10 s/, "that it does not answer");
  } finally {
    await capsule.host.exec(["kill", "-CONT", String(pid)]);
  }
  await see(screen, / {2}up {2}.*2 of 2 running/, "up again");
  screen.type("q");
  await assertRestored(screen, 0);
});

test("shows several capsules, also one that is away", async () => {
  addAway();
  const screen = await startShown(["--capsule", "test,away"]);
  assert.match(screen.rows[0] ?? "", /\[1 test\] 2 away!/);
  screen.type("0");
  await see(screen, /^> 1 test .*[0-9]+% .*2\/2 {2}up\s+2 away .*DOWN \S+: connect EC/m, "both");
  screen.type("\t");
  await see(
    screen,
    /\[2 away!\].*\n 127\.0\.0\.1:1 {2}UNREACHABLE for \S+ again in [0-9]+s: connect ECONNREFUSED/,
    "why",
  );
  screen.type("1");
  await see(screen, /^> evil +RUNNING/m, "the first again");
  screen.type("q");
  await assertRestored(screen, 0);
  const all = start();
  await see(all, /\[1 test\] 2 away!/, "all that are known, the current one in sight");
  all.type("q");
  await assertRestored(all, 0);
});

test("is plain text, once, where there is no terminal to draw on", async () => {
  addAway();
  const one = await capsule.try(["--capsule", "test", "dashboard"]);
  assert.equal(one.code, 0, one.stderr);
  assert.match(one.stdout, /^test {2}127\.0\.0\.1:[0-9]+ {2}up {2}/);
  assert.match(one.stdout, /^ evil +RUNNING +[0-9.]+% .*Running$/m);
  assert.match(one.stdout, /^Pool: +default .* of .*iB$/m);
  assert.match(one.stdout, / quiet Started: /);
  const both = await capsule.try(["dashboard"]);
  assert.equal(both.code, 1);
  assert.match(both.stdout, /^away {2}127\.0\.0\.1:1 {2}UNREACHABLE: connect ECONNREFUSED$/m);
  assert.match(both.stdout, /^ evil +RUNNING/m, "the other is shown all the same");
  for (const { stdout, stderr } of [one, both]) {
    assert.doesNotMatch(stdout, /(?!\n)\p{Cc}/u);
    assert.equal(stderr, "");
  }
  const dumb = start(["--capsule", "test"], { env: { TERM: "dumb" } });
  await see(dumb, /restored, ended with 0/, "the text");
  assert.equal(stripVTControlCharacters(dumb.written), dumb.written);
  assert.equal((await capsule.try(["dashboard", "-o", "json"])).code, 2);
  assert.equal((await capsule.try(["--capsule", "test,", "dashboard"])).code, 2);
  assert.equal((await capsule.try(["--capsule", "test,nobody", "dashboard"])).code, 3);
});

test("has colours unless NO_COLOR is set, and ASCII where the locale is not UTF-8", async () => {
  const coloured = await startShown(["--capsule", "test"]);
  coloured.type("q");
  await assertRestored(coloured, 0);
  assert.ok(coloured.written.includes("\u001b[32m"));
  const plain = await startShown(["--capsule", "test"], { env: { NO_COLOR: "1", LANG: "C" } });
  await see(plain, /[_.=+*#]{3}/, "a graph");
  plain.type("q");
  await assertRestored(plain, 0);
  assert.ok(!/\[[0-9;]*3[0-7]m/.test(plain.written));
  assert.doesNotMatch(plain.written, /[^\p{ASCII}]/u);
});

test("follows several capsules at once, and tells one that is not what it was", async () => {
  addContext("twin", {});
  addContext("false", { fingerprint: "0".repeat(64) });
  const screen = await startShown(["--capsule", "test,twin,false"]);
  screen.type("0");
  await see(
    screen,
    /^> 1 test .*[0-9]+% .*2\/2 {2}up\s+2 twin .*[0-9]+% .*2\/2 {2}up\s+3 false .* DOWN/m,
    "both, and what is wrong",
  );
  screen.type("\u001b[B\r");
  await see(screen, /\[2 twin\](.*\n)+> evil +RUNNING/, "the second");
  screen.type("l");
  await see(screen, /line [0-9]+/, "a log of the second");
  screen.type("3");
  screen.resize(200, 30);
  await see(
    screen,
    /UNREACHABLE .* is not the capsule that you adopted: its fingerprint is/,
    "why the third is not shown",
  );
  screen.type("q");
  await assertRestored(screen, 0);
});

/** The port of "away" is nobody's. */
function addAway(): void {
  addContext("away", { host: "127.0.0.1:1" });
}

/** As the context of the capsule, but for what is given. */
function addContext(name: string, but: { readonly host?: string; readonly fingerprint?: string }): void {
  const path = join(capsule.configHome, "capsule/config.yaml");
  const config = JSON.parse(readFileSync(path, "utf8")) as { contexts: Record<string, object> };
  config.contexts[name] = { ...config.contexts["test"], ...but };
  writeFileSync(path, JSON.stringify(config));
}

/** The program that the shell runs. */
function childOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ")[0]);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
