/**
 * Image references as `docker pull` reads them: host, path, tag or digest; Docker Hub and "latest" when not given. The
 * grammar is that of the distribution project (https://pkg.go.dev/github.com/distribution/reference).
 */
import { CapsuleError } from "../../errors.ts";

const HOST =
  /^(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?$/;
const COMPONENT = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** The full reference. Throws CapsuleError `invalid`, saying what is wrong with it. */
export function normalizeReference(reference: string): string {
  const fail = (why: string): never => {
    const shown = reference.length > 100 ? `${reference.slice(0, 100)}…` : reference;
    throw new CapsuleError("invalid", `"${shown}" is no image reference: ${why}`, { reason: "INVALID_REFERENCE" });
  };
  if (reference === "" || reference.length > 512) return fail("1 to 512 characters are needed");
  const [named = "", digest, ...more] = reference.split("@");
  if (more.length > 0) return fail('more than one "@"');
  if (digest !== undefined && !DIGEST.test(digest)) return fail("a digest is sha256: and 64 of 0-9 and a-f");
  const slash = named.indexOf("/");
  const first = slash === -1 ? "" : named.slice(0, slash);
  // As docker: the first part is a host when it could not be a directory of Docker Hub.
  const hasHost = first.includes(".") || first.includes(":") || first === "localhost" || /[A-Z]/.test(first);
  const host = hasHost ? first : "docker.io";
  const rest = hasHost ? named.slice(slash + 1) : named;
  const colon = rest.lastIndexOf(":");
  const tag = colon === -1 ? undefined : rest.slice(colon + 1);
  const path = colon === -1 ? rest : rest.slice(0, colon);
  if (!HOST.test(host)) return fail(`"${host}" is no host`);
  if (tag !== undefined && !TAG.test(tag)) return fail(`"${tag}" is no tag`);
  for (const component of path.split("/")) {
    if (!COMPONENT.test(component))
      return fail(`"${component}" is no part of a name: lower-case letters, digits, and . _ - inside`);
  }
  const library = host === "docker.io" && !path.includes("/") ? "library/" : "";
  const suffix = digest !== undefined ? `${tag === undefined ? "" : `:${tag}`}@${digest}` : `:${tag ?? "latest"}`;
  return `${host}/${library}${path}${suffix}`;
}

/** Host, with its port, of a full reference. */
export function registryOf(reference: string): string {
  return reference.slice(0, reference.indexOf("/"));
}

/** A full reference without its host. */
export function pathOf(reference: string): string {
  return reference.slice(reference.indexOf("/") + 1);
}
