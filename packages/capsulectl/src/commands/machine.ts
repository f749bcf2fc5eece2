import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./machine-actions.ts");

export function addMachineCommands(program: Command): void {
  const machine = program
    .command("machine")
    .description("how the machine is set up: one document, `kind: Machine` (docs/machine.md)");
  machine
    .command("get")
    .description("show its document; with -o yaml it can be applied again (passwords are kept, and not shown)")
    .action(async (_: object, command: Command) => (await actions()).get(globalsOf(command)));
  machine
    .command("confirm")
    .description("keep the document that waits for it because it changed links")
    .action(async (_: object, command: Command) => (await actions()).confirm(globalsOf(command)));
  machine
    .command("revert")
    .description("take that document back now, as the capsule does by itself when its time is over")
    .action(async (_: object, command: Command) => (await actions()).revert(globalsOf(command)));
}
