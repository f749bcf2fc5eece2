/**
 * Writes a bundle to a slot as it comes. Every byte of the archive is compared with what the signed manifest says of it;
 * a member is written up to its size and no further, and its digest is that of what was written.
 */
import { createHash, type Hash } from "node:crypto";
import { BundleError, type BundleFile, equal, mismatchOf, type Segment } from "@capsule/api/update-bundle.ts";
import { mayCrash } from "../crash-point.ts";
import type { OpenRegion } from "./region.ts";
import { filledUp, type SlotRegions } from "./slot-content.ts";

const bufferBytes = 1024 * 1024;

/** The member that is being written. */
interface Member {
  readonly file: BundleFile;
  readonly region: OpenRegion;
  readonly hash: Hash;
  writtenBytes: number;
}

/** Errors: BundleError when the bundle is not as its manifest says; the slot is not usable then. */
export class SlotWriter {
  readonly #segments: readonly Segment[];
  readonly #regions: SlotRegions;
  readonly #buffer = Buffer.allocUnsafe(bufferBytes);
  #buffered = 0;
  #member: Member | undefined;
  /** Bytes of a fixed segment, until it is whole. */
  #gathered: Uint8Array[] = [];
  #index = 0;
  /** Of the archive: what was taken. */
  #at = 0;

  constructor(segments: readonly Segment[], regions: SlotRegions) {
    this.#segments = segments;
    this.#regions = regions;
  }

  get receivedBytes(): number {
    return this.#at;
  }

  /** Goes on from an offset that `checkpoint` returned for the same bundle: what is on the disk is read again for its digest. */
  async resume(offset: number): Promise<void> {
    const index = this.#segments.findLastIndex(({ startBytes }) => startBytes <= offset);
    const segment = this.#segments[index];
    if (segment === undefined) return;
    [this.#index, this.#at] = [index, offset];
    if (segment.kind === "fixed" || offset === segment.startBytes) return;
    const member = await this.#begin(segment.file);
    while (member.writtenBytes < offset - segment.startBytes) {
      const size = Math.min(bufferBytes, offset - segment.startBytes - member.writtenBytes);
      member.hash.update(await member.region.read(member.writtenBytes, size));
      member.writtenBytes += size;
    }
  }

  async write(data: Uint8Array): Promise<void> {
    for (let rest = data; rest.length > 0; ) {
      const segment = this.#segments[this.#index];
      if (segment === undefined) throw new BundleError("BUNDLE_MEMBER_EXTRA", "the bundle goes on after its end");
      const length = segment.kind === "fixed" ? segment.bytes.length : segment.file.sizeBytes;
      const part = rest.subarray(0, segment.startBytes + length - this.#at);
      rest = rest.subarray(part.length);
      this.#at += part.length;
      const isWhole = this.#at === segment.startBytes + length;
      if (segment.kind === "fixed") this.#compare(segment.bytes, part, isWhole);
      else await this.#take(segment.file, part, isWhole);
      if (isWhole) this.#index++;
    }
  }

  /** Makes durable what was taken, and returns the offset from which it can go on. */
  async checkpoint(): Promise<number> {
    const segment = this.#segments[this.#index];
    await this.#flush();
    await this.#member?.region.sync();
    mayCrash();
    return segment?.kind === "fixed" ? segment.startBytes : this.#at;
  }

  async close(): Promise<void> {
    await this.#member?.region.close();
    this.#member = undefined;
  }

  #compare(expected: Uint8Array, part: Uint8Array, isWhole: boolean): void {
    // A view of what the caller uses again.
    this.#gathered.push(Uint8Array.from(part));
    if (!isWhole) return;
    const found = Buffer.concat(this.#gathered);
    this.#gathered = [];
    if (!equal(found, expected)) throw mismatchOf(expected, found);
  }

  async #take(file: BundleFile, data: Uint8Array, isWhole: boolean): Promise<void> {
    const member = this.#member ?? (await this.#begin(file));
    member.hash.update(data);
    for (let at = 0; at < data.length; ) {
      const size = Math.min(bufferBytes - this.#buffered, data.length - at);
      this.#buffer.set(data.subarray(at, at + size), this.#buffered);
      this.#buffered += size;
      at += size;
      if (this.#buffered === bufferBytes) await this.#flush();
    }
    if (!isWhole) return;
    await this.#flush();
    if (member.hash.digest("hex") !== file.sha256)
      throw new BundleError("BUNDLE_DAMAGED", `${file.name} has another content than the manifest says`);
    if (filledUp.has(file.name)) await this.#fillUp(member);
    await member.region.sync();
    mayCrash();
    await this.close();
  }

  async #begin(file: BundleFile): Promise<Member> {
    const region = await this.#regions[file.name].open("write");
    this.#member = { file, region, hash: createHash("sha256"), writtenBytes: 0 };
    return this.#member;
  }

  async #flush(): Promise<void> {
    if (this.#member === undefined || this.#buffered === 0) return;
    await this.#member.region.write(this.#buffer.subarray(0, this.#buffered), this.#member.writtenBytes);
    this.#member.writtenBytes += this.#buffered;
    this.#buffered = 0;
  }

  async #fillUp({ region, writtenBytes }: Member): Promise<void> {
    const zeros = Buffer.alloc(bufferBytes);
    for (let at = writtenBytes; at < region.region.sizeBytes; at += bufferBytes)
      await region.write(zeros.subarray(0, Math.min(bufferBytes, region.region.sizeBytes - at)), at);
  }
}
