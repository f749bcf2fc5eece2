/**
 * `make qemu`: boots build/disk.raw in a virtual machine. Its disk is a copy (build/qemu/disk.raw) that stays until
 * PURGE=1 is given, with what it holds. HEADLESS=1 returns when the API answers; `make qemu-stop` ends it then.
 */
import { existsSync } from "node:fs";
import { mkdir, rm, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildImages } from "../../test/images/build.ts";
import { answersTls } from "../answers.ts";
import { diskPath } from "../image.ts";
import { buildKernel } from "../kernel.ts";
import { buildDir } from "../paths.ts";
import { kvmWorks } from "./kvm.ts";
import { copyDisk, Machine, type MachineOptions } from "./machine.ts";

const dir = join(buildDir, "qemu");
const disk = join(dir, "disk.raw");
/** How often the power button is pressed, and how long each is given; an emulated machine may be booting. */
const stopPresses = 12;
const pressPauseMs = 10_000;
const { PORT = "50000", HEADLESS, PURGE, FORWARD = "", MEMORY_MIB = "2048", EXTRA_DISK = "", TPM, BIOS } = process.env;

function port(text: string, name: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0 && value < 65_536) return value;
  throw new Error(`${name}=${text}: a port from 1 to 65535 is needed`);
}

async function up(): Promise<void> {
  const options = await optionsOf();
  if (Machine.find(dir, options) !== undefined) throw new Error("a machine runs already: `make qemu-stop` ends it");
  if (!existsSync(diskPath)) throw new Error("build/disk.raw is missing: run `make image`");
  await mkdir(dir, { recursive: true });
  if (PURGE === "1" || !existsSync(disk)) {
    await rm(disk, { force: true });
    await copyDisk(diskPath, disk);
  } else if ((await stat(disk)).birthtimeMs < (await stat(diskPath)).mtimeMs)
    console.error(
      "booting the disk from before, and what it holds: the image is a newer one. PURGE=1 starts with that",
    );
  await rm(join(dir, "serial.log"), { force: true });
  console.error(
    `booting with ${options.kvm ? "KVM" : "TCG (KVM does not run an ordinary kernel here)"}, serial log in ${join(dir, "serial.log")}`,
  );
  const machine = await Machine.start(options);
  if (HEADLESS !== "1") {
    while (machine.isAlive()) await sleep(200);
    return;
  }
  await untilAnswers(machine, port(PORT, "PORT"));
  const shown = await machine.untilConsole(/^Any key/m, 30_000);
  console.log(shown.slice(shown.lastIndexOf("\nCapsule: ")));
  const images = await buildImages();
  console.log(`The API answers. Try next:
  ./capsulectl adopt 127.0.0.1:${PORT} --name machine
  ./capsulectl image push ${relative(process.cwd(), images.get("hello") ?? "")}
  ./capsulectl apply -f examples/hello.yaml --wait
  curl http://127.0.0.1:8080/    (if it was started with FORWARD=8080)
  make qemu-stop`);
}

async function optionsOf(): Promise<MachineOptions> {
  const forwards = FORWARD.split(",").filter((text) => text !== "");
  return {
    dir,
    disks: [disk, ...EXTRA_DISK.split(",").filter((path) => path !== "")],
    forwards: [
      [port(PORT, "PORT"), 50_000],
      ...forwards.map((text) => {
        const [host = "", guest = host] = text.split(":");
        return [port(host, "FORWARD"), port(guest, "FORWARD")] as const;
      }),
    ],
    kvm: await kvmWorks((await buildKernel()).vmlinuz),
    memoryMib: Number(MEMORY_MIB),
    serial: HEADLESS === "1" ? "log" : "stdio",
    firmware: BIOS === "1" ? "bios" : "uefi",
    tpm: TPM === "1",
  };
}

async function untilAnswers(machine: Machine, at: number): Promise<void> {
  const deadline = Date.now() + 180_000;
  while (!(await answersTls(at))) {
    if (!machine.isAlive()) throw new Error(`the machine ended; see ${join(dir, "serial.log")}`);
    if (Date.now() > deadline) throw new Error(`no answer within 180 s; see ${join(dir, "serial.log")}`);
    await sleep(100);
  }
}

async function stop(): Promise<void> {
  const machine = Machine.find(dir, await optionsOf());
  if (machine === undefined) return console.log("no machine runs");
  // Again now and then: nobody watches the button while it boots.
  for (let pressed = 0; pressed < stopPresses; pressed++) {
    await machine.pressPower().catch(() => undefined);
    if (await machine.untilOff(pressPauseMs)) return console.log("stopped");
  }
  await machine.cutPower();
  console.log(`it did not go down within ${(stopPresses * pressPauseMs) / 1000} s, and was switched off`);
}

try {
  await (process.argv[2] === "stop" ? stop() : up());
} catch (error) {
  console.error(`make qemu: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
