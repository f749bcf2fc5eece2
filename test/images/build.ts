/** Builds the images of the tests and examples from Debian's static busybox: `node test/images/build.ts`. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { downloadPackages, extractPackage, suite } from "../../image/apt.ts";
import { buildDir, cacheDir } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import { programLayer } from "./debian.ts";
import { type ImageSpec, writeImage } from "./image.ts";
import type { TarEntry } from "./tar.ts";

const page = "<!doctype html><title>Capsule</title><h1>Hello from a container in a capsule</h1>\n";

/** Debian's static busybox of the same release as the capsule, and the names of its tools. */
export async function busybox(): Promise<{ program: Buffer; tools: string[] }> {
  const [deb] = await downloadPackages(["busybox-static"], join(cacheDir, "debs"));
  if (deb === undefined) throw new Error(`busybox-static of ${suite} was not downloaded`);
  const scratch = join(cacheDir, `.busybox-${process.pid}`);
  try {
    await extractPackage(deb, scratch);
    const path = join(scratch, "usr/bin/busybox");
    const tools = (await run([path, "--list"])).split("\n").filter((name) => name !== "" && name !== "busybox");
    return { program: await readFile(path), tools };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** A root filesystem of it: a shell, its tools, two users. */
export function baseLayer(program: Buffer, tools: readonly string[]): TarEntry[] {
  const directories = ["bin", "etc", "tmp", "www"].map(
    (path): TarEntry => ({ path, type: "directory", mode: path === "tmp" ? 0o1777 : 0o755 }),
  );
  const text = (path: string, content: string): TarEntry => ({ path, type: "file", data: Buffer.from(content) });
  return [
    ...directories,
    { path: "bin/busybox", type: "file", mode: 0o755, data: program },
    ...tools.map((name): TarEntry => ({ path: `bin/${name}`, type: "symlink", target: "busybox" })),
    text("etc/passwd", "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n"),
    text("etc/group", "root:x:0:\nweb:x:1000:\n"),
  ];
}

/** The images by file name. `bare` has one program and neither shell nor tar. */
export async function testImages(): Promise<Map<string, ImageSpec>> {
  const { program, tools } = await busybox();
  const base = baseLayer(program, tools);
  const env = ["PATH=/bin"];
  return new Map<string, ImageSpec>([
    ["busybox", { name: "busybox:1", layers: [base], config: { Cmd: ["sh"], Env: env } }],
    [
      "hello",
      {
        name: "hello:1",
        layers: [base, [{ path: "www/index.html", type: "file", data: Buffer.from(page) }]],
        config: {
          Entrypoint: ["httpd", "-f", "-h", "/www"],
          Cmd: ["-p", "8080"],
          Env: env,
          User: "web",
          WorkingDir: "/www",
          ExposedPorts: { "8080/tcp": {} },
        },
      },
    ],
    [
      "sqlite",
      {
        name: "sqlite:1",
        layers: [base, await programLayer("sqlite3", "usr/bin/sqlite3")],
        config: { Cmd: ["sh"], Env: env },
      },
    ],
    // busybox does what its name says, and `sleep` is the only name that it has here.
    [
      "bare",
      {
        name: "bare:1",
        layers: [[{ path: "sleep", type: "file", mode: 0o755, data: program }]],
        config: { Entrypoint: ["/sleep"], Cmd: ["86400"] },
      },
    ],
  ]);
}

/** Builds all of them to build/images/NAME.tar and returns the paths by name. */
export async function buildImages(): Promise<Map<string, string>> {
  const paths = new Map<string, string>();
  for (const [name, image] of await testImages()) {
    const path = join(buildDir, "images", `${name}.tar`);
    await writeImage(image, path);
    paths.set(name, path);
  }
  return paths;
}

if (import.meta.main) for (const path of (await buildImages()).values()) console.log(path);
