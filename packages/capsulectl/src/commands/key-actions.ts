import { timestampDate } from "@bufbuild/protobuf/wkt";
import { ListAuditResponseSchema, ListKeysResponseSchema, Role } from "@capsule/api";
import { keyId, rawPublicKey } from "@capsule/api/key.ts";
import { ensureKey } from "../config.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { age, note, print, printDone, say } from "../output.ts";
import { formatPublicKey, parsePublicKey } from "../public-key.ts";
import { withCapsule } from "../session.ts";

const roles: Readonly<Record<string, Role>> = { viewer: Role.VIEWER, operator: Role.OPERATOR, admin: Role.ADMIN };

export async function list({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ identity }) => {
    const response = await identity.listKeys({});
    await print(format, ListKeysResponseSchema, response, response.keys, [
      { title: "NAME", value: ({ name }) => name },
      { title: "ID", value: ({ id }) => id },
      { title: "ROLE", value: ({ role }) => (Role[role] ?? "").toLowerCase() },
      { title: "AGE", value: ({ createdAt }) => age(createdAt), right: true },
      {
        title: "LAST USED",
        value: ({ lastUsedAt }) => (lastUsedAt === undefined ? "never" : `${age(lastUsedAt)} ago`),
      },
    ]);
  });
}

export async function add(
  { capsule: chosen, format }: Globals,
  name: string,
  publicKey: string,
  roleName: string,
): Promise<void> {
  const role = roles[roleName.toLowerCase()];
  if (role === undefined)
    throw new CliError(`--role ${roleName}: one of viewer, operator and admin is needed`, exitCode.usage);
  const raw = parsePublicKey(publicKey);
  await withCapsule(chosen, async ({ identity }) => {
    const { key } = await identity.addKey({ name, role, publicKey: raw });
    await printDone(format, [{ kind: "key", name, action: `enrolled as ${roleName.toLowerCase()}, id ${key?.id}` }]);
  });
}

export async function remove({ capsule: chosen, format }: Globals, key: string): Promise<void> {
  await withCapsule(chosen, async ({ identity }) => {
    await identity.removeKey({ key });
    await printDone(format, [{ kind: "key", name: key, action: "removed" }]);
  });
}

export async function show(): Promise<void> {
  const { privateKey } = await ensureKey();
  note(`id ${keyId(privateKey)}`);
  const { createPublicKey } = await import("node:crypto");
  say(formatPublicKey(rawPublicKey(createPublicKey(privateKey))));
}

export async function audit({ capsule: chosen, format }: Globals, limitText: string): Promise<void> {
  const limit = Number(limitText);
  if (!Number.isInteger(limit) || limit < 1)
    throw new CliError(`--limit ${limitText}: a number from 1 is needed`, exitCode.usage);
  await withCapsule(chosen, async ({ identity }) => {
    const response = await identity.listAudit({ limit });
    await print(format, ListAuditResponseSchema, response, response.entries, [
      { title: "TIME", value: ({ time }) => (time === undefined ? "-" : timestampDate(time).toISOString()) },
      { title: "KEY", value: ({ keyName, keyId: id }) => keyName || id || "-" },
      { title: "METHOD", value: ({ method }) => method.slice(method.lastIndexOf(".") + 1) },
      { title: "OBJECTS", value: ({ objects }) => objects.join(", ") },
      { title: "RESULT", value: ({ result }) => result },
      { title: "FROM", value: ({ peerAddress }) => peerAddress, wide: true },
    ]);
  });
}
