// Generates what the build needs from .proto files: the API's messages and services, and containerd's.
// Nothing of it is committed. Run by `npm run generate`; does nothing when the inputs have not changed.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cacheDir } from "../image/paths.ts";

const root = join(import.meta.dirname, "..");
const bin = join(root, "node_modules/.bin");

interface Generation {
  readonly name: string;
  /** Folder with the .proto files. */
  readonly input: string;
  readonly output: string;
  readonly template: string;
}

const generations: readonly Generation[] = [
  {
    name: "api",
    input: join(root, "proto"),
    output: join(root, "packages/api/src/gen"),
    template: join(root, "proto/buf.gen.yaml"),
  },
  {
    name: "containerd",
    input: stageContainerd(),
    output: join(root, "packages/capsuled/src/gen/containerd"),
    template: join(root, "scripts/buf.gen.containerd.yaml"),
  },
];

for (const generation of generations) generate(generation);

/**
 * Gathers the part of containerd's .proto files that the driver uses, with the one message of Google's that they import
 * and Debian does not ship beside them.
 */
function stageContainerd(): string {
  const source = join(cacheDir, "containerd-protos/github.com/containerd/containerd");
  if (!existsSync(source)) throw new Error(`${source} is missing: run \`make deps\` first`);
  const stage = join(root, "build/cache/containerd-api");
  rmSync(stage, { recursive: true, force: true });
  for (const part of ["api/types", "api/services", "api/events", "runtime/v2/runc/options"]) {
    cpSync(join(source, part), join(stage, "github.com/containerd/containerd", part), { recursive: true });
  }
  cpSync(join(root, "proto/google/rpc/status.proto"), join(stage, "google/rpc/status.proto"));
  return stage;
}

function generate({ name, input, output, template }: Generation): void {
  const stamp = join(root, "build/cache", `generated-${name}`);
  const digest = digestOf([
    template,
    ...globSync("**/*.proto", { cwd: input })
      .sort()
      .map((path) => join(input, path)),
  ]);
  if (existsSync(output) && existsSync(stamp) && readFileSync(stamp, "utf8") === digest) return;
  execFileSync(join(bin, "buf"), ["generate", input, "--template", template, "-o", output], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, PATH: `${bin}:${process.env["PATH"] ?? ""}` },
  });
  mkdirSync(join(root, "build/cache"), { recursive: true });
  writeFileSync(stamp, digest);
}

function digestOf(files: readonly string[]): string {
  const hash = createHash("sha256");
  for (const file of files) hash.update(file).update(readFileSync(file));
  return hash.digest("hex");
}
