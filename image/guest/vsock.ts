/**
 * vhost-device-vsock (rust-vmm's): the vsock of a QEMU machine whose other end is a Unix socket. Debian has no package of
 * it, so it is built from its crate, at the versions of the lock file that its authors have published with it.
 */
import { homedir } from "node:os";
import { join } from "node:path";
import { cached } from "../cached.ts";
import { buildDir, cacheDir } from "../paths.ts";
import { run } from "../run.ts";

export const vsockCrate = { name: "vhost-device-vsock", version: "0.3.0" } as const;

/** Ensures that it is in the cache; the first time takes some minutes. */
export async function buildVsock(): Promise<string> {
  const { name, version } = vsockCrate;
  const target = join(cacheDir, `${name}-${version}`);
  return await cached(target, async (scratch) => {
    const places = ["--root", join(scratch, "made"), "--target-dir", join(scratch, "target")];
    const cargoHome = process.env["CARGO_HOME"] ?? join(homedir(), ".cargo");
    await run(["cargo", "install", name, "--version", `=${version}`, "--locked", "--quiet", ...places], {
      logFile: join(buildDir, "log/vsock.log"),
      // Where this machine keeps its crates must not be in the program: the same source gives the same bytes elsewhere.
      env: { CARGO_PROFILE_RELEASE_STRIP: "true", RUSTFLAGS: `--remap-path-prefix=${cargoHome}=/cargo` },
    });
    return join(scratch, "made/bin", name);
  });
}

if (import.meta.main) console.log(await buildVsock());
