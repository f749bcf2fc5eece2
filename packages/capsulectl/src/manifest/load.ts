import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { CliError } from "../errors.ts";
import { type Document, parseManifests } from "./parse.ts";

/** The documents of files, directories (their *.yaml and *.yml, by name, not below) and "-" for stdin. */
export async function loadManifests(paths: readonly string[]): Promise<Document[]> {
  const files: { name: string; text: string }[] = [];
  for (const path of paths) {
    if (path === "-") {
      files.push({ name: "stdin", text: await text(process.stdin) });
      continue;
    }
    for (const file of filesOf(path)) files.push({ name: file, text: read(file) });
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

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new CliError(`${path} cannot be read: ${(error as Error).message}`);
  }
}
