/**
 * Users and groups by the names that an image gives them. Its /etc/passwd and /etc/group are read from its layers, the
 * topmost that has the file, each entered by chroot: no link of a hostile image leads out of it.
 */
import { spawn } from "node:child_process";
import { CapsuleError } from "../../errors.ts";
import type { User } from "./spec.ts";

export const root: User = { uid: 0, gid: 0, additionalGids: [], home: "/root" };

/** Account files beyond this are no honest ones. */
const maxFileBytes = 1024 * 1024;
const ID = /^[0-9]{1,10}$/;
const maxId = 2 ** 32 - 2;

/**
 * The user of "user", "uid", "user:group" or "uid:gid"; root for "". `readFile` gives a file of the image or undefined.
 * Throws `precondition` for a name that the image does not have.
 */
export async function resolveUser(
  user: string,
  readFile: (path: string) => Promise<string | undefined>,
): Promise<User> {
  if (user === "" || user === "0" || user === "root" || user === "0:0") return root;
  const [who = "", group] = user.split(":");
  const passwd = lines(await readFile("/etc/passwd"));
  const account = passwd.find(([name, , uid]) => name === who || (ID.test(who) && uid === who));
  if (account === undefined && !ID.test(who)) {
    throw new CapsuleError("precondition", `The image has no user "${who}" in its /etc/passwd.`, { reason: "NO_USER" });
  }
  const groups = lines(await readFile("/etc/group"));
  const name = account?.[0];
  const uid = checkedId(account?.[2] ?? who, user);
  const gid = group === undefined ? checkedId(account?.[3] ?? "0", user) : groupId(group, groups, user);
  // As login does, and only when no group was named.
  const member = groups.filter(([, , , members = ""]) => name !== undefined && members.split(",").includes(name));
  const additionalGids = group === undefined ? member.map(([, , id = ""]) => checkedId(id, user)) : [];
  return { uid, gid, additionalGids, home: account?.[5] === undefined || account[5] === "" ? "/" : account[5] };
}

function groupId(group: string, groups: readonly string[][], user: string): number {
  const found = groups.find(([name]) => name === group)?.[2];
  if (found !== undefined) return checkedId(found, user);
  if (ID.test(group)) return checkedId(group, user);
  throw new CapsuleError("precondition", `The image has no group "${group}" in its /etc/group.`, {
    reason: "NO_GROUP",
  });
}

function checkedId(text: string, user: string): number {
  const id = Number(text);
  if (!ID.test(text) || id > maxId) throw new CapsuleError("precondition", `"${user}" gives no possible id: ${text}`);
  return id;
}

function lines(file: string | undefined): string[][] {
  return (file ?? "").split("\n").flatMap((line) => (line === "" || line.startsWith("#") ? [] : [line.split(":")]));
}

/** Reads a file of an image from its layers, topmost first. Undefined when none has it as a file. */
export async function readFromLayers(layers: readonly string[], path: string): Promise<string | undefined> {
  for (const layer of layers) {
    const file = await readInside(layer, path);
    if (file !== undefined) return file;
  }
  return undefined;
}

/** The file's content comes as a tar: a header of 512 bytes with the size in octal at 124 (POSIX ustar), then the data. */
async function readInside(rootDir: string, path: string): Promise<string | undefined> {
  const child = spawn("/sbin/capsule-init", ["archive", "pack", "--root", rootDir, path], {
    stdio: ["ignore", "pipe", "ignore"],
    timeout: 10_000,
    killSignal: "SIGKILL",
  });
  const code = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxFileBytes) {
      child.kill("SIGKILL");
      throw new CapsuleError("precondition", `${path} of the image is larger than 1 MiB.`);
    }
    chunks.push(chunk);
  }
  if ((await code) !== 0) return undefined;
  const archive = Buffer.concat(chunks);
  const isFile = archive[156] === 0x30;
  if (archive.length < 512 || !isFile) return undefined;
  const bytes = Number.parseInt(archive.toString("latin1", 124, 135), 8);
  return archive.toString("utf8", 512, 512 + bytes);
}
