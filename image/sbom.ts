/**
 * The bill of materials of the image, SPDX 2.3 in JSON (https://spdx.github.io/spdx-spec/v2.3/): the Debian packages that
 * files came from, the npm packages in the bundles, the crates, Node.js, the kernel. Packages are named by their purl.
 */
import { createHash } from "node:crypto";
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { suite } from "./apt.ts";
import { firecrackerProgram } from "./firecracker.ts";
import { fetchGuestKernel } from "./guest/kernel.ts";
import { type DebianPackage, packageListPath } from "./kept.ts";
import { buildKernel } from "./kernel.ts";
import { buildDir, repositoryRoot } from "./paths.ts";
import { buildRootfs } from "./rootfs.ts";
import { sourceDate } from "./source-date.ts";
import { buildTools } from "./tools/build.ts";

interface Component {
  /** `type:name`, unique. */
  readonly id: string;
  readonly name: string;
  readonly version: string;
  /** https://github.com/package-url/purl-spec. */
  readonly purl: string;
  /** SPDX expression; undefined when nobody stated one in a form that a program can read. */
  readonly license?: string;
  /** Of its one file, where that is all that is known of its version. */
  readonly sha256?: string;
}

export async function writeSbom(target: string): Promise<void> {
  const { version } = await readJson<{ version: string }>(join(repositoryRoot, "package.json"));
  const components = [
    ...(await debianComponents()),
    ...(await npmComponents()),
    ...(await crateComponents()),
    ...(await firecrackerComponents()),
  ];
  const text = `${JSON.stringify(documentOf(version, components), undefined, 1)}\n`;
  await writeFile(`${target}.new`, text);
  await rename(`${target}.new`, target);
}

/** Pure: the same components give the same bytes. */
export function documentOf(version: string, components: readonly Component[]): object {
  const packages = components.map(({ id, name, version: versionInfo, purl, license, sha256 }) => ({
    SPDXID: spdxId(id),
    name,
    versionInfo,
    downloadLocation: "NOASSERTION",
    filesAnalyzed: false,
    licenseConcluded: "NOASSERTION",
    licenseDeclared: license ?? "NOASSERTION",
    copyrightText: "NOASSERTION",
    ...(sha256 === undefined ? {} : { checksums: [{ algorithm: "SHA256", checksumValue: sha256 }] }),
    externalRefs: [{ referenceCategory: "PACKAGE-MANAGER", referenceType: "purl", referenceLocator: purl }],
  }));
  const root = {
    SPDXID: "SPDXRef-capsule",
    name: "capsule",
    versionInfo: version,
    downloadLocation: "NOASSERTION",
    filesAnalyzed: false,
    licenseConcluded: "NOASSERTION",
    licenseDeclared: "Apache-2.0",
    copyrightText: "NOASSERTION",
    primaryPackagePurpose: "OPERATING-SYSTEM",
  };
  const digest = createHash("sha256").update(JSON.stringify(packages)).digest("hex");
  return {
    spdxVersion: "SPDX-2.3",
    dataLicense: "CC0-1.0",
    SPDXID: "SPDXRef-DOCUMENT",
    name: `capsule-${version}`,
    documentNamespace: `https://capsule.invalid/sbom/${digest}`,
    creationInfo: { created: sourceDate.toISOString().replace(".000Z", "Z"), creators: ["Tool: capsule-make-image"] },
    packages: [root, ...packages],
    relationships: [
      { spdxElementId: "SPDXRef-DOCUMENT", relationshipType: "DESCRIBES", relatedSpdxElement: root.SPDXID },
      ...packages.map(({ SPDXID }) => ({
        spdxElementId: root.SPDXID,
        relationshipType: "CONTAINS",
        relatedSpdxElement: SPDXID,
      })),
    ],
  };
}

async function debianComponents(): Promise<Component[]> {
  const list: DebianPackage[] = [];
  for (const tree of [await buildRootfs(), await buildTools()])
    for (const one of await readJson<DebianPackage[]>(join(tree, packageListPath)))
      if (!list.some(({ name, version }) => name === one.name && version === one.version)) list.push(one);
  const kernels = [(await buildKernel()).source, (await fetchGuestKernel()).source].map((text) => {
    const [name = "", version = ""] = text.split(" ");
    return { name, version, architecture: debianArchitecture, source: "linux" };
  });
  return [...list, ...kernels].map(({ name, version, architecture, source }) => ({
    id: `deb:${name}`,
    name,
    version,
    purl: `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}&distro=${suite}&upstream=${source}`,
  }));
}

const debianArchitecture = process.arch === "arm64" ? "arm64" : "amd64";

/** What esbuild took into a bundle of the capsule, and the program that runs it. */
async function npmComponents(): Promise<Component[]> {
  const { packages } = await readJson<{ packages: Record<string, { version?: string; license?: string }> }>(
    join(repositoryRoot, "package-lock.json"),
  );
  const { inputs } = await readJson<{ inputs: Record<string, unknown> }>(join(buildDir, "bundle/capsuled.meta.json"));
  const paths = new Set(Object.keys(inputs).flatMap((path) => packageDirOf(path) ?? []));
  paths.add(`node_modules/node-linux-${process.arch}`);
  return [...paths].sort().flatMap((path) => {
    const found = packages[path];
    if (found?.version === undefined) return [];
    const name = path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length);
    const { version, license } = found;
    const purl = `pkg:npm/${name.replace("@", "%40")}@${version}`;
    return [{ id: `npm:${path}`, name, version, purl, ...(license === undefined ? {} : { license }) }];
  });
}

/** `node_modules/@scope/name` or `node_modules/name`, of a file in it; undefined for our own. */
function packageDirOf(path: string): string | undefined {
  return /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
}

async function crateComponents(): Promise<Component[]> {
  const lock = await readFile(join(repositoryRoot, "native/Cargo.lock"), "utf8");
  // Ours have no source. Crates for building only are among the others: Cargo.lock does not tell them apart.
  const entry = /\[\[package\]\]\nname = "([^"]+)"\nversion = "([^"]+)"\nsource = /g;
  return [...lock.matchAll(entry)].map(([, name = "", version = ""]) => ({
    id: `crate:${name}-${version}`,
    name,
    version,
    purl: `pkg:cargo/${name}@${version}`,
  }));
}

/** Which release it is of, its digest tells (SHA256SUMS of the release): nothing is run to ask it. */
export async function firecrackerComponents(file?: string): Promise<Component[]> {
  const program = await firecrackerProgram(file);
  if (program === undefined) return [];
  const { sha256 } = program;
  const purl = `pkg:generic/firecracker?checksum=sha256:${sha256}`;
  return [
    { id: "file:firecracker", name: "firecracker", version: `sha256:${sha256}`, purl, license: "Apache-2.0", sha256 },
  ];
}

/** Letters, digits, "." and "-" only. */
function spdxId(id: string): string {
  return `SPDXRef-${id.replace(/[^A-Za-z0-9.]+/g, "-")}`;
}

async function readJson<T>(path: string): Promise<T> {
  return JSON.parse(await readFile(path, "utf8")) as T;
}
