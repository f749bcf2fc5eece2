/**
 * What a workload sent, unpacked here in a directory of its own, made harmless and moved to its destination. A workload
 * is a stranger: it chooses every name, mode and link of what it sends, also of what it sent before.
 */
import { chmodSync, type Dirent, lstatSync, readdirSync, renameSync, rmSync, type Stats } from "node:fs";
import { join } from "node:path";
import { CliError, exitCode } from "./errors.ts";

const setIdBits = 0o6000;
const ownerAll = 0o700;

/** Directories that must be opened to their owner while they are moved: the mode of each, by its path in the tree. */
export type Modes = Map<string, number>;

/**
 * Takes the set-user-id and set-group-id bits off everything below `root`: the files are the caller's now, who may be
 * root. Throws CliError for a device, which would open hardware of this machine.
 */
export function disarm(root: string): Modes {
  const modes: Modes = new Map();
  const visit = (relative: string): void => {
    const path = join(root, relative);
    const stats = lstatSync(path);
    if (stats.isCharacterDevice() || stats.isBlockDevice()) {
      throw new CliError(`${relative} is a device node: nothing was copied. Copy what is beside it by name.`);
    }
    if (stats.isSymbolicLink()) return;
    const mode = stats.mode & 0o7777 & ~setIdBits;
    if (stats.isDirectory() && (mode & ownerAll) !== ownerAll) modes.set(relative, mode);
    const wanted = stats.isDirectory() ? mode | ownerAll : mode;
    if (wanted !== (stats.mode & 0o7777)) chmodSync(path, wanted);
    if (stats.isDirectory()) for (const name of readdirSync(path)) visit(join(relative, name));
  };
  for (const name of readdirSync(root)) visit(name);
  return modes;
}

/** Moves the only thing in `root` to `destination`, which is no directory: a file of that name is replaced. */
export function placeAs(root: string, destination: string, modes: Modes): void {
  const names = readdirSync(root);
  const [only] = names;
  if (names.length !== 1 || only === undefined)
    throw new CliError("the capsule sent something else than was asked for");
  if (lstatSync(join(root, only)).isDirectory() && look(destination) !== undefined)
    throw new CliError(`${destination} is there already, and is no directory`, exitCode.conflict);
  renameSync(join(root, only), destination);
  restore(modes, (relative) => join(destination, relative.slice(only.length)));
}

/**
 * Moves everything in `root` into the directory `destination`. Directories are merged, files replaced; a link in the
 * destination is never followed. Throws CliError before anything is moved when a directory and something else meet.
 */
export function placeInto(root: string, destination: string, modes: Modes): void {
  checkMerge(root, destination);
  merge(root, destination, "", modes);
  restore(modes, (relative) => join(destination, relative));
}

function checkMerge(from: string, to: string): void {
  for (const entry of entries(from)) {
    const target = join(to, entry.name);
    const there = look(target);
    if (there === undefined || (!entry.isDirectory() && !there.isDirectory())) continue;
    if (!entry.isDirectory()) throw new CliError(`${target} is a directory: nothing was copied`, exitCode.conflict);
    if (there.isSymbolicLink())
      throw new CliError(`${target} is a link, and a directory is to be copied there: remove it`, exitCode.conflict);
    if (!there.isDirectory())
      throw new CliError(`${target} is no directory, and one is to be copied there: remove it`, exitCode.conflict);
    checkMerge(join(from, entry.name), target);
  }
}

function merge(from: string, to: string, relative: string, modes: Modes): void {
  for (const entry of entries(from)) {
    const [source, target, below] = [join(from, entry.name), join(to, entry.name), join(relative, entry.name)];
    if (entry.isDirectory() && look(target)?.isDirectory() === true) {
      // One that was here keeps its mode.
      modes.delete(below);
      merge(source, target, below, modes);
    } else renameSync(source, target);
  }
}

/** Removes a tree, also directories that are closed to their owner. */
export function discard(path: string): void {
  const open = (directory: string): void => {
    chmodSync(directory, ownerAll);
    for (const entry of entries(directory)) if (entry.isDirectory()) open(join(directory, entry.name));
  };
  if (look(path)?.isDirectory() === true) open(path);
  rmSync(path, { recursive: true, force: true });
}

/** The deepest first: what is above may close the way. */
function restore(modes: Modes, pathOf: (relative: string) => string): void {
  for (const [relative, mode] of [...modes].reverse()) chmodSync(pathOf(relative), mode);
}

function look(path: string): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

function entries(directory: string): Dirent[] {
  return readdirSync(directory, { withFileTypes: true });
}
