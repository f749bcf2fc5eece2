/** UpdateService: the system's own versions. */
import { create } from "@bufbuild/protobuf";
import { type Duration, durationFromMs, durationMs, timestampFromDate, timestampFromMs } from "@bufbuild/protobuf/wkt";
import { type MachineUpdates, type UpdateService, UpdateSlotSchema } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import { defaultConfirmWithinMs, limitFaults } from "../update/limits.ts";
import type { UpdatesOrReason } from "../update/open.ts";
import type { UpdateStatus, Updates } from "../update/updates.ts";
import { callOf } from "./call.ts";
import { splitFirst } from "./streams.ts";

export interface UpdateServiceOptions {
  /** There may be none, for a reason. */
  readonly slots: UpdatesOrReason;
  /** Since the machine was started. */
  uptimeMs(): number;
  reboot(): Promise<void>;
  /** For a push that does not say it itself. */
  defaults(): Pick<MachineUpdates, "autoConfirm" | "confirmWithin"> | undefined;
}

export function updateService({
  slots: found,
  uptimeMs,
  reboot,
  defaults,
}: UpdateServiceOptions): ServiceImpl<typeof UpdateService> {
  const slots = (): Updates => {
    if (found.updates === undefined) throw found.whyNone;
    return found.updates;
  };
  return {
    async pushUpdate(requests, context) {
      const target = slots();
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start")
        throw new CapsuleError("invalid", "The first message of the stream must be `start`.", { reason: "NO_START" });
      const { manifest, signature, sizeBytes, offset, allowDowngrade, noReboot } = first.input.value;
      const { autoConfirm = defaults()?.autoConfirm, confirmWithin = defaults()?.confirmWithin } = first.input.value;
      const data = (async function* () {
        for await (const { input } of rest) if (input.case === "data") yield input.value;
      })();
      const pending = await target.push(
        {
          head: { manifest, signature },
          sizeBytes: Number(sizeBytes),
          offset: Number(offset),
          allowDowngrade,
          ...limitsOf(autoConfirm, confirmWithin),
        },
        data,
        callOf(context).signal,
      );
      if (!noReboot) await reboot();
      return {
        version: pending.version,
        slot: pending.slot,
        reboots: !noReboot,
        ...(autoConfirm === undefined ? {} : { autoConfirm }),
      };
    },
    async getUpdateStatus() {
      return messageOf(await slots().status(), uptimeMs());
    },
    async confirmUpdate() {
      return { version: (await slots().confirm()).version };
    },
    async rollbackUpdate() {
      const result = await slots().rollback();
      if (result.reboots) await reboot();
      return result;
    },
  };
}

/** Throws `invalid`. */
export function limitsOf(
  autoConfirm: Duration | undefined,
  confirmWithin: Duration | undefined,
): { readonly autoConfirmMs: number | undefined; readonly confirmWithinMs: number } {
  const confirmWithinMs = confirmWithin === undefined ? defaultConfirmWithinMs : durationMs(confirmWithin);
  const autoConfirmMs = autoConfirm === undefined ? undefined : durationMs(autoConfirm);
  const violations = limitFaults(autoConfirmMs, confirmWithinMs);
  const [violation] = violations;
  if (violation === undefined) return { autoConfirmMs, confirmWithinMs };
  throw new CapsuleError("invalid", `${violation.path}: ${violation.description}.`, { violations });
}

function messageOf(status: UpdateStatus, uptimeMs: number) {
  const { running, choice, state, push, pending, onTrial, faults } = status;
  return {
    slots: (["a", "b"] as const).map((name) =>
      create(UpdateSlotSchema, {
        name,
        running: name === running,
        confirmed: name === choice.confirmed,
        version: state.slots[name]?.version ?? "",
        epoch: BigInt(state.slots[name]?.epoch ?? 0),
      }),
    ),
    epochFloor: BigInt(state.epochFloor),
    ...(push === undefined
      ? {}
      : {
          push: {
            bundle: push.bundle,
            version: push.version,
            receivedBytes: BigInt(push.receivedBytes),
            totalBytes: BigInt(push.totalBytes),
            active: push.active,
          },
        }),
    ...(pending === undefined
      ? {}
      : {
          trial: {
            version: pending.version,
            slot: pending.slot,
            running: onTrial,
            faults: [...faults],
            ...(onTrial ? { deadline: timestampFromMs(Date.now() + pending.confirmWithinMs - uptimeMs) } : {}),
            ...(pending.autoConfirmMs === undefined ? {} : { autoConfirm: durationFromMs(pending.autoConfirmMs) }),
          },
        }),
    ...(state.last === undefined
      ? {}
      : {
          last: {
            result: state.last.kind,
            version: state.last.version,
            reason: state.last.reason,
            time: timestampFromDate(new Date(state.last.time)),
          },
        }),
  };
}
