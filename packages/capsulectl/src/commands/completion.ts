import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

/** `build` makes a fresh tree of all commands, to be read. */
export function addCompletionCommands(program: Command, build: () => Command): void {
  program
    .command("completion <shell>")
    .description("print what makes bash, zsh or fish complete commands, options and names")
    .action(async (shell: string) => (await import("./completion-actions.ts")).script(shell));
  program
    .command("__complete [words...]", { hidden: true })
    .passThroughOptions()
    .allowUnknownOption()
    .action(async (words: string[], _: object, command: Command) => {
      await (await import("./completion-actions.ts")).complete(globalsOf(command), build(), words);
    });
}
