/** A capsule's disk in files, small, and bundles for it: for tests. */
import { execFileSync } from "node:child_process";
import { createHash, generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BundleHead,
  type BundleManifest,
  encodeManifest,
  type MemberName,
  memberNames,
  segmentsOf,
  sizeOfSegments,
} from "@capsule/api/update-bundle.ts";
import { pino } from "pino";
import type { SlotName } from "./boot-choice.ts";
import { editGrubenv, emptyGrubenv } from "./grubenv.ts";
import type { Health } from "./health.ts";
import { Region } from "./region.ts";
import { type SlotDisk, slotDisk } from "./slots.ts";
import { type Outcome, UpdateStateFile } from "./state.ts";
import { Updates, type UpdatesOptions } from "./updates.ts";

export const MiB = 1024 * 1024;
const bootFileBytes = 2 * MiB;
const slotBytes = 6 * MiB;
export const signer = generateKeyPairSync("ed25519");

export interface Bundle {
  readonly head: BundleHead;
  readonly manifest: BundleManifest;
  readonly bytes: Buffer;
  readonly contents: Readonly<Record<MemberName, Buffer>>;
}

export function aBundle(
  changes: Partial<BundleManifest> = {},
  sizes: Partial<Record<MemberName, number>> = {},
  key: KeyObject = signer.privateKey,
): Bundle {
  const contents = Object.fromEntries(
    memberNames.map((name, at) => [name, randomBytes(sizes[name] ?? (at + 1) * 700_001)]),
  ) as Record<MemberName, Buffer>;
  const files = memberNames.map((name) => ({
    name,
    sizeBytes: contents[name].length,
    sha256: createHash("sha256").update(contents[name]).digest("hex"),
  }));
  const manifest: BundleManifest = { format: 1, version: "2.0.0", architecture: "amd64", epoch: 5, files, ...changes };
  const encoded = Buffer.from(encodeManifest(manifest));
  const head = { manifest: encoded, signature: sign(null, encoded, key) };
  const segments = segmentsOf(head, manifest);
  const bytes = Buffer.alloc(sizeOfSegments(segments));
  for (const segment of segments)
    bytes.set(segment.kind === "fixed" ? segment.bytes : contents[segment.file.name], segment.startBytes);
  return { head, manifest, bytes, contents };
}

export const healthy: Health = {
  apiAnswers: true,
  storageIsReady: true,
  hasAddress: true,
  gateway: "10.0.2.2",
  workloads: [{ name: "web", isWanted: true, isRunning: true }],
};

/** The machine: what it keeps when its power is cut. */
export class TestDisk {
  readonly dir = mkdtempSync(join(tmpdir(), "capsule-update-"));
  readonly #boot = join(this.dir, "esp");
  readonly updateDir = join(this.dir, "perm/update");
  readonly databasePath = join(this.dir, "perm/state.db");
  boots = 0;
  reboots = 0;
  health: Health = healthy;
  uptimeMs = 0;
  outcomes: Outcome[] = [];

  constructor() {
    mkdirSync(join(this.dir, "perm"));
    writeFileSync(this.#boot, "");
    truncateSync(this.#boot, 48 * MiB);
    execFileSync("mkfs.vfat", ["-F", "32", "-s", "1", this.#boot], { stdio: "ignore" });
    execFileSync("mmd", ["-i", this.#boot, "::/capsule", "::/capsule/a", "::/capsule/b"]);
    const put = (name: string, content: Buffer): void => {
      writeFileSync(join(this.dir, "file"), content);
      execFileSync("mcopy", ["-i", this.#boot, join(this.dir, "file"), `::/capsule/${name}`]);
    };
    put("grubenv", editGrubenv(emptyGrubenv(), { capsule_slot: "a" }));
    for (const slot of ["a", "b"]) {
      // Left by an earlier version: an update must not leave the end of it.
      for (const name of ["vmlinuz", "initrd"]) put(`${slot}/${name}`, Buffer.alloc(bootFileBytes, slot));
      writeFileSync(join(this.dir, slot), Buffer.alloc(slotBytes, slot));
    }
  }

  remove(): void {
    rmSync(this.dir, { recursive: true });
  }

  async open(running: SlotName, isTrial: boolean): Promise<SlotDisk> {
    return await slotDisk({
      running,
      isTrial,
      bootPartition: new Region(this.#boot, [{ startBytes: 0, sizeBytes: 48 * MiB }]),
      partitionOf: async (slot) => new Region(join(this.dir, slot), [{ startBytes: 0, sizeBytes: slotBytes }]),
    });
  }

  /** What is in a slot, as firmware and kernel would read it. */
  contentOf(slot: SlotName, name: MemberName): Buffer {
    if (name === "root.squashfs") return readFileSync(join(this.dir, slot));
    return execFileSync("mtype", ["-i", this.#boot, `::/capsule/${slot}/${name}`], { maxBuffer: 8 * MiB });
  }

  everythingOf(slot: SlotName): string {
    const hash = createHash("sha256");
    for (const name of memberNames) hash.update(this.contentOf(slot, name));
    return hash.digest("hex");
  }

  /** As the boot loader does it (image/grub/grub.cfg): takes the try, then starts. */
  async boot(changes: Partial<UpdatesOptions> = {}): Promise<Updates> {
    const { boot } = await this.open("a", false);
    const { confirmed, trying, tries } = await boot.read();
    const isTrial = trying !== undefined && tries === 1;
    if (isTrial) {
      const grubenv = join(this.dir, "grubenv");
      execFileSync("mcopy", ["-o", "-i", this.#boot, "::/capsule/grubenv", grubenv]);
      execFileSync("grub-editenv", [grubenv, "set", "capsule_tries=0"]);
      // In place, as GRUB does.
      const block = readFileSync(grubenv);
      const disk = readFileSync(this.#boot);
      const at = disk.indexOf("# GRUB Environment Block\n");
      disk.set(block, at);
      writeFileSync(this.#boot, disk);
    }
    this.boots++;
    this.uptimeMs = 0;
    return await this.start(isTrial ? trying : confirmed, isTrial, changes);
  }

  /** A start of capsuled on a machine that runs. */
  async start(running: SlotName, isTrial: boolean, changes: Partial<UpdatesOptions> = {}): Promise<Updates> {
    const file = await UpdateStateFile.open(this.updateDir);
    const updates = await Updates.open({
      disk: await this.open(running, isTrial),
      file,
      dir: this.updateDir,
      databasePath: this.databasePath,
      image: file.state.slots[running] ?? { version: "1.0.0", epoch: 4 },
      bootId: `boot-${this.boots}`,
      keys: [signer.publicKey],
      architecture: "amd64",
      uptimeMs: () => this.uptimeMs,
      log: pino({ level: "silent" }),
      ...changes,
    });
    updates.start({
      observe: async () => this.health,
      confirmed: async () => undefined,
      reboot: async () => void this.reboots++,
      ended: (outcome) => this.outcomes.push(outcome),
    });
    return updates;
  }
}

/** A bundle's bytes as a call brings them. */
export async function* inChunks(bytes: Buffer, size = 100_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
