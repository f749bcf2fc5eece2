import type { TestCapsule } from "./test-capsule.ts";

/** Makes a loop device on a file of the capsule; returns its path, `/dev/loopN`. Whoever has it detaches it. */
export async function attachLoop(capsule: TestCapsule, file: string): Promise<string> {
  // The capsule's /dev has the nodes that there were when it started, and another program may take a device between two calls.
  const script = `for try in 1 2 3 4 5; do
    device=$(losetup --find | cut -d " " -f 1)
    [ -e $device ] || mknod -m 600 $device b 7 \${device#/dev/loop}
    if losetup $device "$0"; then echo $device; exit; fi
  done; exit 1`;
  return (await capsule.host.exec(["sh", "-c", script, file])).trim();
}
