/** What a command works with: the capsule that was chosen, connected when it is first needed. */
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { type Clients, clientsOf } from "@capsule/api/clients.ts";
import { type Context, parseHost, readConfig, readKey } from "./config.ts";
import { type Connection, connect, UnreachableError, useCapsuleTime } from "./connection.ts";
import { CliError, exitCode } from "./errors.ts";
import { metadataOf, reasonOf, toCliError } from "./rpc-errors.ts";

export interface Capsule extends Clients {
  readonly name: string;
  readonly host: string;
}

/** Well below what the capsule tolerates. */
const toleratedSkewMs = 4_000;

const skewed: ReadonlySet<string | undefined> = new Set(["TOKEN_EXPIRED", "TOKEN_NOT_YET_VALID"]);

/** The context that `--capsule`, $CAPSULE_HOST or the current context names. Throws CliError. */
export async function chooseContext(chosen: string | undefined): Promise<{ name: string; context: Context }> {
  const config = await readConfig();
  const wanted = chosen ?? nonEmpty(process.env["CAPSULE_HOST"]) ?? config.current;
  if (wanted === undefined) {
    throw new CliError(
      "No capsule is chosen: adopt one by `capsulectl adopt HOST`, or name one by --capsule.",
      exitCode.usage,
    );
  }
  if (wanted.includes(",")) {
    throw new CliError("Several capsules at once are not possible in this version: name one.", exitCode.usage);
  }
  const byName = config.contexts[wanted];
  if (byName !== undefined) return { name: wanted, context: byName };
  const isHost = /[.:]/.test(wanted);
  const host = isHost ? parseHost(wanted) : undefined;
  const byHost = Object.entries(config.contexts).find(([, context]) => context.host === host);
  if (byHost !== undefined) return { name: byHost[0], context: byHost[1] };
  const known = Object.keys(config.contexts).join(", ");
  throw new CliError(
    `"${wanted}" is no capsule that you know${known === "" ? "" : ` (you know ${known})`}. Adopt it by \`capsulectl adopt ${wanted}\`.`,
    exitCode.notFound,
  );
}

/**
 * Runs `work` with the chosen capsule; its RPC errors become errors for people. `follows`: one that does not answer where it
 * was is looked for.
 */
export async function withCapsule<T>(
  chosen: string | undefined,
  work: (capsule: Capsule) => Promise<T>,
  { follows = true }: { readonly follows?: boolean } = {},
): Promise<T> {
  const { name, context } = await chooseContext(chosen);
  let { host } = context;
  const attempt = async (): Promise<T> => {
    const connection = await reach(name, { ...context, host }, follows);
    host = connection.host;
    connection.authenticate(context.capsuleId);
    try {
      return await work(capsuleOf(name, connection));
    } finally {
      connection.close();
    }
  };
  try {
    return await attempt().catch((error: unknown) => {
      // The gate refuses before anything is done, so the call may be made again.
      const time = metadataOf(error)["time"];
      if (!skewed.has(reasonOf(error)) || time === undefined) throw error;
      useCapsuleTime(new Date(time));
      return attempt();
    });
  } catch (error) {
    throw toCliError(error, host);
  }
}

/**
 * Connects to the capsule of a context; where it is now, when it does not answer where it was. The pinned key decides who it
 * is, at any address. Throws CliError.
 */
async function reach(name: string, context: Context, follows: boolean): Promise<Connection> {
  const { host, fingerprint } = context;
  try {
    return await connect({ host, key: readKey(), fingerprint });
  } catch (error) {
    if (!follows || !(error instanceof UnreachableError)) throw error;
    const { followMoved } = await import("./discovery/follow.ts");
    const moved = await followMoved(name, context);
    if (moved === undefined) throw error;
    return await connect({ host: moved, key: readKey(), fingerprint });
  }
}

/** Makes tokens fit the capsule's clock, before a call that could not be made twice. */
export async function followClock(identity: Capsule["identity"]): Promise<void> {
  followTime((await identity.getIdentity({})).time);
}

/** Makes tokens fit the clock that the capsule told: one of the two may be wrong. */
export function followTime(time: Timestamp | undefined, follow: (time: Date) => void = useCapsuleTime): void {
  if (time !== undefined && Math.abs(timestampDate(time).getTime() - Date.now()) > toleratedSkewMs)
    follow(timestampDate(time));
}

export function capsuleOf(name: string, connection: Connection): Capsule {
  return { name, host: connection.host, ...clientsOf((service) => connection.client(service)) };
}

function nonEmpty(text: string | undefined): string | undefined {
  return text === "" ? undefined : text;
}
