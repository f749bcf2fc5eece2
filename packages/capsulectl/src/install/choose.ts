/** Which disk is meant, and whether that may be. Pure. */
import { DiskContents, type InstallTarget } from "@capsule/api";
import { CliError, exitCode } from "../errors.ts";

type Target = Pick<InstallTarget, "path" | "contents" | "description" | "obstacle" | "confirmation">;

/** The one of that path or name; without, the only one on which nothing would be lost. Throws CliError. */
export function chooseTarget<T extends Target>(targets: readonly T[], wanted: string | undefined): T {
  if (wanted !== undefined) {
    const found = targets.find(({ path }) => path === wanted || path === `/dev/${wanted}`);
    if (found !== undefined) return found;
    throw new CliError(`The machine has no disk ${wanted}.`, exitCode.notFound);
  }
  const usable = targets.filter(({ obstacle }) => obstacle === "");
  const free = usable.filter(({ confirmation }) => confirmation === "");
  const [only, another] = free;
  if (only !== undefined && another === undefined) return only;
  if (only !== undefined)
    throw new CliError(
      `There are ${free.length} blank disks: name one by --disk (${free.map(({ path }) => path).join(", ")}).`,
      exitCode.usage,
    );
  if (usable.length === 0) throw new CliError("The machine has no disk that can be installed to; the table says why.");
  throw new CliError(
    `No disk is blank. If what is on one may be lost, name it by --disk (${usable.map(({ path }) => path).join(", ")}).`,
    exitCode.usage,
  );
}

/** Throws CliError for one that the installer would refuse, before anybody is asked anything. */
export function checkTarget({ path, contents, obstacle }: Target, reinstall: boolean): void {
  if (obstacle !== "") throw new CliError(`${path} cannot be installed to: ${obstacle}.`);
  if (contents === DiskContents.CAPSULE && !reinstall)
    throw new CliError(
      `${path} holds a capsule, which would be lost with its workloads and volumes. Give --reinstall if that is meant.`,
    );
}
