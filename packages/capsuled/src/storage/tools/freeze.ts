/**
 * Brings a mounted filesystem to rest (fsfreeze(8)) for a moment. A frozen one holds every writer, so it must thaw
 * whatever becomes of capsuled: a process of its own freezes it and thaws it when its standard input ends, which a kill of
 * capsuled does too, or when its time is over.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { mayCrash } from "../../crash-point.ts";
import { CapsuleError } from "../../errors.ts";
import { runTool } from "../../tool.ts";

/** Longer than any snapshot takes, in seconds. */
const maxFrozenS = 20;

/**
 * What reads ends with the line, with the end of the input, or when its time is over. Freezing flushes, and the kernel
 * tells a write that failed long ago (the pool was full) to the first who flushes after it: another try succeeds.
 */
const script = `
tries=3
until fsfreeze --freeze "$1"; do
  tries=$((tries - 1))
  [ $tries -gt 0 ] || exit 1
  sleep 0.5
done
echo frozen
line=$(timeout ${maxFrozenS} head -n 1)
fsfreeze --unfreeze "$1"
[ "$line" = thaw ]
`;

/**
 * Calls `work` while the filesystem that is mounted there is frozen. Throws `unavailable` when it could not be frozen, or
 * thawed by itself before `work` was done: what `work` made then is not of one moment.
 */
export async function withFrozen<T>(mountPoint: string, work: () => Promise<T>): Promise<T> {
  // Of its own group: what ends capsuled with its group must not end the one that thaws.
  const child = spawn("sh", ["-c", script, "freeze", mountPoint], { stdio: ["pipe", "pipe", "pipe"], detached: true });
  const ended = new Promise<number>((resolve) => {
    child.once("error", () => resolve(127));
    child.once("close", (code) => resolve(code ?? 128));
  });
  child.stdin.on("error", () => undefined);
  let words = "";
  child.stderr.on("data", (data: Buffer) => {
    words = `${words}${data}`.slice(-500);
  });
  const lines = createInterface({ input: child.stdout });
  const frozen = new Promise<boolean>((resolve) => {
    lines.once("line", () => resolve(true));
    lines.once("close", () => resolve(false));
  });
  if (!(await frozen)) {
    await ended;
    throw notAtRest(mountPoint, `could not be brought to rest: ${words.trim().split("\n").at(-1)}`);
  }
  mayCrash();
  let result: T;
  try {
    result = await work();
  } catch (error) {
    child.stdin.end();
    await ended;
    throw error;
  }
  child.stdin.end("thaw\n");
  if ((await ended) !== 0) throw notAtRest(mountPoint, "did not stay at rest for long enough");
  return result;
}

/** Thaws what a kill of that process may have left frozen: does nothing to a filesystem that is not. */
export async function thaw(mountPoint: string): Promise<void> {
  await runTool(["fsfreeze", "--unfreeze", mountPoint]).catch(() => "");
}

function notAtRest(mountPoint: string, what: string): CapsuleError {
  return new CapsuleError("unavailable", `The filesystem at ${mountPoint} ${what}. Try again.`, {
    reason: "NOT_FROZEN",
  });
}
