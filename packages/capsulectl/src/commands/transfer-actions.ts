/**
 * Volumes to files and back. The file is written beside its place and moved there when it is whole; what a broken
 * connection has brought stays, and the rest is asked for.
 */
import { randomUUID } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type ExportVolumeRequestSchema,
  type ImportVolumeRequest,
  ImportVolumeRequestSchema,
  VolumeSchema,
} from "@capsule/api";
import { chunkBytes, documentFrame, framesOf, ImageFormatError } from "@capsule/api/volume-image.ts";
import { Code, ConnectError } from "@connectrpc/connect";
import { CliError } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { bytes, note, printDone, printMessage } from "../output.ts";
import { persistently } from "../persistently.ts";
import { Progress } from "../progress.ts";
import { reasonOf } from "../rpc-errors.ts";
import { type Capsule, followClock } from "../session.ts";
import { sizeOption } from "../size.ts";

const batchBytes = 256 * 1024;

export async function exportVolume(
  { capsule: chosen, format }: Globals,
  volume: string,
  file: string,
  { snapshot = "" }: { snapshot?: string },
): Promise<void> {
  const isFile = file !== "-";
  const scratch = `${file}.partial`;
  const out = isFile ? await open(scratch, "w", 0o600) : undefined;
  const progress = new Progress(volume);
  const state = { exportId: "", nextChunk: 0, isBegun: false, isWhole: false, written: 0 };
  try {
    await persistently(
      chosen,
      () => state.nextChunk * chunkBytes,
      async ({ volumes }) => {
        const { exportId, nextChunk } = state;
        // The frames of a snapshot are the same whatever export they are of: a capsule that restarted can go on with it.
        const request = { volume, snapshot, exportId, firstChunk: BigInt(nextChunk) };
        if (state.isWhole) return await hearEnd(volumes, request);
        let chunks = 0;
        let total = 0;
        for await (const { output } of volumes.exportVolume(request)) {
          if (output.case === "start") {
            state.exportId = output.value.exportId;
            [chunks, total] = [Number(output.value.chunks), Number(output.value.sizeBytes)];
            continue;
          }
          if (output.case !== "data") continue;
          const { data } = output.value;
          // A header that came before the connection broke comes again; it is written once.
          const isHeader = output.value.nextChunk === 0n;
          if (!isHeader || !state.isBegun) {
            await (out === undefined ? toStdout(data) : writeAll(out, data));
            state.written += data.length;
          }
          state.isBegun = true;
          state.isWhole = state.nextChunk === chunks && !isHeader;
          state.nextChunk = Number(output.value.nextChunk);
          progress.update(Math.min(state.nextChunk * chunkBytes, total), total, "exporting");
        }
        if (!state.isWhole) throw new ConnectError("the export ended before its end", Code.Unavailable);
      },
      (error) => {
        // With a snapshot the same frames can be had again, from another copy of it.
        if (snapshot === "" || reasonOf(error) !== "NO_EXPORT") return false;
        state.exportId = "";
        return true;
      },
    );
    if (out !== undefined) {
      await out.sync();
      await rename(scratch, file);
    }
    progress.end();
    note(`${bytes(state.written)} written`);
    if (isFile) await printDone(format, [{ kind: "volume", name: volume, action: `exported to ${file}` }]);
  } finally {
    progress.end();
    await out?.close();
    if (isFile) await rm(scratch, { force: true });
  }
}

/** The file is whole, and only the end of the last call was lost: the capsule keeps its copy until it has told that end. */
async function hearEnd(
  volumes: Capsule["volumes"],
  request: MessageInitShape<typeof ExportVolumeRequestSchema>,
): Promise<void> {
  try {
    const answers = volumes.exportVolume(request)[Symbol.asyncIterator]();
    while ((await answers.next()).done !== true);
  } catch (error) {
    if (reasonOf(error) === "NO_EXPORT") return;
    note(`${(error as Error).message}; the file is whole, and the capsule keeps its copy for ten minutes`);
  }
}

export async function importVolume(
  { capsule: chosen, format }: Globals,
  name: string,
  file: string,
  { size, pool = "" }: { size?: string; pool?: string },
): Promise<void> {
  const sizeBytes = size === undefined ? 0n : sizeOption(size);
  try {
    if (file !== "-") statSync(file);
  } catch (error) {
    throw new CliError(`${file} cannot be read: ${(error as Error).message}`);
  }
  const importId = randomUUID();
  const progress = new Progress(file === "-" ? "stdin" : file);
  const state = { nextChunk: 0, isBegun: false };
  try {
    await persistently(
      chosen,
      () => state.nextChunk * chunkBytes,
      async (capsule) => {
        if (file === "-") await followClock(capsule.identity);
        if (state.isBegun) state.nextChunk = await nextChunk(capsule, importId);
        const firstChunk = state.nextChunk;
        let fault: ImageFormatError | undefined;
        const requests = async function* (): AsyncGenerator<ImportVolumeRequest> {
          const start = { spec: { name, sizeBytes, pool }, importId, firstChunk: BigInt(firstChunk) };
          yield create(ImportVolumeRequestSchema, { input: { case: "start", value: start } });
          state.isBegun = true;
          try {
            for await (const data of framesFrom(file, firstChunk, progress))
              yield create(ImportVolumeRequestSchema, { input: { case: "data", value: data } });
          } catch (error) {
            if (!(error instanceof ImageFormatError)) throw error;
            fault = error;
            yield create(ImportVolumeRequestSchema, { input: { case: "abandoned", value: true } });
          }
        };
        const { volume } = await capsule.volumes.importVolume(requests()).catch((error: unknown) => {
          throw fault ?? error;
        });
        progress.end();
        if ((format === "json" || format === "yaml") && volume !== undefined)
          return await printMessage(format, VolumeSchema, volume);
        await printDone(format, [{ kind: "volume", name, action: `imported from ${file === "-" ? "stdin" : file}` }]);
      },
      () => false,
      file !== "-",
    );
  } catch (error) {
    if (error instanceof ImageFormatError) throw new CliError(`${file}: ${error.message}. Nothing was imported.`);
    throw error;
  } finally {
    progress.end();
  }
}

/** Where the capsule wants the import to go on; at the beginning when it knows nothing of it. */
async function nextChunk({ volumes }: Capsule, importId: string): Promise<number> {
  try {
    return Number((await volumes.getImport({ importId })).nextChunk);
  } catch (error) {
    if (reasonOf(error) === "NO_IMPORT") return 0;
    throw error;
  }
}

/** The file's frames from a chunk on, several together. */
async function* framesFrom(file: string, firstChunk: number, progress: Progress): AsyncGenerator<Uint8Array> {
  const source = file === "-" ? process.stdin : createReadStream(file, { highWaterMark: batchBytes });
  let chunk = 0;
  let total = 0;
  let waiting: Uint8Array[] = [];
  let size = 0;
  for await (const frame of framesOf(source as AsyncIterable<Uint8Array>)) {
    if (frame.kind === "data" && chunk++ < firstChunk) continue;
    if (frame.kind === "document" && frame.document.format === "capsule-volume") {
      total = frame.document.sizeBytes;
      if (firstChunk > 0) continue;
    }
    const part = frame.kind === "data" ? frame.bytes : documentFrame(frame.document);
    waiting.push(part);
    size += part.length;
    if (size < batchBytes) continue;
    yield Buffer.concat(waiting);
    progress.update(Math.min(chunk * chunkBytes, total), total, "importing");
    [waiting, size] = [[], 0];
  }
  progress.update(total, total, "checking");
  if (waiting.length > 0) yield Buffer.concat(waiting);
}

async function writeAll(file: FileHandle, data: Uint8Array): Promise<void> {
  for (let done = 0; done < data.length; ) done += (await file.write(data, done)).bytesWritten;
}

async function toStdout(data: Uint8Array): Promise<void> {
  if (process.stdout.write(data)) return;
  await new Promise<void>((resolve) => process.stdout.once("drain", resolve));
}
