/**
 * A program in the place of a virtual machine monitor that was taken over (native/capsule-init/examples/jail-probe.rs), in the
 * jail that the monitor would have: what a backend says of its program holds for it, but for what is run.
 */
import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { repositoryRoot } from "../../image/paths.ts";
import { run } from "../../image/run.ts";
import type { Program } from "../../packages/capsuled/src/runtime/microvm/backends/backend.ts";
import type { TestCapsule } from "./test-capsule.ts";

const native = join(repositoryRoot, "native");
const example = join(native, "target/x86_64-unknown-linux-gnu/release/examples/jail-probe");
/** As the capsule and the jail see it. */
const probeDir = "/perm/probe";

/** The program that makes these attempts, one for each argument of the probe, in the place of `program`. */
export async function probeInPlaceOf(
  capsule: TestCapsule,
  program: Program,
  attempts: readonly string[],
): Promise<Program> {
  await run(["cargo", "build", "--release", "--locked", "--quiet", "--example", "jail-probe"], { cwd: native });
  const dir = join(capsule.local.perm, "probe");
  await mkdir(dir, { recursive: true });
  await copyFile(example, join(dir, "jail-probe"));
  return { ...program, readOnly: [...program.readOnly, probeDir], argv: [`${probeDir}/jail-probe`, ...attempts] };
}
