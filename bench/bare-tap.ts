/** The network of a bare microVM: the same kernel, initramfs and monitor on a TAP interface without bridge, firewall and jail. */
import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../image/run.ts";
import { configOf } from "../test/guest/config.ts";
import { GuestMachine, makeDisk, makeRootTree } from "../test/guest/machine.ts";

const MiB = 1024 ** 2;
const subnet = "10.255.77";

export interface BareTap {
  /** Fetches the file from the guest into nothing. */
  fetch(): Promise<void>;
  stop(): Promise<void>;
}

/** Boots one that serves `file` by HTTP. */
export async function bareTap(file: string): Promise<BareTap> {
  const netns = `bench-${process.pid}`;
  const dir = await mkdtemp(join(tmpdir(), "capsule-bare-tap-"));
  let machine: GuestMachine | undefined;
  const stop = async (): Promise<void> => {
    await machine?.kill();
    await run(["ip", "netns", "delete", netns]);
    await rm(dir, { recursive: true, force: true });
  };
  await run(["ip", "netns", "add", netns]);
  try {
    const tree = join(dir, "tree");
    await makeRootTree(tree);
    await copyFile(file, join(tree, "srv/file"));
    await makeDisk(join(dir, "root.raw"), 256, tree);
    machine = await GuestMachine.start({ dir: join(dir, "machine"), disks: [join(dir, "root.raw")], netns });
    const agent = await machine.dial();
    const inside = ["ip", "netns", "exec", netns];
    await run([...inside, "ip", "address", "add", `${subnet}.1/24`, "dev", "tap0"]);
    await run([...inside, "ip", "link", "set", "tap0", "up"]);
    await agent.client.startPayload({
      now: { seconds: BigInt(Math.floor(Date.now() / 1000)), nanos: 0 },
      hostname: "bare",
      network: { ipv4: `${subnet}.2/24`, gateway4: `${subnet}.1`, ipv6: "fd77::2/64", gateway6: "fd77::1", mtu: 0 },
      disks: [{}],
      files: [],
      ociConfig: configOf(["busybox", "httpd", "-f", "-p", "8080", "-h", "/srv"], 256 * MiB, false),
    });
    const url = `http://${subnet}.2:8080/file`;
    return { fetch: async () => void (await run([...inside, "wget", "-q", "-O", "/dev/null", url])), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
