/**
 * `/perm` of the new capsule, made as a first boot would make it, with who it is and whose it is. Until the disk starts,
 * nobody sees it; the first boot finds a capsule that is adopted.
 */
import { X509Certificate } from "node:crypto";
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Role } from "@capsule/api";
import { loadIdentity } from "../auth/identity.ts";
import { writeDurably } from "../durable.ts";
import { groupName } from "../storage/layout.ts";
import { permName } from "../storage/substrate/plan.ts";
import { makeVolumes, mountPermAt, permDevice, type Say } from "../storage/substrate/substrate.ts";
import { Lvm } from "../storage/tools/lvm.ts";
import type { KeyRecord } from "../store/keys.ts";
import { Store } from "../store/store.ts";
import { runTool } from "../tool.ts";

export interface Seed {
  /** Of the operator; the first one of the capsule. */
  readonly key: Pick<KeyRecord, "id" | "name" | "publicKey">;
  /** Empty: one from its network card, as at any first boot. */
  readonly hostname: string;
}

export interface Seeded {
  readonly capsuleId: string;
  readonly fingerprint: string;
}

const mountDir = "/run/capsule/install/perm";
const checkTimeoutMs = 10 * 60_000;

/** The partition PERM must be blank. When it resolves all is on the disk and nothing is in use any more. */
export async function seedPerm(disk: string, seed: Seed, say: Say): Promise<Seeded> {
  try {
    await makeVolumes({ disk }, say, "perm");
    await mkdir(mountDir, { recursive: true });
    await mountPermAt(mountDir);
    const seeded = await writeSeed(mountDir, seed);
    await runTool(["umount", mountDir]);
    await runTool(["blockdev", "--flushbufs", permDevice]);
    // Read from the disk, and changed in nothing (e2fsck(8)).
    await runTool(["e2fsck", "-f", "-n", permDevice], "", checkTimeoutMs);
    return seeded;
  } finally {
    await letGo();
  }
}

/** Files of `/perm` at `dir`. */
export async function writeSeed(dir: string, { key, hostname }: Seed): Promise<Seeded> {
  const store = new Store(join(dir, "state.db"));
  try {
    const { capsuleId, fingerprint } = await loadIdentity(store, join(dir, "tls"));
    store.keys.claim({ ...key, role: Role.ADMIN, createdAt: new Date() });
    if (hostname !== "") await writeDurably(join(dir, "capsule/hostname"), `${hostname}\n`, 0o644);
    return { capsuleId, fingerprint };
  } finally {
    store.close();
  }
}

/**
 * What the capsule on a disk is called, such as `"nuc-1" (abc234)`; empty when it cannot be told. Nothing is changed: volume
 * and mount are read-only, and the journal is left as it is (ext4(5), noload).
 */
export async function capsuleName(partition: string): Promise<string> {
  try {
    await runTool(["modprobe", "-a", "dm_mod", "ext4"]);
    await new Lvm(partition).activateReadOnly(permName);
    await mkdir(mountDir, { recursive: true });
    await runTool(["mount", "-t", "ext4", "-o", "ro,noload,nosuid,nodev", permDevice, mountDir]);
    const [hostname, certificate] = await Promise.all(
      ["capsule/hostname", "tls/server.crt"].map((file) => readFile(join(mountDir, file), "utf8").catch(() => "")),
    );
    const id = certificate
      ? /CN=capsule-([a-z2-7]{6})$/m.exec(new X509Certificate(certificate).subject)?.[1]
      : undefined;
    const name = (hostname ?? "").trim().replaceAll(/[^a-z0-9-]/g, "");
    return [name === "" ? "" : `"${name}"`, id === undefined ? "" : `(${id})`].filter((part) => part !== "").join(" ");
  } catch {
    // Empty, damaged, or nothing that was ever started: it is a capsule's disk all the same.
    return "";
  } finally {
    await letGo();
  }
}

/** Ends what an install that was cut by the end of capsuled has left in use, or one that failed. An installer uses no volumes itself. */
export async function letGo(): Promise<void> {
  const mounts = await readFile("/proc/self/mounts", "utf8");
  if (mounts.split("\n").some((line) => line.split(" ")[1] === mountDir)) await runTool(["umount", mountDir]);
  const dir = "/sys/block";
  for (const name of await readdir(dir)) {
    const mapped = await readFile(join(dir, name, "dm/name"), "utf8").catch(() => "");
    if (mapped.trim() !== `${groupName}-${permName}`) continue;
    const [partition] = await readdir(join(dir, name, "slaves"));
    if (partition !== undefined) await new Lvm(`/dev/${partition}`).deactivate();
  }
}
