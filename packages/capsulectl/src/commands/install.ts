import type { Command } from "commander";
import { globalsOf } from "../globals.ts";
import type { InstallOptions } from "./install-actions.ts";

export function addInstallCommand(program: Command): void {
  program
    .command("install <host>")
    .description(
      "put Capsule on the disk of a machine that was started from a stick, by the address or short id that its console shows",
    )
    .option("--disk <path>", "where to, such as /dev/nvme0n1 (default: the only blank disk)")
    .option("--name <name>", "name of the context (default: the capsule's host name)")
    .option("--hostname <name>", "host name of the capsule (default: one from its network card's address)")
    .option(
      "--fingerprint <sha256>",
      "the fingerprint that the installer must have, as on its console; asks nothing then",
    )
    .option("--yes", "accept whatever fingerprint it has")
    .option("--reinstall", "the disk may hold a capsule, whose workloads and volumes are lost")
    .option(
      "--erase <serial>",
      "everything on the disk with this serial number may be lost (its name, where it has none); asked for otherwise",
    )
    .option("--no-reboot", "leave the restart to you")
    .option("--wait <duration>", "how long to wait until the capsule answers (10m; 0s: not at all)")
    .action(async (host: string, options: InstallOptions, command: Command) => {
      const { install } = await import("./install-actions.ts");
      await install(globalsOf(command), host, options);
    });
}
