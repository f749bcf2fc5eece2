#!/usr/bin/env node
/** capsulectl: the commands, each of whose work is loaded when it is called. */
import { Command, CommanderError } from "commander";
import { addApplyCommands } from "./commands/apply.ts";
import { addCapsuleCommands } from "./commands/capsule.ts";
import { addCompletionCommands } from "./commands/completion.ts";
import { addContextCommands } from "./commands/context.ts";
import { addCopyCommand } from "./commands/copy.ts";
import { addDashboardCommand } from "./commands/dashboard.ts";
import { addDiscoverCommand } from "./commands/discover.ts";
import { addImageCommands } from "./commands/image.ts";
import { addInstallCommand } from "./commands/install.ts";
import { addKeyCommands } from "./commands/key.ts";
import { addMachineCommands } from "./commands/machine.ts";
import { addPoolCommands } from "./commands/pool.ts";
import { addVolumeCommands } from "./commands/volume.ts";
import { addWorkloadCommands } from "./commands/workload.ts";
import { CliError, exitCode, QuietExit } from "./errors.ts";
import { addGlobals } from "./globals.ts";
import { note } from "./output.ts";

/** All commands, without running any: completion and the reference read them too. */
export function buildProgram(): Command {
  const program = new Command("capsulectl")
    .description("Drives capsules: machines that run containers under one declarative API.")
    .option(
      "--capsule <name>",
      "the capsule to talk to: a context or HOST:PORT (default: $CAPSULE_HOST, else the current context)",
    )
    .option("-o, --output <format>", "table (the default), wide, json or yaml")
    .helpOption("-h, --help", "explain a command")
    .helpCommand(false)
    .showSuggestionAfterError()
    .enablePositionalOptions()
    .exitOverride();
  addContextCommands(program);
  addDiscoverCommand(program);
  addInstallCommand(program);
  addApplyCommands(program);
  addWorkloadCommands(program);
  addCopyCommand(program);
  addVolumeCommands(program);
  addPoolCommands(program);
  addImageCommands(program);
  addCapsuleCommands(program);
  addMachineCommands(program);
  addDashboardCommand(program);
  addKeyCommands(program);
  addCompletionCommands(program, buildProgram);
  addGlobals(program);
  return program;
}

async function main(): Promise<number> {
  // `capsulectl … | head` ends when head has enough.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    process.exit(error.code === "EPIPE" ? exitCode.done : exitCode.failed);
  });
  try {
    await buildProgram().parseAsync();
    return exitCode.done;
  } catch (error) {
    if (error instanceof QuietExit) return error.exitCode;
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCode.done : exitCode.usage;
    note(`capsulectl: ${error instanceof Error ? error.message : String(error)}`);
    if (process.env["CAPSULE_DEBUG"] !== undefined) console.error(error);
    return error instanceof CliError ? error.exitCode : exitCode.failed;
  }
}

if (process.env["CAPSULE_NO_MAIN"] === undefined) {
  // Node ends with 0 when nothing is left to wait for, a call that never settles included.
  process.once("beforeExit", () => {
    if (process.exitCode !== undefined) return;
    note(
      "capsulectl: no answer came, and none can come: whether the capsule has done it is not known. This is a fault of capsulectl.",
    );
    process.exitCode = exitCode.failed;
  });
  // What is written to a pipe is not sent yet: the exit code is set, and the program ends when it has been.
  main().then((code) => {
    process.exitCode = code;
  });
}
