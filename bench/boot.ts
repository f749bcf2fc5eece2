/** How long a machine takes from power on to its API, and where the time goes. Prints a table; part of `make bench`. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { answersTls } from "../image/answers.ts";
import { diskPath } from "../image/image.ts";
import { QemuHost } from "../test/support/qemu/qemu-host.ts";

interface Boot {
  readonly [what: string]: number;
}

async function untilApi(port: number): Promise<void> {
  while (!(await answersTls(port))) await sleep(50);
}

/** Seconds since power on at which each step was reached. */
async function timesOf(host: QemuHost, poweredOn: number, apiAt: number): Promise<Boot> {
  const uptime = Number((await host.exec(["cut", "-d", " ", "-f", "1", "/proc/uptime"])).trim());
  const kernelAt = (Date.now() - poweredOn) / 1000 - uptime;
  const { kernelSeconds, initramfsSeconds } = JSON.parse(await host.exec(["cat", "/run/capsule/boot.json"])) as {
    kernelSeconds: number;
    initramfsSeconds: number;
  };
  const log = await host.exec(["cat", "/perm/log/init.log"]);
  // The machine's clock is this host's: QEMU's RTC follows it.
  const startedAt = (service: string): number => {
    const times = [...log.matchAll(new RegExp(`^(\\S+) ${service}: started`, "gm"))].map(([, time = ""]) =>
      Date.parse(time),
    );
    return ((times.at(-1) ?? Number.NaN) - poweredOn) / 1000;
  };
  return {
    "firmware and GRUB, to the kernel": kernelAt,
    "kernel, to /init": kernelAt + kernelSeconds,
    "initramfs, to capsule-init": kernelAt + initramfsSeconds,
    "disk ready, containerd started": startedAt("containerd"),
    "capsuled has its network, names are served": startedAt("dnsmasq"),
    "API answers": (apiAt - poweredOn) / 1000,
    "… of it after the kernel's own time to /init": (apiAt - poweredOn) / 1000 - kernelAt - kernelSeconds,
  };
}

const dir = mkdtempSync(join(tmpdir(), "capsule-boot-"));
const poweredOn = Date.now();
const host = await QemuHost.start({ dir: join(dir, "machine") });
try {
  await untilApi(host.port);
  const first = await timesOf(host, poweredOn, Date.now());
  await sleep(5_000);
  await host.machine.pressPower();
  await host.machine.untilOff(60_000);
  const again = Date.now();
  const restarted = host.startAgain();
  await Promise.all([restarted, untilApi(host.port)]);
  const second = await timesOf(host, again, Date.now());
  await sleep(10_000);
  const memory = /^Mem:\s+(\d+)\s+(\d+)/m.exec(await host.exec(["free", "-m"]));
  const lines = Object.keys(first).map(
    (what) => `| ${what} | ${first[what]?.toFixed(1)} s | ${second[what]?.toFixed(1)} s |`,
  );
  console.log(
    [
      "",
      `Boot, ${host.machine.options.kvm ? "KVM" : "TCG"}, 2 processors:`,
      "",
      "| seconds since power on | first boot | second |",
      "| --- | --- | --- |",
    ]
      .concat(lines, "", `Memory in use after boot, with the tests' agent: ${memory?.[2]} MB of ${memory?.[1]} MB.`)
      .concat(`Disk image in use: ${Math.round((statSync(diskPath).blocks * 512) / 1e6)} MB.`)
      .join("\n"),
  );
} finally {
  await host.stop();
  rmSync(dir, { recursive: true, force: true });
}
