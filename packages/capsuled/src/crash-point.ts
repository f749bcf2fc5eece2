/**
 * Where a crash leaves something behind: after every effect on disks, mounts and the store there is a call of `mayCrash`.
 * The tests of crashes go through all of them one by one: they write a number to a file of the capsule (nobody but its
 * owner on the machine can), and so many of these places from then on capsuled ends as by SIGKILL, or the machine as by its
 * reset button, with `machine` behind the number.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const armedFile = "/run/capsule/crash-after";
let left: number | undefined;
let isMachine = false;

export function mayCrash(): void {
  if (left === undefined) {
    if (!existsSync(armedFile)) return;
    const [count, what] = readFileSync(armedFile, "utf8").trim().split(" ");
    left = Number(count);
    isMachine = what === "machine";
    // The next capsuled is not to end too.
    rmSync(armedFile);
  }
  if (left-- > 0) return;
  // At once, with nothing written that the kernel still holds (admin-guide/sysrq.rst, "b").
  if (isMachine) writeFileSync("/proc/sysrq-trigger", "b");
  process.kill(process.pid, "SIGKILL");
}
