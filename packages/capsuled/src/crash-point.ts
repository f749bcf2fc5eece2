/**
 * Where a crash leaves something behind: after every effect on disks, mounts and the store there is a call of `mayCrash`.
 * The tests of crashes go through all of them one by one: they write a number to a file of the capsule (nobody but its
 * owner on the machine can), and capsuled ends as by SIGKILL at so many of these places from then on.
 */
import { existsSync, readFileSync, rmSync } from "node:fs";

const armedFile = "/run/capsule/crash-after";
let left: number | undefined;

export function mayCrash(): void {
  if (left === undefined) {
    if (!existsSync(armedFile)) return;
    left = Number(readFileSync(armedFile, "utf8"));
    // The next capsuled is not to end too.
    rmSync(armedFile);
  }
  if (left-- > 0) return;
  process.kill(process.pid, "SIGKILL");
}
