import { createReadStream, readFileSync, statSync } from "node:fs";
import { text } from "node:stream/consumers";
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  type Image,
  ImageSchema,
  ListImagesResponseSchema,
  ListRegistriesResponseSchema,
  PruneImagesResponseSchema,
  type PushImageRequest,
  PushImageRequestSchema,
  PushImageResponseSchema,
} from "@capsule/api";
import { durationOption } from "../duration.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { letBuffersGrow } from "../heap.ts";
import { age, bytes, type Column, type Done, print, printDone, printMessage, say } from "../output.ts";
import { Progress } from "../progress.ts";
import { followClock, withCapsule } from "../session.ts";

const chunkBytes = 512 * 1024;

const columns: Column<Image>[] = [
  { title: "NAME", value: ({ names }) => names.join(", ") },
  { title: "DIGEST", value: ({ digest }) => digest.slice(7, 19) },
  { title: "SIZE", value: ({ sizeBytes }) => bytes(sizeBytes), right: true },
  { title: "AGE", value: ({ createdAt }) => age(createdAt), right: true },
  { title: "USED BY", value: ({ usedBy }) => usedBy.join(", ") || "-" },
  { title: "PLATFORM", value: ({ platform }) => platform, wide: true },
];

export async function list({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ images }) => {
    const response = await images.listImages({});
    await print(format, ListImagesResponseSchema, response, response.images, columns);
  });
}

export async function push(
  { capsule: chosen, format }: Globals,
  file: string,
  { name = "" }: { name?: string },
): Promise<void> {
  let total = 0;
  try {
    if (file !== "-") total = statSync(file).size;
  } catch (error) {
    throw new CliError(`${file} cannot be read: ${(error as Error).message}`);
  }
  letBuffersGrow();
  const progress = new Progress(file === "-" ? "stdin" : file);
  try {
    await withCapsule(chosen, async ({ images, identity }) => {
      // Standard input is read once: a call that is refused for a wrong clock could not be made again.
      if (file === "-") await followClock(identity);
      const response = await images.pushImage(requests(file, name, total, progress));
      progress.end();
      if (format === "json" || format === "yaml") return await printMessage(format, PushImageResponseSchema, response);
      for (const image of response.images) say(lineOf(image));
    });
  } finally {
    progress.end();
    // Else an input that goes on would keep the program when the capsule is gone.
    if (file === "-") process.stdin.destroy();
  }
}

async function* requests(
  file: string,
  name: string,
  total: number,
  progress: Progress,
): AsyncGenerator<PushImageRequest> {
  yield create(PushImageRequestSchema, { input: { case: "start", value: { name } } });
  const source = file === "-" ? process.stdin : createReadStream(file, { highWaterMark: chunkBytes });
  let sent = 0;
  for await (const data of source as AsyncIterable<Buffer>) {
    yield create(PushImageRequestSchema, { input: { case: "data", value: data } });
    sent += data.length;
    progress.update(sent, total, "sending");
  }
  progress.update(sent, total, "unpacking");
}

function lineOf({ names, digest, sizeBytes }: Image): string {
  return `${names.join(", ")} ${digest} (${bytes(sizeBytes)})`;
}

export async function pull(
  { capsule: chosen, format }: Globals,
  reference: string,
  { username }: { username?: string },
): Promise<void> {
  const credentials =
    username === undefined ? undefined : { username, password: (await text(process.stdin)).trimEnd() };
  const image = await fetchImage(chosen, reference, credentials);
  if (format === "json" || format === "yaml") await printMessage(format, ImageSchema, image);
  else say(lineOf(image));
}

/** Has the capsule fetch an image, showing how far it is. */
export async function fetchImage(
  chosen: string | undefined,
  reference: string,
  credentials?: { readonly username: string; readonly password: string },
): Promise<Image> {
  const progress = new Progress(reference);
  try {
    return await withCapsule(chosen, async ({ images }) => {
      const request = { reference, ...(credentials === undefined ? {} : { credentials }) };
      for await (const { update } of images.pullImage(request)) {
        if (update.case === "image") return update.value;
        if (update.case === "progress")
          progress.update(Number(update.value.doneBytes), Number(update.value.totalBytes), update.value.step);
      }
      throw new CliError(`the capsule did not say what became of ${reference}`);
    });
  } finally {
    progress.end();
  }
}

export async function remove({ capsule: chosen, format }: Globals, references: string[]): Promise<void> {
  await withCapsule(chosen, async ({ images }) => {
    const done: Done[] = [];
    try {
      for (const name of references) {
        await images.removeImage({ reference: name });
        done.push({ kind: "image", name, action: "removed" });
      }
    } finally {
      // Also what was removed before one that could not be.
      await printDone(format, done);
    }
  });
}

export async function prune(
  { capsule: chosen, format }: Globals,
  { olderThan, dryRun = false }: { olderThan?: string; dryRun?: boolean },
): Promise<void> {
  const limit = olderThan === undefined ? {} : { olderThan: durationFromMs(durationOption(olderThan)) };
  await withCapsule(chosen, async ({ images }) => {
    const response = await images.pruneImages({ dryRun, ...limit });
    if (format === "json" || format === "yaml") return await printMessage(format, PruneImagesResponseSchema, response);
    for (const { names, digest } of response.removed)
      say(`${names.join(", ") || digest} ${dryRun ? "would be removed" : "removed"}`);
    say(`${bytes(response.freedBytes)} ${dryRun ? "would be freed" : "freed"}`);
  });
}

export async function listRegistries({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ images }) => {
    const response = await images.listRegistries({});
    await print(format, ListRegistriesResponseSchema, response, response.registries, [
      { title: "HOST", value: ({ host }) => host },
      {
        title: "USERNAME",
        value: ({ username, hasPassword }) =>
          username === "" ? "-" : `${username}${hasPassword ? "" : " (no password)"}`,
      },
      { title: "MIRRORS", value: ({ mirrors }) => mirrors.join(", ") || "-" },
      {
        title: "TLS",
        value: ({ plainHttp, caCertificate }) =>
          plainHttp ? "none" : caCertificate === "" ? "public" : "own authority",
      },
    ]);
  });
}

export async function setRegistry(
  { capsule: chosen, format }: Globals,
  host: string,
  options: { username?: string; passwordStdin?: boolean; mirror?: string[]; plainHttp?: boolean; ca?: string },
): Promise<void> {
  if (options.username !== undefined && options.passwordStdin !== true) {
    throw new CliError(
      "--username needs --password-stdin: a password on the command line would be for all to see",
      exitCode.usage,
    );
  }
  const password =
    options.passwordStdin === true ? { password: (await text(process.stdin)).replace(/\r?\n$/, "") } : {};
  const registry = {
    host,
    mirrors: options.mirror ?? [],
    username: options.username ?? "",
    plainHttp: options.plainHttp === true,
    caCertificate: options.ca === undefined ? "" : readFileSync(options.ca, "utf8"),
  };
  await withCapsule(chosen, async ({ images }) => {
    await images.setRegistry({ registry, ...password });
    await printDone(format, [{ kind: "registry", name: host, action: "set" }]);
  });
}

export async function removeRegistry({ capsule: chosen, format }: Globals, host: string): Promise<void> {
  await withCapsule(chosen, async ({ images }) => {
    await images.removeRegistry({ host });
    await printDone(format, [{ kind: "registry", name: host, action: "removed" }]);
  });
}
