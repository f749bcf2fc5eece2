/** MachineService: how the machine itself is set up. */
import { create } from "@bufbuild/protobuf";
import { type Duration, durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { ApplyResult_Action, type MachineService, MachineSpecSchema } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import type { MachineDocument, Pending } from "../machine/document.ts";
import type { StorageStatus } from "../storage/substrate/status.ts";

const defaultConfirmMs = 60_000;
const minConfirmMs = 10_000;
const maxConfirmMs = 10 * 60_000;

export function machineService({
  document,
  storage,
  hostname,
}: {
  readonly document: MachineDocument;
  readonly storage: StorageStatus;
  readonly hostname: () => string;
}): ServiceImpl<typeof MachineService> {
  return {
    async getMachine() {
      const { spec, generation, pending, reverted, faults } = document.view();
      return {
        spec,
        generation: BigInt(generation),
        faults: [...faults],
        ...(pending === undefined ? {} : { pending: messageOf(pending) }),
        ...(reverted === undefined
          ? {}
          : {
              reverted: {
                generation: BigInt(reverted.generation),
                reason: reverted.reason,
                time: timestampFromDate(reverted.time),
              },
            }),
      };
    },
    async applyMachine({ machine, dryRun, expectedGeneration, confirmWithin }) {
      if (storage.state === "degraded" && !dryRun) {
        const message = `Nothing can be kept: ${storage.message}`;
        throw new CapsuleError("precondition", message, { reason: "STORAGE_DEGRADED" });
      }
      const { changes, generation, pending } = await document.apply({
        spec: machine ?? create(MachineSpecSchema),
        dryRun,
        expectedGeneration: Number(expectedGeneration),
        confirmWithinMs: confirmWithinMs(confirmWithin),
      });
      const action = changes.length === 0 ? ApplyResult_Action.UNCHANGED : ApplyResult_Action.UPDATED;
      return {
        result: {
          kind: "machine",
          name: machine === undefined || machine.hostname === "" ? hostname() : machine.hostname,
          action,
          changes: changes.map((change) => ({ ...change })),
          generation: BigInt(generation),
        },
        ...(pending === undefined ? {} : { pending: messageOf(pending) }),
      };
    },
    async confirmMachine({ generation }) {
      return { generation: BigInt(await document.confirm(Number(generation))) };
    },
    async revertMachine() {
      return { generation: BigInt(await document.revert()) };
    },
  };
}

function confirmWithinMs(given: Duration | undefined): number {
  const ms = given === undefined ? defaultConfirmMs : durationMs(given);
  if (ms >= minConfirmMs && ms <= maxConfirmMs) return ms;
  const description = "10 seconds to 10 minutes are possible";
  throw new CapsuleError("invalid", `confirmWithin: ${description}.`, {
    violations: [{ path: "confirmWithin", description }],
  });
}

function messageOf({ deadline, inForce }: Pending) {
  return { deadline: timestampFromDate(deadline), inForce };
}
