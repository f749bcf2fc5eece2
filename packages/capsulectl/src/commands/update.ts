import type { Command } from "commander";
import { globalsOf } from "../globals.ts";

const actions = () => import("./update-actions.ts");

/** Below `capsule`: the machine's own versions. */
export function addUpdateCommands(capsule: Command): void {
  const update = capsule.command("update").description("versions of the system itself: two slots, one runs");
  update
    .command("push <bundle>")
    .description(
      "send a signed bundle (build/update.tar) to the slot that does not run, and restart into it on trial; a push that was broken goes on",
    )
    .option("--auto-confirm <duration>", "keep the version when it was healthy for so long, such as 2m")
    .option(
      "--confirm-within <duration>",
      "roll back when it was not confirmed so long after its start, 1m to 25m (15m)",
    )
    .option("--allow-downgrade", "take a bundle of an older epoch too, whose known holes are open again")
    .option("--no-reboot", "leave the restart to you: it is tried with the next one")
    .action(async (bundle: string, options: object, command: Command) =>
      (await actions()).push(globalsOf(command), bundle, options),
    );
  update
    .command("status")
    .description("what is in the slots, what is on trial and until when, how the last update ended")
    .action(async (_: object, command: Command) => (await actions()).status(globalsOf(command)));
  update
    .command("confirm")
    .description("keep the version that is on trial; refused while it is not healthy")
    .action(async (_: object, command: Command) => (await actions()).confirm(globalsOf(command)));
  update
    .command("rollback")
    .description(
      "go back: from a trial to the version before, else to the one in the other slot, which is on trial then",
    )
    .option("--yes", "do not ask")
    .action(async (options: { yes?: boolean }, command: Command) =>
      (await actions()).rollback(globalsOf(command), options),
    );
}
