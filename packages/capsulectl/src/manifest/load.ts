import { createReadStream, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../errors.ts";
import { type Document, parseManifests } from "./parse.ts";

/** Of all files of one call. */
const maxBytes = 8 * 1024 * 1024;

/** The documents of files, directories (their *.yaml and *.yml, by name, not below) and "-" for stdin. */
export async function loadManifests(paths: readonly string[]): Promise<Document[]> {
  const files: { name: string; text: string }[] = [];
  let left = maxBytes;
  const add = async (name: string, source: AsyncIterable<Buffer>): Promise<void> => {
    const data = await read(name, source, left);
    left -= data.length;
    files.push({ name, text: data.toString("utf8") });
  };
  for (const path of paths) {
    if (path === "-") await add("stdin", process.stdin as AsyncIterable<Buffer>);
    else for (const file of filesOf(path)) await add(file, createReadStream(file) as AsyncIterable<Buffer>);
  }
  const documents = parseManifests(files);
  if (documents.length === 0) throw new CliError(`${paths.join(", ")}: there is no document in it`);
  return documents;
}

function filesOf(path: string): string[] {
  let isDirectory: boolean;
  try {
    isDirectory = statSync(path).isDirectory();
  } catch (error) {
    throw new CliError(`${path} cannot be read: ${(error as Error).message}`);
  }
  if (!isDirectory) return [path];
  const names = readdirSync(path)
    .filter((name) => /\.ya?ml$/.test(name))
    .sort();
  if (names.length === 0) throw new CliError(`${path} has no *.yaml or *.yml`);
  return names.map((name) => join(path, name));
}

/** No more than `limit` bytes are held, whatever the source has. */
async function read(name: string, source: AsyncIterable<Buffer>, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of source) {
      length += chunk.length;
      if (length > limit) throw new CliError(`${name}: the manifests of one call have at most ${maxBytes >> 20} MiB`);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw new CliError(`${name} cannot be read: ${(error as Error).message}`);
  }
  return Buffer.concat(chunks);
}
