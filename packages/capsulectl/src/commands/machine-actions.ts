import { toJson } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import {
  ConfirmMachineResponseSchema,
  type GetMachineResponse,
  GetMachineResponseSchema,
  type MachineSpec,
  MachineSpecSchema,
  RevertMachineResponseSchema,
} from "@capsule/api";
import type { Globals } from "../globals.ts";
import { printJson, printMessage, say, span } from "../output.ts";
import { withCapsule } from "../session.ts";

export async function get({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ machine }) => {
    const answer = await machine.getMachine({});
    if (format === "json") return await printMessage(format, GetMachineResponseSchema, answer);
    const manifest = manifestOf(answer.spec);
    if (format === "yaml") return await printJson(format, manifest);
    for (const line of stateOf(answer)) say(line);
    await printJson("yaml", manifest);
  });
}

export async function confirm({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ machine }) => {
    const answer = await machine.confirmMachine({});
    if (format === "json" || format === "yaml") return await printMessage(format, ConfirmMachineResponseSchema, answer);
    say(`generation ${answer.generation} is kept`);
  });
}

export async function revert({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ machine }) => {
    const answer = await machine.revertMachine({});
    if (format === "json" || format === "yaml") return await printMessage(format, RevertMachineResponseSchema, answer);
    say(`generation ${answer.generation} is taken back`);
  });
}

/** As it is applied. */
function manifestOf(spec: MachineSpec | undefined): object {
  return { kind: "Machine", ...(spec === undefined ? {} : (toJson(MachineSpecSchema, spec) as object)) };
}

/** Comments above the manifest: all that is printed is one. */
function stateOf({ generation, pending, reverted, faults }: GetMachineResponse): string[] {
  const left = pending?.deadline === undefined ? 0 : timestampDate(pending.deadline).getTime() - Date.now();
  return [
    `# generation ${generation}`,
    ...(pending === undefined ? [] : [`# waits for its confirmation, for ${span(left)} more`]),
    ...(reverted === undefined ? [] : [`# generation ${reverted.generation} was taken back: ${reverted.reason}`]),
    ...faults.map((fault) => `# fault: ${fault}`),
  ];
}
