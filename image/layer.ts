/**
 * Makes the capsule's own layer above the Debian root filesystem: configuration, Node.js, capsuled and capsule-init.
 * It takes a second, so that a change of capsuled never rebuilds the root. `node image/layer.ts` prints its directory.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { chmod, copyFile, cp, link, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { cached } from "./cached.ts";
import { epoch } from "./epoch.ts";
import { firecrackerPath, firecrackerProgram } from "./firecracker.ts";
import { buildGuest } from "./guest/build.ts";
import { buildDir, cacheDir, repositoryRoot } from "./paths.ts";
import { run } from "./run.ts";
import { buildTools } from "./tools/build.ts";
import { trustedKeys } from "./update-key.ts";

const filesDir = join(import.meta.dirname, "files");
const architecture = process.arch === "arm64" ? "arm64" : "x64";

/** What goes into the layer: path in the capsule, file on this machine. */
const built = {
  "usr/bin/node": join(repositoryRoot, `node_modules/node-linux-${architecture}/bin/node`),
  "usr/sbin/capsule-init": join(repositoryRoot, "native/target/release/capsule-init"),
  "usr/lib/capsule/capsuled.mjs": join(buildDir, "bundle/capsuled.mjs"),
  "usr/lib/capsule/storage.mjs": join(buildDir, "bundle/storage.mjs"),
} as const;

/** In the capsule: the public keys whose bundles it takes (packages/capsuled/src/update/trust.ts). */
const updateKeysDir = "etc/capsule/update-keys";

/** In the capsule: the root of the tool image (packages/capsuled/src/system/debug). */
const toolsDir = "usr/lib/capsule/tools";

/** The same with what microVMs need. */
async function filesOfLayer(): Promise<Readonly<Record<string, string>>> {
  for (const from of Object.values(built))
    if (!existsSync(from)) throw new Error(`${from} is missing: run \`make build\``);
  const firecracker = await firecrackerProgram();
  const { kernel, initramfs } = await buildGuest();
  return {
    ...built,
    ...(firecracker === undefined ? {} : { [firecrackerPath]: firecracker.file }),
    "usr/lib/capsule/guest/vmlinux": kernel,
    "usr/lib/capsule/guest/initramfs": initramfs,
  };
}

/**
 * Ensures the layer is in the cache and returns its directory. A layer never changes once it has its name, because
 * running capsules have it mounted.
 * @throws {Error} when a program has not been built yet; the message names the command that builds it.
 */
export async function buildLayer(): Promise<string> {
  const version = await versionJson();
  const programs = await filesOfLayer();
  const keys = trustedKeys();
  const tools = await buildTools();
  const target = join(cacheDir, `layer-${await inputsHash(version + JSON.stringify(keys) + tools, programs)}`);
  return await cached(target, async (scratch) => {
    await cp(filesDir, scratch, { recursive: true, verbatimSymlinks: true });
    for (const [path, from] of Object.entries(programs)) {
      const to = join(scratch, path);
      await mkdir(join(to, ".."), { recursive: true });
      // A link costs nothing for a binary of 120 MB; npm replaces files and never writes into them.
      if (path === "usr/bin/node") await link(from, to).catch(() => copyFile(from, to));
      else await copyFile(from, to);
      if (path === firecrackerPath) await chmod(to, 0o755);
    }
    await mkdir(join(scratch, "usr/lib/capsule"), { recursive: true });
    await writeFile(join(scratch, "usr/lib/capsule/version.json"), version);
    // Links: nobody writes into either tree.
    await run(["cp", "-a", "--link", tools, join(scratch, toolsDir)]);
    await mkdir(join(scratch, updateKeysDir), { recursive: true });
    for (const [name, pem] of Object.entries(keys)) await writeFile(join(scratch, updateKeysDir, name), pem);
    return scratch;
  });
}

/** The version of this tree. */
export async function productVersion(): Promise<string> {
  const text = await readFile(join(repositoryRoot, "package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

async function versionJson(): Promise<string> {
  const version = await productVersion();
  const commit = await run(["git", "-C", repositoryRoot, "rev-parse", "--short=12", "HEAD"]).then(
    (text) => text.trim(),
    () => "unknown", // a source archive without its history
  );
  return `${JSON.stringify({ version, commit, epoch })}\n`;
}

async function inputsHash(facts: string, programs: Readonly<Record<string, string>>): Promise<string> {
  const hash = createHash("sha256").update(facts);
  hash.update(await readFile(import.meta.filename));
  for (const entry of (await readdir(filesDir, { recursive: true, withFileTypes: true })).sort(byPath)) {
    hash.update(`${join(entry.parentPath, entry.name).slice(filesDir.length)}\0`);
    if (entry.isFile()) hash.update(await readFile(join(entry.parentPath, entry.name)));
  }
  for (const from of Object.values(programs)) await pipeline(createReadStream(from), hash, { end: false });
  return hash.digest("hex").slice(0, 16);
}

function byPath(a: { parentPath: string; name: string }, b: { parentPath: string; name: string }): number {
  return join(a.parentPath, a.name) < join(b.parentPath, b.name) ? -1 : 1;
}

if (import.meta.main) console.log(await buildLayer());
