/**
 * The format of an update bundle (docs/updates.md), as the image builder, capsulectl and capsuled know it: a ustar archive
 * whose every byte outside of the members' content follows from the signed manifest. So a stream of it is checked as it
 * comes, nothing in it is guessed, and there is one archive for one manifest.
 */

/** The members behind manifest and signature, in this order: all of them, each once. */
export const memberNames = ["vmlinuz", "initrd", "root.squashfs"] as const;
export type MemberName = (typeof memberNames)[number];

export interface BundleFile {
  readonly name: MemberName;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

/** The text that is signed. */
export interface BundleManifest {
  readonly format: 1;
  readonly version: string;
  /** As Debian names it: "amd64" or "arm64". */
  readonly architecture: string;
  /** Never falls from one release to the next; older ones are refused (anti-rollback). */
  readonly epoch: number;
  /** In the order of memberNames. */
  readonly files: readonly BundleFile[];
}

/** What may be wrong with a bundle by itself; each has one cause. */
export type BundleFault =
  | "NOT_A_BUNDLE"
  | "BUNDLE_UNSIGNED"
  | "BUNDLE_TRUNCATED"
  | "BUNDLE_MEMBER_MISSING"
  | "BUNDLE_MEMBER_EXTRA"
  | "BUNDLE_DAMAGED";

export class BundleError extends Error {
  override readonly name = "BundleError";
  readonly reason: BundleFault;

  constructor(reason: BundleFault, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** A part of the archive, in the order of the archive: bytes that are known, or the content of a member. */
export type Segment =
  | { readonly kind: "fixed"; readonly startBytes: number; readonly bytes: Uint8Array }
  | { readonly kind: "content"; readonly startBytes: number; readonly file: BundleFile };

/** Manifest and signature, with which an archive begins. */
export interface BundleHead {
  readonly manifest: Uint8Array;
  readonly signature: Uint8Array;
}

/** The longest head that is read, in bytes. */
export const maxHeadBytes = 64 * 1024;
const blockBytes = 512;
const manifestName = "manifest.json";
const signatureName = "manifest.sig";
/** Of Ed25519. */
const signatureBytes = 64;
/** Larger ones are no slot of anybody's, and numbers above are not exact. */
const maxFileBytes = 64 * 1024 ** 3;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The one way to write a manifest. */
export function encodeManifest({ format, version, architecture, epoch, files }: BundleManifest): Uint8Array {
  const ordered = files.map(({ name, sizeBytes, sha256 }) => ({ name, sizeBytes, sha256 }));
  const text = JSON.stringify({ format, version, architecture, epoch, files: ordered }, undefined, 2);
  return encoder.encode(`${text}\n`);
}

/** Throws BundleError. To be called when the signature was found good, and not before. */
export function parseManifest(bytes: Uint8Array): BundleManifest {
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(bytes));
  } catch {
    throw new BundleError("NOT_A_BUNDLE", "the manifest is no JSON");
  }
  const manifest = value as BundleManifest;
  if (manifest === null || typeof manifest !== "object" || !Array.isArray(manifest.files))
    throw new BundleError("NOT_A_BUNDLE", "the manifest has no list of files");
  if (manifest.format !== 1)
    throw new BundleError(
      "NOT_A_BUNDLE",
      `the bundle has format ${String(manifest.format)}, and this version knows 1: update to a version in between first`,
    );
  if (typeof manifest.version !== "string" || !/^[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}$/.test(manifest.version))
    throw new BundleError("NOT_A_BUNDLE", "the manifest has no usable version");
  if (typeof manifest.architecture !== "string" || !/^[a-z0-9]{1,16}$/.test(manifest.architecture))
    throw new BundleError("NOT_A_BUNDLE", "the manifest has no architecture");
  if (!Number.isSafeInteger(manifest.epoch) || manifest.epoch < 0)
    throw new BundleError("NOT_A_BUNDLE", "the manifest has no epoch");
  checkFiles(manifest.files);
  const again = encodeManifest(manifest);
  if (!equal(again, bytes)) throw new BundleError("NOT_A_BUNDLE", "the manifest is not written as manifests are");
  return manifest;
}

function checkFiles(files: readonly unknown[]): void {
  const names: unknown[] = files.map((file) => (file as BundleFile | null)?.name);
  const isExtra = (name: unknown, at: number): boolean =>
    !memberNames.some((known) => known === name) || names.indexOf(name) !== at;
  const extra = names.findIndex(isExtra);
  if (extra !== -1)
    throw new BundleError(
      "BUNDLE_MEMBER_EXTRA",
      `the bundle has a member ${shown(names[extra])} too many: a bundle has ${memberNames.join(", ")}`,
    );
  const missing = memberNames.find((name) => !names.includes(name));
  if (missing !== undefined) throw new BundleError("BUNDLE_MEMBER_MISSING", `the bundle has no ${missing}`);
  for (const [at, file] of (files as readonly BundleFile[]).entries()) {
    if (file.name !== memberNames[at]) throw new BundleError("NOT_A_BUNDLE", "the members are not in their order");
    if (!Number.isSafeInteger(file.sizeBytes) || file.sizeBytes < 1 || file.sizeBytes > maxFileBytes)
      throw new BundleError("NOT_A_BUNDLE", `${file.name} has no usable size`);
    if (typeof file.sha256 !== "string" || !/^[0-9a-f]{64}$/.test(file.sha256))
      throw new BundleError("NOT_A_BUNDLE", `${file.name} has no digest`);
  }
}

/** Every byte of the archive: known, or whose content it is. */
export function segmentsOf({ manifest, signature }: BundleHead, { files }: BundleManifest): Segment[] {
  const segments: Segment[] = [];
  let at = 0;
  const fixed = (...parts: Uint8Array[]): void => {
    const bytes = concat(parts);
    segments.push({ kind: "fixed", startBytes: at, bytes });
    at += bytes.length;
  };
  fixed(
    ...[tarHeader(manifestName, manifest.length), manifest, paddingOf(manifest.length)],
    ...[tarHeader(signatureName, signature.length), signature, paddingOf(signature.length)],
  );
  for (const file of files) {
    fixed(tarHeader(file.name, file.sizeBytes));
    segments.push({ kind: "content", startBytes: at, file });
    at += file.sizeBytes;
    const padding = paddingOf(file.sizeBytes);
    if (padding.length > 0) fixed(padding);
  }
  // An archive ends with two empty blocks.
  fixed(new Uint8Array(2 * blockBytes));
  return segments;
}

export function sizeOfSegments(segments: readonly Segment[]): number {
  const last = segments.at(-1);
  if (last === undefined) return 0;
  return last.startBytes + (last.kind === "fixed" ? last.bytes.length : last.file.sizeBytes);
}

/** Takes manifest and signature from the first bytes of an archive: maxHeadBytes, or all of it. Throws BundleError. */
export function readHead(start: Uint8Array): BundleHead {
  const manifest = memberAt(start, 0, manifestName);
  if (manifest === undefined) throw new BundleError("NOT_A_BUNDLE", "this is no update bundle");
  const at = blockBytes + manifest.length + paddingOf(manifest.length).length;
  const signature = memberAt(start, at, signatureName);
  if (signature === undefined || signature.length !== signatureBytes)
    throw new BundleError("BUNDLE_UNSIGNED", "the bundle is not signed");
  return { manifest, signature };
}

/** The content of a member whose name is known and whose size is not; undefined when there is another thing. */
function memberAt(start: Uint8Array, at: number, name: string): Uint8Array | undefined {
  const header = start.subarray(at, at + blockBytes);
  if (header.length < blockBytes) {
    if (at === 0) return undefined;
    throw new BundleError("BUNDLE_TRUNCATED", `the bundle ends before ${name}`);
  }
  const size = Number.parseInt(decoder.decode(header.subarray(124, 135)), 8);
  if (!Number.isSafeInteger(size) || !equal(header, tarHeader(name, size))) return undefined;
  if (size > maxHeadBytes) throw new BundleError("NOT_A_BUNDLE", `${name} is too large to be one`);
  const content = start.subarray(at + blockBytes, at + blockBytes + size);
  if (content.length < size) throw new BundleError("BUNDLE_TRUNCATED", `the bundle ends within ${name}`);
  return content;
}

/** What is wrong where other bytes were found than those of a `fixed` segment. */
export function mismatchOf(expected: Uint8Array, found: Uint8Array): BundleError {
  const wanted = nameIn(expected);
  const name = nameIn(found);
  if (wanted === "")
    return name === "" || found.length < blockBytes
      ? new BundleError("BUNDLE_DAMAGED", "the bundle is damaged between its members")
      : new BundleError("BUNDLE_MEMBER_EXTRA", `the bundle has a member ${shown(name)} too many`);
  if (name === wanted)
    return new BundleError("BUNDLE_DAMAGED", `${wanted} is not in the bundle as the manifest tells of it`);
  if (name === "" || memberNames.some((known) => known === name))
    return new BundleError("BUNDLE_MEMBER_MISSING", `the bundle has no ${wanted}`);
  return new BundleError("BUNDLE_MEMBER_EXTRA", `the bundle has a member ${shown(name)} too many`);
}

/** The header of a regular file in a ustar archive (POSIX.1-2017, pax, "ustar Interchange Format"): no time, root's. */
export function tarHeader(name: string, sizeBytes: number): Uint8Array {
  const header = new Uint8Array(blockBytes);
  const put = (at: number, text: string): void => header.set(encoder.encode(text), at);
  const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, "0")}\0`;
  put(0, name);
  put(100, octal(0o644, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  // Eleven digits: 8 GiB. More is GNU's form: the highest bit, and the number in binary.
  if (sizeBytes < 8 ** 11) put(124, octal(sizeBytes, 11));
  else {
    const view = new DataView(header.buffer);
    view.setUint8(124, 0x80);
    view.setBigUint64(128, BigInt(sizeBytes));
  }
  put(136, octal(0, 11));
  put(148, "        ");
  put(156, "0");
  put(257, "ustar\u000000");
  const sum = header.reduce((total, byte) => total + byte, 0);
  put(148, `${sum.toString(8).padStart(6, "0")}\0 `);
  return header;
}

function nameIn(header: Uint8Array): string {
  const end = header.indexOf(0);
  return decoder.decode(header.subarray(0, Math.min(end === -1 ? 100 : end, 100)));
}

/** A name that anybody may have chosen. */
function shown(name: unknown): string {
  return JSON.stringify(String(name).slice(0, 64));
}

function paddingOf(sizeBytes: number): Uint8Array {
  return new Uint8Array((blockBytes - (sizeBytes % blockBytes)) % blockBytes);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}
