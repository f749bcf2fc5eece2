import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { cacheDir } from "../paths.ts";
import { buildQemu } from "./program.ts";

const deadlineMs = 8_000;

/**
 * Whether KVM runs an ordinary kernel here: found by booting one until it speaks, never by /dev/kvm alone, which also
 * opens where stock kernels spin for ever (nested, PVM). Remembered until the host boots again.
 */
export async function kvmWorks(vmlinuz: string): Promise<boolean> {
  if (!existsSync("/dev/kvm")) return false;
  const bootId = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  const memory = join(cacheDir, "kvm-probe.json");
  const known = JSON.parse(await readFile(memory, "utf8").catch(() => "{}")) as { bootId?: string; works?: boolean };
  if (known.bootId === bootId && known.works !== undefined) return known.works;
  const works = await probe(vmlinuz);
  await mkdir(cacheDir, { recursive: true });
  await writeFile(memory, JSON.stringify({ bootId, works }));
  return works;
}

async function probe(vmlinuz: string): Promise<boolean> {
  const [program = "", ...own] = (await buildQemu()).argv;
  const machine = ["-M", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-display", "none", "-serial", "stdio"];
  const child = spawn(
    program,
    [...own, ...machine, "-no-reboot", "-kernel", vmlinuz, "-append", "console=ttyS0 panic=-1"],
    { stdio: ["ignore", "pipe", "ignore"], timeout: deadlineMs, killSignal: "SIGKILL" },
  );
  let said = "";
  child.stdout.on("data", (data: Buffer) => {
    said += data.toString("latin1");
    // It has no root filesystem: how far it gets is all that matters.
    if (said.includes("Kernel panic")) child.kill("SIGKILL");
  });
  await new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    child.once("close", () => resolve());
  });
  return said.includes("Kernel panic");
}
