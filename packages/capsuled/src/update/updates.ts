/**
 * The system's own versions. Invariants: the slot that runs is never written to; while a version is on trial the other slot
 * is the way back and is not written to either; before the first byte of a slot is changed neither the boot loader nor the
 * state knows of it, and they know again when it was written whole and read back. One push at a time, and nothing else
 * meanwhile.
 */
import { createHash, type KeyObject } from "node:crypto";
import { BundleError, type BundleHead, type BundleManifest, segmentsOf } from "@capsule/api/update-bundle.ts";
import { CapsuleError } from "../errors.ts";
import type { BootChoice, SlotName } from "./boot-choice.ts";
import { checkBundle } from "./check.ts";
import { beforeOf, type Health } from "./health.ts";
import { defaultConfirmWithinMs } from "./limits.ts";
import { confirmed, forgetDatabase, type SettleOptions, settle } from "./settle.ts";
import { readBack } from "./slot-content.ts";
import { SlotWriter } from "./slot-writer.ts";
import { otherSlot, type SlotDisk } from "./slots.ts";
import type { Outcome, Pending, PushRecord, SlotRecord, UpdateState } from "./state.ts";
import { Trial } from "./trial.ts";

/** How much of a push may have to be sent again after capsuled was killed, in bytes. */
const checkpointBytes = 32 * 1024 * 1024;

export interface StageOptions {
  readonly confirmWithinMs: number;
  readonly autoConfirmMs: number | undefined;
}

export interface PushStart extends StageOptions {
  readonly head: BundleHead;
  readonly sizeBytes: number;
  readonly offset: number;
  readonly allowDowngrade: boolean;
}

export interface UpdatesOptions extends SettleOptions {
  readonly keys: readonly KeyObject[];
  readonly architecture: string;
  uptimeMs(): number;
}

/** What a version on trial is asked about, and who is told of its end. */
export interface TrialHooks {
  observe(): Promise<Health>;
  /** Tells capsule-init that it need not watch any longer. */
  confirmed(): Promise<void>;
  reboot(): Promise<void>;
  ended(outcome: Outcome): void;
}

export interface UpdateStatus {
  readonly running: SlotName;
  readonly choice: BootChoice;
  readonly state: UpdateState;
  readonly push: (PushRecord & { readonly active: boolean }) | undefined;
  /** That is on trial or staged. */
  readonly pending: (SlotRecord & { readonly slot: SlotName } & StageOptions) | undefined;
  readonly onTrial: boolean;
  readonly faults: readonly string[];
}

export class Updates {
  readonly #options: UpdatesOptions;
  readonly #news: Outcome | undefined;
  #trial: Trial | undefined;
  #hooks: TrialHooks | undefined;
  #push:
    | { readonly bundle: string; readonly abort: AbortController; receivedBytes: number; ended: Promise<void> }
    | undefined;

  private constructor(options: UpdatesOptions, news: Outcome | undefined) {
    this.#options = options;
    this.#news = news;
  }

  /** Brings slots and database to what the last start means for them; before anything opens the database. */
  static async open(options: UpdatesOptions): Promise<Updates> {
    return new Updates(options, await settle(options));
  }

  get #disk(): SlotDisk {
    return this.#options.disk;
  }

  get #state(): UpdateState {
    return this.#options.file.state;
  }

  /** From now on a trial is watched. */
  start(hooks: TrialHooks): void {
    this.#hooks = hooks;
    if (this.#news !== undefined) hooks.ended(this.#news);
    if (!this.#disk.isTrial) return;
    const { confirmWithinMs = defaultConfirmWithinMs, autoConfirmMs, before } = this.#state.pending ?? {};
    this.#trial = new Trial({
      confirmWithinMs,
      autoConfirmMs,
      before: before ?? { hasAddress: false, gateway: undefined, running: [] },
      observe: () => hooks.observe(),
      uptimeMs: () => this.#options.uptimeMs(),
      decided: async (verdict) => {
        if (verdict.kind === "confirm") await this.#confirm();
        else await this.#giveUp(verdict.reason);
      },
      log: this.#options.log,
    });
    this.#trial.start();
  }

  async stop(): Promise<void> {
    this.#trial?.stop();
    this.#push?.abort.abort(new CapsuleError("unavailable", "capsuled stops."));
    await this.#push?.ended;
  }

  async status(): Promise<UpdateStatus> {
    const { state } = this.#options.file;
    const { push, pending } = state;
    const active = this.#push;
    const trialWithoutRecord =
      this.#trial !== undefined && pending === undefined
        ? {
            ...this.#options.image,
            slot: this.#disk.running,
            confirmWithinMs: defaultConfirmWithinMs,
            autoConfirmMs: undefined,
          }
        : undefined;
    return {
      running: this.#disk.running,
      choice: await this.#disk.boot.read(),
      state,
      push:
        push === undefined
          ? undefined
          : {
              ...push,
              receivedBytes: Math.max(push.receivedBytes, active?.receivedBytes ?? 0),
              active: active !== undefined,
            },
      pending: pending ?? trialWithoutRecord,
      onTrial: this.#trial !== undefined,
      faults: this.#trial?.faults.map(({ message }) => message) ?? [],
    };
  }

  /** Lines for those who look at the capsule: what needs a decision, and what did not go well. */
  warnings(): string[] {
    const { pending, last } = this.#state;
    if (this.#trial !== undefined) {
      const version = pending?.version ?? this.#options.image.version;
      return [
        `Version ${version} is on trial: \`capsulectl capsule update status\` tells more, \`… confirm\` keeps it`,
      ];
    }
    if (pending !== undefined) return [`Version ${pending.version} is tried with the next restart`];
    if (last?.kind === "rolledBack")
      return [`The update to ${last.version} was rolled back (${last.time}): ${last.reason}`];
    return [];
  }

  /**
   * Takes a bundle. Resolves when it is what is started next. Throws CapsuleError; what was sent stays, unless the bundle
   * is at fault, and the same bundle goes on from there.
   */
  async push(start: PushStart, data: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<Pending> {
    this.#refuseOnTrial("take a bundle");
    const regions = await this.#disk.regionsOf(otherSlot(this.#disk.running));
    const manifest = checkBundle(start.head, start.sizeBytes, {
      keys: this.#options.keys,
      architecture: this.#options.architecture,
      epochFloor: Math.max(this.#state.epochFloor, this.#options.image.epoch),
      allowDowngrade: start.allowDowngrade,
      room: {
        vmlinuz: regions.vmlinuz.sizeBytes,
        initrd: regions.initrd.sizeBytes,
        "root.squashfs": regions["root.squashfs"].sizeBytes,
      },
    });
    const bundle = createHash("sha256").update(start.head.manifest).digest("hex");
    const { aborted, release } = await this.#claim(bundle);
    try {
      const segments = segmentsOf(start.head, manifest);
      const writer = new SlotWriter(segments, regions);
      try {
        await this.#receive({ ...start, bundle, manifest }, writer, data, AbortSignal.any([signal, aborted]));
      } finally {
        await writer.close();
      }
      await readBack(manifest.files, regions);
      const slot = otherSlot(this.#disk.running);
      const { version, epoch } = manifest;
      await this.#options.file.set({ push: undefined, slots: { ...this.#state.slots, [slot]: { version, epoch } } });
      return await this.#stage(slot, start);
    } catch (error) {
      if (!(error instanceof BundleError)) throw error;
      // Nothing of it is of use.
      await this.#options.file.set({ push: undefined });
      const message = `The bundle is refused: ${error.message}. The slot that runs was not touched; the other one is empty now.`;
      throw new CapsuleError("invalid", message, { cause: error, reason: error.reason });
    } finally {
      release();
    }
  }

  /** Keeps the version on trial. Throws when there is none, and while it is not healthy. */
  async confirm(): Promise<SlotRecord> {
    if (this.#trial === undefined)
      throw new CapsuleError("precondition", "No update is waiting to be confirmed.", { reason: "NO_TRIAL" });
    const faults = await this.#trial.look();
    if (faults.length > 0) {
      const told = faults.map(({ message }) => message).join("; ");
      throw new CapsuleError(
        "precondition",
        `The version on trial is not confirmed, for it is not healthy: ${told}. Mend it (a workload that need not run can be stopped), or go back: \`capsulectl capsule update rollback\`.`,
        { reason: "NOT_HEALTHY" },
      );
    }
    return await this.#confirm();
  }

  /** Returns what is started next, and whether a restart is needed for it. */
  async rollback(): Promise<{ readonly version: string; readonly reboots: boolean }> {
    const { slots, pending } = this.#state;
    const { version: own } = this.#options.image;
    if (this.#trial !== undefined) {
      await this.#options.file.noteFailure("an operator went back");
      return { version: slots[otherSlot(this.#disk.running)]?.version ?? "", reboots: true };
    }
    this.#refuseDuringPush();
    if (pending !== undefined) {
      await this.#disk.boot.clear();
      const reason = "an operator took it back before it was started";
      const last = { kind: "cancelled", version: pending.version, reason, time: new Date().toISOString() } as const;
      await this.#options.file.set({ pending: undefined, last });
      return { version: own, reboots: false };
    }
    const other = slots[otherSlot(this.#disk.running)];
    if (other === undefined)
      throw new CapsuleError("precondition", "There is nothing to go back to: the other slot holds no whole version.", {
        reason: "NO_OTHER_VERSION",
      });
    await this.#stage(otherSlot(this.#disk.running), {
      confirmWithinMs: defaultConfirmWithinMs,
      autoConfirmMs: undefined,
    });
    return { version: other.version, reboots: true };
  }

  async #confirm(): Promise<SlotRecord> {
    const { disk, image, log } = this.#options;
    // What the boot loader knows counts; the rest follows at the next start if the power goes here.
    await disk.boot.confirm(disk.running);
    this.#trial?.stop();
    this.#trial = undefined;
    this.#hooks?.ended(await confirmed(this.#options, this.#state.pending ?? image));
    log.info({ slot: disk.running, version: image.version }, "the version on trial is confirmed");
    await this.#hooks?.confirmed();
    return image;
  }

  async #giveUp(reason: string): Promise<void> {
    this.#options.log.error({ reason }, "the version on trial is given up");
    // The boot loader has taken the try already: any restart leads to the version before.
    await this.#options.file.noteFailure(reason);
    await this.#hooks?.reboot();
  }

  /** The next boot is one of this slot: its record is durable before the boot loader hears of it. */
  async #stage(slot: SlotName, { confirmWithinMs, autoConfirmMs }: StageOptions): Promise<Pending> {
    const record = this.#state.slots[slot];
    if (record === undefined || this.#hooks === undefined) throw new Error(`slot ${slot} cannot be staged`);
    const { file, dir, disk, bootId } = this.#options;
    const before = beforeOf(await this.#hooks.observe());
    const from = disk.running;
    const pending: Pending = { ...record, slot, from, confirmWithinMs, autoConfirmMs, before, bootId };
    await file.forgetFailure();
    await forgetDatabase(dir, from);
    await file.set({ pending });
    await disk.boot.stage(slot);
    return pending;
  }

  async #receive(
    { bundle, manifest, sizeBytes, offset }: PushStart & { readonly bundle: string; readonly manifest: BundleManifest },
    writer: SlotWriter,
    data: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<void> {
    const record = await this.#begin(bundle, manifest, sizeBytes);
    if (offset > record.receivedBytes)
      throw new CapsuleError(
        "precondition",
        `The capsule has ${record.receivedBytes} bytes of this bundle, and what was sent begins at ${offset}.`,
        { reason: "OFFSET_AHEAD", metadata: { receivedBytes: String(record.receivedBytes) } },
      );
    await writer.resume(record.receivedBytes);
    let savedBytes = record.receivedBytes;
    const save = async (): Promise<void> => {
      savedBytes = await writer.checkpoint();
      await this.#options.file.set({ push: { ...record, receivedBytes: savedBytes } });
    };
    let skipBytes = writer.receivedBytes - offset;
    try {
      for await (const chunk of orAborted(data, signal)) {
        const part = chunk.subarray(Math.min(skipBytes, chunk.length));
        skipBytes -= chunk.length - part.length;
        await writer.write(part);
        if (this.#push !== undefined) this.#push.receivedBytes = writer.receivedBytes;
        if (writer.receivedBytes - savedBytes >= checkpointBytes) await save();
      }
      signal.throwIfAborted();
      if (writer.receivedBytes < sizeBytes)
        throw new CapsuleError(
          "unavailable",
          `The bundle was cut off after ${writer.receivedBytes} of ${sizeBytes} bytes; push it again, and it goes on there.`,
          { reason: "PUSH_CUT_OFF" },
        );
    } catch (error) {
      // What came is kept for another call, unless the bundle is at fault; a disk that fails is told by the first error.
      if (!(error instanceof BundleError)) await save().catch(() => undefined);
      throw error;
    }
  }

  /** The record of this bundle; a new one takes away all that is known of the slot. */
  async #begin(bundle: string, { version, epoch }: BundleManifest, totalBytes: number): Promise<PushRecord> {
    const slot = otherSlot(this.#disk.running);
    const { push, slots } = this.#state;
    if (push?.bundle === bundle && push.slot === slot) return push;
    const record = { bundle, slot, version, epoch, receivedBytes: 0, totalBytes };
    await this.#disk.boot.clear();
    // It is of what was in the slot.
    await forgetDatabase(this.#options.dir, slot);
    await this.#options.file.set({ push: record, pending: undefined, slots: { ...slots, [slot]: undefined } });
    return record;
  }

  /**
   * From here on until `release` the other slot is the caller's. A caller that comes back before its old connection was
   * found dead takes over from that.
   */
  async #claim(bundle: string): Promise<{ readonly aborted: AbortSignal; readonly release: () => void }> {
    while (this.#push !== undefined) {
      if (this.#push.bundle !== bundle) this.#refuseDuringPush();
      this.#push.abort.abort(new CapsuleError("unavailable", "The same bundle is being sent by another call now."));
      await this.#push.ended;
    }
    // Nobody else comes in between the look and this.
    const abort = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    this.#push = { bundle, abort, receivedBytes: 0, ended };
    const release = (): void => {
      this.#push = undefined;
      resolve();
    };
    return { aborted: abort.signal, release };
  }

  #refuseDuringPush(): void {
    if (this.#push === undefined) return;
    throw new CapsuleError("precondition", "Another bundle is being sent: wait for its end, or end that push.", {
      reason: "PUSH_UNDER_WAY",
    });
  }

  #refuseOnTrial(what: string): void {
    if (this.#trial === undefined) return;
    throw new CapsuleError(
      "precondition",
      `The capsule does not ${what} while a version is on trial, for the other slot is the way back: confirm it or roll it back first.`,
      { reason: "TRIAL_UNDER_WAY" },
    );
  }
}

/** The same, until the signal: a source that has nothing more to say would be waited for. */
async function* orAborted(source: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const iterator = source[Symbol.asyncIterator]();
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => undefined);
  const abort = (): void => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort);
  try {
    signal.throwIfAborted();
    for (;;) {
      const { value, done } = await Promise.race([iterator.next(), aborted.promise]);
      if (done === true) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", abort);
    // Not waited for: it may hang as the source does.
    void iterator.return?.()?.catch(() => undefined);
  }
}
