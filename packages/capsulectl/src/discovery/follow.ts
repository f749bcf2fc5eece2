/** Contexts follow their capsules: by DHCP an address changes, and the capsule is the same. */
import { isIPv4 } from "node:net";
import { type Context, updateConfig } from "../config.ts";
import { note } from "../output.ts";
import { findMoved } from "./find.ts";

/**
 * Where the capsule of a context answers now, HOST:PORT, which the context then has; undefined when it is not found on the
 * networks of this machine. Throws CliError when the context cannot be written.
 */
export async function followMoved(name: string, context: Context): Promise<string | undefined> {
  if (!canMove(context.host)) return undefined;
  const found = await findMoved(context);
  if (found === undefined || found.endpoint === context.host) return undefined;
  const host = found.endpoint;
  await updateConfig((config) => {
    const now = config.contexts[name];
    // Another capsulectl may have followed it, or removed it.
    if (now?.capsuleId !== context.capsuleId || now.fingerprint !== context.fingerprint) return config;
    return { ...config, contexts: { ...config.contexts, [name]: { ...now, host } } };
  });
  note(
    `"${name}" answers at ${host} now (it was at ${context.host}): its key is the pinned one, and the context is updated.`,
  );
  return host;
}

/** What is reached by this machine's own loopback is a tunnel or a forwarded port: it does not move with the capsule. */
export function canMove(host: string): boolean {
  const name = host.slice(0, host.lastIndexOf(":")).replace(/^\[|\]$/g, "");
  return name !== "localhost" && name !== "::1" && !(isIPv4(name) && name.startsWith("127."));
}
