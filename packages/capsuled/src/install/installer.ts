/**
 * Installs to one disk at a time. Invariants: nothing is written to any disk before `install` has checked its target; the
 * stick is only read; a disk that does not come to its end does not start, and is known as one (marker.ts).
 */
import type { KeyObject } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { CapsuleError } from "../errors.ts";
import { KeyedMutex } from "../mutex.ts";
import { checkStick, signedFiles } from "./as-built.ts";
import { type Contents, contentsOf, isBusy, readEvidence } from "./contents.ts";
import { comparePieces, copyPieces, type Digests } from "./copy.ts";
import { type Disk, readDisks } from "./disks.ts";
import type { MediumDisk } from "./medium.ts";
import { capsuleName, letGo, type Seed, type Seeded, seedPerm } from "./perm.ts";
import { piecesOf } from "./pieces.ts";
import { kernelPieces, makeStart, settleBootPartition } from "./start.ts";
import { takeOver } from "./table.ts";
import { checkedTarget, type Target, targetOf, type Wanted } from "./targets.ts";

export type InstallEvent =
  | { readonly kind: "progress"; readonly phase: string; readonly doneBytes: number; readonly totalBytes: number }
  | ({ readonly kind: "installed"; readonly path: string } & Seeded);

/** What became of this machine's disks in this boot. */
export type InstallState =
  | { readonly kind: "untouched" }
  /** Under way, or given up. */
  | { readonly kind: "unfinished"; readonly path: string }
  | { readonly kind: "installed"; readonly path: string };

const unreadable: Contents = { kind: "data", description: "unreadable" };
/** What is looked into is one at a time: the volumes of every capsule have the same names. */
const looking = "looking";
/** The kernel's nodes of new partitions come beside the answer to who made them; in milliseconds. */
const nodesMs = 10_000;

export class Installer {
  readonly #medium: MediumDisk;
  readonly #keys: readonly KeyObject[];
  readonly #log: Logger;
  readonly #mutex = new KeyedMutex();
  #isInstalling = false;
  #isWriting = false;
  #state: InstallState = { kind: "untouched" };

  /** Keys that sign images. */
  constructor(medium: MediumDisk, keys: readonly KeyObject[], log: Logger) {
    this.#medium = medium;
    this.#keys = keys;
    this.#log = log;
  }

  get state(): InstallState {
    return this.#state;
  }

  async targets(): Promise<Target[]> {
    // A look into a capsule's disk takes what an install needs for its own.
    return await this.#mutex.run(looking, async () => {
      const targets: Target[] = [];
      for (const disk of await readDisks()) targets.push(await this.#look(disk));
      return targets;
    });
  }

  async #look(disk: Disk): Promise<Target> {
    const evidence = await readEvidence(disk).catch((error: unknown) => {
      // A disk that is dying must not keep the others from being seen.
      this.#log.warn({ err: error, disk: disk.path }, "a disk cannot be read");
    });
    if (evidence === undefined)
      return { ...targetOf(disk, unreadable, false, this.#medium), obstacle: "it cannot be read" };
    const contents = contentsOf(evidence);
    const target = targetOf(disk, contents, await isBusy(disk.path), this.#medium);
    const perm = disk.partitions.find(({ name }) => name === "PERM");
    const mayLook = contents.kind === "capsule" && target.obstacle === "" && !this.#isWriting;
    if (!mayLook || perm === undefined) return target;
    const name = await capsuleName(perm.path);
    return { ...target, contents: { ...contents, description: `${contents.description} ${name}`.trim() } };
  }

  /** Throws CapsuleError; before anything is written when the target is not one, or not given up. Ends with `installed`. */
  async *install(wanted: Wanted, seed: Seed, signal: AbortSignal): AsyncGenerator<InstallEvent> {
    if (this.#isInstalling)
      throw new CapsuleError("precondition", "An install is under way. Wait for its end, or end it there.", {
        reason: "INSTALL_UNDER_WAY",
      });
    this.#isInstalling = true;
    try {
      await this.#mutex.run(looking, letGo);
      const { disk } = checkedTarget(await this.targets(), wanted);
      const target = { path: disk.path, sizeBytes: disk.sizeBytes };
      const medium = this.#medium;
      const pieces = await piecesOf(medium, target);
      const signed = await signedFiles(medium, this.#keys);
      if (signed === undefined) this.#log.warn("install: the stick was updated, and what it holds is not checked");
      const totalBytes =
        (signed ?? []).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) +
        2 * pieces.reduce((sum, { from }) => sum + from.sizeBytes, 0);
      let doneBytes = 0;
      const at = (phase: string): InstallEvent => {
        signal.throwIfAborted();
        return { kind: "progress", phase, doneBytes, totalBytes };
      };
      const moving = async function* (phase: string, steps: AsyncIterable<number>): AsyncGenerator<InstallEvent> {
        for await (const bytes of steps) {
          doneBytes += bytes;
          yield at(phase);
        }
      };
      yield* moving("checking the stick", checkStick(medium, signed ?? []));
      this.#log.info({ disk: disk.path }, "install: begins");
      yield at("clearing the disk");
      this.#state = { kind: "unfinished", path: disk.path };
      // Who looks now has begun before, and is waited for.
      this.#isWriting = true;
      await this.#mutex.run(looking, async () => undefined);
      await takeOver(target, medium.slotBytes);
      await untilNodes(target.path);
      yield at("making the data partition");
      const seeded = await seedPerm(target.path, seed, (text) => this.#log.info(text));
      const digests: Digests = new Map();
      yield* moving("copying", copyPieces(pieces, digests));
      yield* moving("reading it back", comparePieces(pieces, digests));
      yield at("making it start");
      const kernels = await kernelPieces(medium, target);
      for await (const _ of copyPieces(kernels, digests));
      for await (const _ of comparePieces(kernels, digests));
      await settleBootPartition(medium, target);
      await makeStart(medium, target);
      this.#state = { kind: "installed", path: target.path };
      this.#log.info({ disk: target.path, ...seeded }, "install: done");
      yield { kind: "installed", path: target.path, ...seeded };
    } finally {
      this.#isInstalling = false;
      this.#isWriting = false;
    }
  }
}

async function untilNodes(path: string): Promise<void> {
  for (const deadline = Date.now() + nodesMs; ; await sleep(100)) {
    const disk = (await readDisks()).find((one) => one.path === path);
    if (disk?.partitions.some(({ name }) => name === "PERM") === true) return;
    if (Date.now() > deadline)
      throw new CapsuleError(
        "internal",
        `The partitions of ${path} did not come up. Restart the machine and try again.`,
      );
  }
}
