/** An update bundle as a file here: looked through before anything of it is sent. */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import {
  BundleError,
  type BundleHead,
  equal,
  maxHeadBytes,
  mismatchOf,
  parseManifest,
  readHead,
  segmentsOf,
  sizeOfSegments,
} from "@capsule/api/update-bundle.ts";
import { CliError } from "./errors.ts";

export interface OpenBundle {
  readonly file: FileHandle;
  readonly head: BundleHead;
  readonly sizeBytes: number;
}

/**
 * Opens a bundle and looks at everything of it but the members' content, which the capsule compares with the signed digests
 * as it comes. Who signed it only the capsule can judge. Throws CliError with the one reason.
 */
export async function openBundle(path: string): Promise<OpenBundle> {
  let file: FileHandle;
  try {
    file = await open(path);
  } catch (error) {
    throw new CliError(`${path} cannot be read: ${(error as Error).message}`);
  }
  try {
    const sizeBytes = (await file.stat()).size;
    const head = readHead(await bytesAt(file, 0, maxHeadBytes));
    const segments = segmentsOf(head, parseManifest(head.manifest));
    for (const segment of segments) {
      if (segment.kind !== "fixed") continue;
      const found = await bytesAt(file, segment.startBytes, segment.bytes.length);
      if (found.length < segment.bytes.length)
        throw new BundleError("BUNDLE_TRUNCATED", `it ends after ${sizeBytes} of ${sizeOfSegments(segments)} bytes`);
      if (!equal(found, segment.bytes)) throw mismatchOf(segment.bytes, found);
    }
    if (sizeBytes > sizeOfSegments(segments)) throw new BundleError("BUNDLE_MEMBER_EXTRA", "it goes on after its end");
    return { file, head, sizeBytes };
  } catch (error) {
    await file.close();
    if (!(error instanceof BundleError)) throw error;
    throw new CliError(`${path} is refused: ${error.message}. Nothing was sent.`, undefined, { cause: error });
  }
}

/** By which a capsule knows a bundle again. */
export function bundleKey({ manifest }: BundleHead): string {
  return createHash("sha256").update(manifest).digest("hex");
}

/** Fewer at the end of the file. */
async function bytesAt(file: FileHandle, at: number, size: number): Promise<Buffer> {
  const buffer = Buffer.alloc(size);
  let done = 0;
  while (done < size) {
    const { bytesRead } = await file.read(buffer, done, size - done, at + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}
