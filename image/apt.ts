import { existsSync, readFileSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { aptSourcesFor } from "./apt-sources.ts";
import { buildDir, cacheDir } from "./paths.ts";
import { run } from "./run.ts";

/** The Debian release that everything in a capsule comes from. */
export const suite = "trixie";

/** Names the file of apt sources to use in place of the host's own (deb822 form). */
const sourcesOverride = "CAPSULE_APT_SOURCES";

/**
 * The deb822 text that serves {@link suite}, derived from where this host gets its own packages:
 * a machine behind a private mirror keeps using it, and no host name stands in this repository.
 * @throws {Error} when the host has no Debian source; the message says how to give one.
 */
export async function suiteSources(): Promise<string> {
  const override = process.env[sourcesOverride];
  if (override !== undefined && override !== "") return await readFile(override, "utf8");
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "";
  const texts: { path: string; text: string }[] = [];
  for (const path of await sourceFiles()) texts.push({ path, text: await readFile(path, "utf8") });
  const sources = aptSourcesFor(texts, codename, suite);
  if (sources === "") {
    throw new Error(
      `no Debian source found in /etc/apt for release "${codename}"; set ${sourcesOverride} to a file in deb822 form that serves ${suite}`,
    );
  }
  return sources;
}

async function sourceFiles(): Promise<string[]> {
  const files = existsSync("/etc/apt/sources.list") ? ["/etc/apt/sources.list"] : [];
  const dir = "/etc/apt/sources.list.d";
  if (existsSync(dir)) {
    for (const name of (await readdir(dir)).sort()) {
      if (/\.(list|sources)$/.test(name)) files.push(join(dir, name));
    }
  }
  return files;
}

/**
 * apt's own options for a package index apart from the host's: nothing is installed on or read from the host's state.
 * The host's proxy and credentials stay in force, because /etc/apt/apt.conf.d is still read.
 */
async function aptOptions(): Promise<string[]> {
  const dir = join(cacheDir, "apt");
  await mkdir(join(dir, "lists/partial"), { recursive: true });
  await mkdir(join(dir, "archives/partial"), { recursive: true });
  const sources = join(dir, "capsule.sources");
  await writeFile(sources, await suiteSources());
  return [
    "-qq",
    "-o",
    `Dir::Etc::sourcelist=${sources}`,
    "-o",
    "Dir::Etc::sourceparts=/dev/null",
    "-o",
    "Dir::Etc::preferencesparts=/dev/null",
    "-o",
    `Dir::State::lists=${join(dir, "lists")}`,
    "-o",
    "Dir::State::status=/dev/null",
    "-o",
    `Dir::Cache=${dir}`,
    // Nobody reads a software centre's metadata here; it is a third of the download.
    "-o",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    "-o",
    "Acquire::Languages=none",
    // Root's own directories are not readable for _apt; the archives are checked by signature all the same.
    "-o",
    "APT::Sandbox::User=root",
  ];
}

/**
 * Downloads packages of {@link suite} (without their dependencies) into `dir`, with the signatures checked by apt.
 * A package that is there already is not fetched again. Returns the paths of the .deb files, in the order of `names`.
 */
export async function downloadPackages(names: readonly string[], dir: string): Promise<string[]> {
  await mkdir(dir, { recursive: true });
  const missing = [];
  for (const name of names) if ((await debOf(name, dir)) === undefined) missing.push(name);
  if (missing.length > 0) {
    const options = await aptOptions();
    const download = ["apt-get", ...options, "download", ...missing];
    try {
      await run(download, { cwd: dir });
    } catch {
      // No index yet, or an old one that names files the mirror no longer has.
      await run(["apt-get", ...options, "update"]);
      await run(download, { cwd: dir });
    }
  }
  return await Promise.all(
    names.map(async (name) => {
      const file = await debOf(name, dir);
      if (file === undefined) throw new Error(`apt-get downloaded ${name}, but no such file is in ${dir}`);
      return file;
    }),
  );
}

async function debOf(name: string, dir: string): Promise<string | undefined> {
  const file = (await readdir(dir)).find((entry) => entry.startsWith(`${name}_`) && entry.endsWith(".deb"));
  return file === undefined ? undefined : join(dir, file);
}

/** Unpacks the files of a .deb below `into`, running none of its scripts. */
export async function extractPackage(deb: string, into: string): Promise<void> {
  await mkdir(into, { recursive: true });
  await run(["dpkg-deb", "-x", deb, into]);
}

/**
 * Unpacks packages of {@link suite} with all that they depend on into `directory`, which is made: no script of a package
 * runs, and none needs to. `options` are further ones of mmdebstrap(1), whose output is in build/log/packages-FIRST.log.
 */
export async function extractSuite(
  names: readonly string[],
  directory: string,
  options: readonly string[] = [],
): Promise<void> {
  await mkdir(dirname(directory), { recursive: true });
  const sources = `${directory}.sources`;
  await writeFile(sources, await suiteSources());
  const aptOptions = [
    'APT::Install-Recommends "false"',
    'APT::Sandbox::User "root"',
    'Acquire::Languages "none"',
    'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false"',
  ];
  await run(
    [
      "mmdebstrap",
      "--mode=root",
      "--variant=extract",
      `--include=${names.join(",")}`,
      ...aptOptions.map((option) => `--aptopt=${option}`),
      ...options,
      suite,
      directory,
      sources,
    ],
    { logFile: join(buildDir, "log", `packages-${names[0]}.log`) },
  );
  await rm(sources);
}
