import { create } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate, timestampNow } from "@bufbuild/protobuf/wkt";
import { type AuditEntry, AuditEntrySchema, type IdentityService, type Key, KeySchema, Role } from "@capsule/api";
import { keyId, publicKeyFromRaw, rawPublicKey } from "@capsule/api/key.ts";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Gate } from "../auth/gate.ts";
import { shortId } from "../auth/identity.ts";
import { CapsuleError } from "../errors.ts";
import type { AuditRecord } from "../store/audit.ts";
import type { KeyRecord } from "../store/keys.ts";
import type { Store } from "../store/store.ts";
import type { Machine } from "../system/machine.ts";
import { callOf } from "./call.ts";

const KEY_NAME = /^[\p{L}\p{N}@._ +-]{1,64}$/u;

export function identityService(options: {
  readonly capsuleId: string;
  readonly gate: Gate;
  readonly store: Store;
  readonly machine: Machine;
}): ServiceImpl<typeof IdentityService> {
  const { capsuleId, gate, store, machine } = options;
  return {
    async getIdentity() {
      const left = gate.claimSecondsLeft();
      return {
        capsuleId,
        shortId: shortId(capsuleId),
        hostname: machine.hostname(),
        version: machine.version.version,
        adopted: store.keys.list().length > 0,
        ...(left > 0 ? { claimWindow: durationFromMs(left * 1000) } : {}),
        time: timestampNow(),
        mode: machine.mode,
      };
    },
    async claim({ name }, context) {
      const { certificate } = callOf(context);
      if (certificate === undefined)
        throw new CapsuleError("internal", "a claim without a certificate passed the gate");
      const key = {
        id: certificate.keyId,
        name: checkedName(name),
        role: Role.ADMIN,
        publicKey: rawPublicKey(certificate.key),
        createdAt: new Date(),
      };
      return { key: messageOfKey(store.keys.claim(key)) };
    },
    async whoAmI(_, context) {
      const { key } = callOf(context);
      return key === undefined ? {} : { key: messageOfKey(key) };
    },
    async listKeys() {
      return { keys: store.keys.list().map(messageOfKey) };
    },
    async addKey({ name, role, publicKey }) {
      if (role !== Role.VIEWER && role !== Role.OPERATOR && role !== Role.ADMIN) {
        throw invalid("role", "one of viewer, operator and admin is needed");
      }
      let id: string;
      try {
        id = keyId(publicKeyFromRaw(publicKey));
      } catch (error) {
        throw invalid("publicKey", error instanceof Error ? error.message : String(error));
      }
      return {
        key: messageOfKey(store.keys.add({ id, name: checkedName(name), role, publicKey, createdAt: new Date() })),
      };
    },
    async removeKey({ key }) {
      store.keys.remove(key);
      return {};
    },
    async listAudit({ limit }) {
      return { entries: store.audit.newest(limit === 0 ? 100 : Math.min(limit, 10_000)).map(messageOfEntry) };
    },
  };
}

function checkedName(name: string): string {
  if (KEY_NAME.test(name)) return name;
  throw invalid("name", "1 to 64 letters, digits, spaces and @ . _ + - are needed, such as anna@laptop");
}

function invalid(path: string, description: string): CapsuleError {
  return new CapsuleError("invalid", `${path}: ${description}`, { violations: [{ path, description }] });
}

function messageOfKey(key: KeyRecord): Key {
  const { id, name, role, publicKey, createdAt, lastUsedAt } = key;
  return create(KeySchema, {
    id,
    name,
    role,
    publicKey,
    createdAt: timestampFromDate(createdAt),
    ...(lastUsedAt === undefined ? {} : { lastUsedAt: timestampFromDate(lastUsedAt) }),
  });
}

function messageOfEntry({ time, sequence, objects, ...entry }: AuditRecord): AuditEntry {
  return create(AuditEntrySchema, {
    ...entry,
    objects: [...objects],
    sequence: BigInt(sequence),
    time: timestampFromDate(time),
  });
}
