/** Which slot the boot loader takes (image/grub/grub.cfg reads and writes the same variables). */
import { mayCrash } from "../crash-point.ts";
import { CapsuleError } from "../errors.ts";
import { editGrubenv, grubenvBytes, readGrubenv } from "./grubenv.ts";
import type { Region } from "./region.ts";

export type SlotName = "a" | "b";

export interface BootChoice {
  /** What is started when nothing else is to be tried. */
  readonly confirmed: SlotName;
  /** What is to be tried, or was: the boot loader has taken the try when `tries` is 0. */
  readonly trying: SlotName | undefined;
  readonly tries: number;
}

const sectorBytes = 512;

export class BootEnvironment {
  readonly #region: Region;

  constructor(region: Region) {
    this.#region = region;
  }

  async read(): Promise<BootChoice> {
    const { capsule_slot, capsule_try, capsule_tries } = readGrubenv(await this.#block());
    return {
      confirmed: capsule_slot === "b" ? "b" : "a",
      trying: capsule_try === "a" || capsule_try === "b" ? capsule_try : undefined,
      tries: capsule_tries === "1" ? 1 : 0,
    };
  }

  /** The next boot, and only that, is one of this slot. */
  async stage(slot: SlotName): Promise<void> {
    await this.#change({ capsule_try: slot, capsule_tries: "1" });
  }

  /** Nothing but the confirmed slot is started. */
  async clear(): Promise<void> {
    await this.#change({ capsule_try: undefined, capsule_tries: undefined });
  }

  /** From now on this slot is the one. */
  async confirm(slot: SlotName): Promise<void> {
    await this.#change({ capsule_slot: slot, capsule_try: undefined, capsule_tries: undefined });
  }

  /** One sector, in place, and read back from the disk. */
  async #change(changes: Readonly<Record<string, string | undefined>>): Promise<void> {
    const block = await this.#block();
    const edited = editGrubenv(block, changes);
    if (edited.equals(block)) return;
    const region = await this.#region.open("write");
    try {
      await region.write(edited.subarray(0, sectorBytes), 0);
      await region.sync();
    } finally {
      await region.close();
    }
    mayCrash();
    await this.#region.forgetCached();
    if (!(await this.#block()).equals(edited))
      throw new CapsuleError(
        "internal",
        "The boot partition does not keep what is written to it: its disk is failing.",
      );
  }

  async #block(): Promise<Buffer> {
    return await this.#region.read(0, grubenvBytes);
  }
}
