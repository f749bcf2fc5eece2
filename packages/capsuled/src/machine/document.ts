/**
 * The document of the machine: kept in the store, and brought to the machine. One thing at a time is done to it.
 *
 * A document that changes links waits for its confirmation. Until then the one before is kept in the store, and put back when
 * the time is over, when its links cannot be made, when capsuled starts (so after a crash and after a power cut), or when it
 * is asked for. So a boot never comes up with links that nobody has confirmed.
 */
import type { MachineLink, MachineSpec } from "@capsule/api";
import type { Logger } from "pino";
import { CapsuleError, type FieldViolation, messageOf } from "../errors.ts";
import type { MachineRecord } from "../store/machine.ts";
import type { Store } from "../store/store.ts";
import type { Change } from "../workload/diff.ts";
import { changesLinks, diffMachines } from "./diff.ts";
import { type MachineFacts, validateMachine } from "./validate.ts";

/** A part of the machine that follows the document. May be applied at any time; throws CapsuleError when it cannot. */
export interface Section {
  /** For messages, such as "dns". */
  readonly name: string;
  apply(spec: MachineSpec): Promise<void>;
}

/** As LinkEngine. */
export interface Links {
  converge(links: readonly MachineLink[]): Promise<readonly string[]>;
  refusals(links: readonly MachineLink[]): Promise<FieldViolation[]>;
  remember(hasLinks: boolean): Promise<void>;
}

/** Time, as data for the tests. */
export interface Clock {
  now(): Date;
  /** Calls back once; the answer ends the wait. */
  after(ms: number, act: () => void): () => void;
}

export interface MachineDocumentOptions {
  readonly store: Store;
  readonly facts: () => MachineFacts;
  readonly links: Links;
  readonly sections: readonly Section[];
  /** A text that is another one when the machine's links may be others. */
  readonly glance: () => string;
  /** Told after each change that was carried out. */
  readonly changed: () => void;
  /** Told of each document that was taken back. */
  readonly reverted: (reverted: Reverted) => void;
  readonly log: Logger;
  readonly clock?: Clock;
}

export interface Reverted {
  readonly generation: number;
  readonly reason: string;
  readonly time: Date;
}

export interface Pending {
  readonly deadline: Date;
  /** Its links are made. */
  readonly inForce: boolean;
}

export interface MachineView extends MachineRecord {
  readonly pending: Pending | undefined;
  readonly reverted: Reverted | undefined;
  /** What could not be done of it. */
  readonly faults: readonly string[];
}

export interface ApplyRequest {
  readonly spec: MachineSpec;
  readonly dryRun: boolean;
  /** 0 for any. */
  readonly expectedGeneration: number;
  readonly confirmWithinMs: number;
}

export interface AppliedMachine {
  readonly changes: readonly Change[];
  readonly generation: number;
  readonly pending: Pending | undefined;
}

/** Between the answer to an apply and the change of links, so that the caller gets it. In milliseconds. */
const farewellMs = 200;
/** How often it is looked whether links have changed, and how often a step that failed is tried again; in milliseconds. */
const glanceMs = 1_000;
const retryMs = 10_000;
const revertedKey = "machine-reverted";

const realClock: Clock = {
  now: () => new Date(),
  after: (ms, act) => {
    const timer = setTimeout(act, ms).unref();
    return () => clearTimeout(timer);
  },
};

export class MachineDocument {
  readonly #options: MachineDocumentOptions;
  readonly #clock: Clock;
  #last: Promise<unknown> = Promise.resolve();
  #pending: { deadline: Date; inForce: boolean; readonly endWait: () => void } | undefined;
  #faults: readonly string[] = [];
  #seen = "";
  #retryAt: Date | undefined;
  #endGlances: (() => void) | undefined;
  /** It was taken back, and the store could not be told yet: it is as full as a disk can be. */
  #unwritten: string | undefined;
  #stopped = false;

  constructor(options: MachineDocumentOptions) {
    this.#options = options;
    this.#clock = options.clock ?? realClock;
  }

  /** What the machine follows. */
  get spec(): MachineSpec {
    const { spec, previous } = this.#options.store.machine.get();
    return this.#unwritten === undefined ? spec : (previous ?? spec);
  }

  view(): MachineView {
    const text = this.#options.store.meta.get(revertedKey);
    const reverted =
      text === undefined ? undefined : (JSON.parse(text) as { generation: number; reason: string; time: string });
    return {
      ...this.#options.store.machine.get(),
      pending: this.#pendingNow(),
      reverted: reverted && { ...reverted, time: new Date(reverted.time) },
      faults: this.#faults,
    };
  }

  /** Takes back what was not confirmed before this start, and makes the machine as the document says. Never throws. */
  async start(): Promise<void> {
    await this.#alone(async () => {
      if (this.#options.store.machine.get().previous !== undefined)
        this.#takeBack("the capsule was started again before it was confirmed");
      await this.#converge();
    });
    this.#glanceLater();
  }

  /** Ends what goes on by itself, and waits for what is being done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#endGlances?.();
    this.#pending?.endWait();
    await this.#last.catch(() => undefined);
  }

  /**
   * Durable when this resolves. Without a change of links it is carried out too; with one, right after the answer. Throws
   * `invalid` with every fault, `conflict` when the generation is another, `precondition` while another one waits.
   */
  async apply({ spec, dryRun, expectedGeneration, confirmWithinMs }: ApplyRequest): Promise<AppliedMachine> {
    return await this.#alone(async () => {
      const { store } = this.#options;
      const before = store.machine.get();
      if (expectedGeneration !== 0 && expectedGeneration !== before.generation)
        throw new CapsuleError(
          "conflict",
          `The machine's document is of generation ${before.generation}, not ${expectedGeneration}: somebody has changed it.`,
          { reason: "GENERATION_CHANGED" },
        );
      const violations = validateMachine(spec, this.#options.facts());
      refuse(violations);
      const changes = diffMachines(before.spec, spec, (host) => store.registries.get(host)?.password ?? "");
      const waits = changesLinks(changes);
      if (waits)
        refuse(
          (await this.#options.links.refusals(spec.links)).map((one) => ({ ...one, path: `machine.links${one.path}` })),
        );
      if (changes.length === 0) return { changes, generation: before.generation, pending: this.#pendingNow() };
      // Said to a trial too: it would not be taken.
      if (before.previous !== undefined) throw stillWaits(this.#pending?.deadline);
      if (dryRun) return { changes, generation: before.generation, pending: undefined };
      const { generation } = store.machine.set(spec, waits);
      if (!waits) {
        await this.#converge();
        return { changes, generation, pending: undefined };
      }
      const deadline = new Date(this.#clock.now().getTime() + confirmWithinMs);
      const endWait = this.#clock.after(confirmWithinMs, () => {
        this.#later(() => this.#undo(generation, `it was not confirmed within ${confirmWithinMs / 1_000} s`));
      });
      this.#pending = { deadline, inForce: false, endWait };
      this.#clock.after(farewellMs, () => this.#later(() => this.#tryLinks(generation)));
      return { changes, generation, pending: this.#pendingNow() };
    });
  }

  /** Keeps the document that waits. `generation`: 0 for any. Throws `precondition`, `conflict`. */
  async confirm(generation: number): Promise<number> {
    return await this.#alone(async () => {
      const record = this.#options.store.machine.get();
      if (this.#pending === undefined || record.previous === undefined) throw nothingWaits();
      if (generation !== 0 && generation !== record.generation)
        throw new CapsuleError("conflict", `Generation ${record.generation} waits, not ${generation}.`, {
          reason: "GENERATION_CHANGED",
        });
      if (!this.#pending.inForce)
        throw new CapsuleError("precondition", "Its links are not made yet: confirm it when they are.", {
          reason: "NOT_IN_FORCE",
        });
      this.#options.store.machine.confirm();
      this.#pending.endWait();
      this.#pending = undefined;
      this.#options.log.info({ generation: record.generation }, "the machine's document was confirmed");
      await this.#converge();
      return record.generation;
    });
  }

  /** Takes back the document that waits, and answers with its generation; the links follow. Throws `precondition`. */
  async revert(): Promise<number> {
    return await this.#alone(async () => {
      const { generation, previous } = this.#options.store.machine.get();
      if (previous === undefined) throw nothingWaits();
      this.#takeBack("an operator took it back");
      this.#clock.after(farewellMs, () => this.#later(() => this.#converge()));
      return generation;
    });
  }

  async #tryLinks(generation: number): Promise<void> {
    if (this.#pending === undefined || this.#options.store.machine.get().generation !== generation) return;
    const failed = await this.#converge();
    if (failed !== undefined) return await this.#undo(generation, failed);
    if (this.#pending !== undefined) this.#pending.inForce = true;
  }

  async #undo(generation: number, reason: string): Promise<void> {
    const record = this.#options.store.machine.get();
    if (record.previous === undefined || record.generation !== generation || this.#unwritten !== undefined) return;
    this.#takeBack(reason);
    await this.#converge();
  }

  /** The store has the one before; the machine follows by `#converge`. */
  #takeBack(reason: string): void {
    const { store, log, reverted: told } = this.#options;
    const { generation } = store.machine.get();
    const reverted = { generation, reason, time: this.#clock.now() };
    this.#pending?.endWait();
    this.#pending = undefined;
    try {
      store.transaction(() => {
        store.machine.revert();
        store.meta.set(revertedKey, JSON.stringify(reverted));
      });
      this.#unwritten = undefined;
    } catch (error) {
      // The links go back all the same: whoever is cut off cannot make room.
      log.error({ err: error }, "the store cannot take back the machine's document; it is tried again");
      this.#unwritten = reason;
      return;
    }
    log.warn({ generation, reason }, "the machine's document was taken back");
    told(reverted);
  }

  /** Everything as the document says. Answers with why the links could not be made, if so. */
  async #converge(): Promise<string | undefined> {
    const { links, sections, store, log, changed, glance } = this.#options;
    const { spec } = this;
    const faults: string[] = [];
    let failed: string | undefined;
    for (const section of sections) {
      await section.apply(spec).catch((error: unknown) => {
        log.error({ err: error, section: section.name }, "a section of the machine's document was not applied");
        faults.push(`${section.name}: ${messageOf(error)}`);
      });
    }
    try {
      faults.push(...(await links.converge(spec.links)));
      if (store.machine.get().previous === undefined) await links.remember(spec.links.length > 0);
    } catch (error) {
      log.error({ err: error }, "the links are not as the machine's document says");
      failed = messageOf(error);
      faults.push(`links: ${failed}`);
    }
    this.#faults = faults;
    // What failed may be possible later, and nothing may tell when.
    const isRetried = failed !== undefined || faults.length > 0 || this.#unwritten !== undefined;
    this.#retryAt = isRetried ? new Date(this.#clock.now().getTime() + retryMs) : undefined;
    this.#seen = glance();
    changed();
    return failed;
  }

  #glanceLater(): void {
    if (this.#stopped) return;
    this.#endGlances = this.#clock.after(glanceMs, () => {
      this.#later(async () => await this.#look()).finally(() => this.#glanceLater());
    });
  }

  /** A link that appears is set up, and one that somebody has changed is set right. */
  async #look(): Promise<void> {
    if (this.#pending !== undefined && !this.#pending.inForce) return;
    if (this.#unwritten !== undefined) this.#takeBack(this.#unwritten);
    const isDue = this.#retryAt !== undefined && this.#retryAt <= this.#clock.now();
    const { links, dns } = this.spec;
    const mayHaveChanged = (links.length > 0 || dns !== undefined) && this.#options.glance() !== this.#seen;
    if (isDue || mayHaveChanged) await this.#converge();
  }

  #pendingNow(): Pending | undefined {
    return this.#pending && { deadline: this.#pending.deadline, inForce: this.#pending.inForce };
  }

  /** One after the other, in the order in which they came. */
  async #alone<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#last.then(work, work);
    this.#last = mine.catch(() => undefined);
    return await mine;
  }

  /** As `#alone`, of which nobody waits for the end. */
  async #later(work: () => Promise<unknown>): Promise<void> {
    await this.#alone(async () => {
      if (!this.#stopped) await work();
    }).catch((error: unknown) => {
      this.#options.log.error({ err: error }, "the machine's document was not carried out");
    });
  }
}

function refuse(violations: readonly FieldViolation[]): void {
  const [violation] = violations;
  if (violation === undefined) return;
  const more = violations.length === 1 ? "" : `, and ${violations.length - 1} more`;
  throw new CapsuleError("invalid", `${violation.path}: ${violation.description}${more}`, { violations });
}

function stillWaits(deadline: Date | undefined): CapsuleError {
  const until = deadline === undefined ? "" : `, until ${deadline.toISOString()}`;
  return new CapsuleError(
    "precondition",
    `Another document waits for its confirmation${until}: \`capsulectl machine confirm\` keeps it, \`capsulectl machine revert\` takes it back.`,
    { reason: "CONFIRMATION_PENDING" },
  );
}

function nothingWaits(): CapsuleError {
  return new CapsuleError("precondition", "No document waits for a confirmation: what is in force stays.", {
    reason: "NOTHING_PENDING",
  });
}
