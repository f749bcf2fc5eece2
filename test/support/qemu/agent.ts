import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { espOffset } from "../../../image/disk/layout.ts";
import { run } from "../../../image/run.ts";

/** Where the agent listens, inside the machine. */
export const agentPort = 50_010;
const filesDir = join(import.meta.dirname, "../../../image/files");

/** Adds an archive with the agent and its service to what GRUB loads. The slot and its initramfs stay as they are built. */
export async function addAgent(disk: string, dir: string): Promise<void> {
  const tree = join(dir, "extra.tree");
  const archive = join(dir, "extra.cpio");
  await mkdir(join(tree, "extra/usr/lib/capsule"), { recursive: true });
  await mkdir(join(tree, "extra/etc/capsule"), { recursive: true });
  await copyFile(join(import.meta.dirname, "agent.mjs"), join(tree, "extra/usr/lib/capsule/test-agent.mjs"));
  const init = JSON.parse(await readFile(join(filesDir, "etc/capsule/init.json"), "utf8")) as { services: unknown[] };
  init.services.unshift({ name: "test-agent", argv: ["/usr/bin/node", "/usr/lib/capsule/test-agent.mjs"] });
  await writeFile(join(tree, "extra/etc/capsule/init.json"), JSON.stringify(init));
  await run([
    "sh",
    "-ec",
    'cd "$1"; find . -mindepth 1 | cpio --quiet --create --format=newc --owner=0:0 >"$2"',
    "sh",
    tree,
    archive,
  ]);
  const esp = `${disk}@@${espOffset}`;
  const config = join(dir, "grub.cfg");
  await run(["mcopy", "-n", "-i", esp, "::/EFI/BOOT/grub.cfg", config]);
  const text = await readFile(config, "utf8");
  await writeFile(config, text.replace(/^( *if initrd [^;]*);/m, "$1 /capsule/extra;"));
  await run(["mcopy", "-o", "-i", esp, config, "::/EFI/BOOT/grub.cfg"]);
  await run(["mcopy", "-o", "-i", esp, archive, "::/capsule/extra"]);
  await rm(tree, { recursive: true });
}
