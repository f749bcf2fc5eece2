/** What is told of a volume: its status, and its events. */
import { create, equals } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { EventType, VolumePhase, type VolumeStatus, VolumeStatusSchema } from "@capsule/api";
import type { Store } from "../../store/store.ts";
import type { VolumeRecord } from "../../store/volumes.ts";
import type { Plan } from "./plan.ts";

export interface VolumeEvent {
  /** NORMAL when absent. */
  readonly type?: EventType;
  readonly reason: string;
  readonly message: string;
  /** Now when absent. */
  readonly time?: Date;
}

export function addEvent(store: Store, { name }: Pick<VolumeRecord, "name">, event: VolumeEvent): void {
  const { type = EventType.NORMAL, time = new Date(), reason, message } = event;
  store.events.add({ objectKind: "volume", objectName: name, type, reason, message, time });
}

/** Writes the status when it is another one; a volume that is lost or has failed is an event too. */
export function writeStatus(store: Store, record: VolumeRecord, { phase, message }: Omit<Plan, "step">): void {
  const before = record.status;
  const since = before.phase === phase && before.since !== undefined ? before.since : timestampFromDate(new Date());
  const status: VolumeStatus = create(VolumeStatusSchema, { phase, message, since });
  if (!equals(VolumeStatusSchema, before, status)) store.volumes.setStatus(record.uid, status);
  if (phase === before.phase) return;
  const reason = phase === VolumePhase.MISSING ? "Missing" : "Failed";
  if (phase === VolumePhase.MISSING || phase === VolumePhase.FAILED)
    addEvent(store, record, { type: EventType.WARNING, reason, message });
}
