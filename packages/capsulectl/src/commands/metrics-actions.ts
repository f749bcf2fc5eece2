/** A capsule's metrics: printed, or served to a Prometheus on this machine, for which every call needs a key and a token. */
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { BlockList, isIP } from "node:net";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { note } from "../output.ts";
import { type Capsule, withCapsule } from "../session.ts";

export async function metrics({ capsule: chosen }: Globals, { listen }: { listen?: string }): Promise<void> {
  const ask = async () => await withCapsule(chosen, async ({ capsule }: Capsule) => await capsule.getMetrics({}));
  if (listen === undefined) {
    process.stdout.write((await ask()).text);
    return;
  }
  const { host, port } = loopback(listen);
  const answer = async (response: ServerResponse): Promise<void> => {
    try {
      const { text, contentType } = await ask();
      response.writeHead(200, { "content-type": contentType }).end(text);
    } catch (error) {
      const { message } = error as Error;
      note(message);
      response.writeHead(502, { "content-type": "text/plain; charset=utf-8" }).end(`${message}\n`);
    }
  };
  const server = createServer((request, response) => {
    const { method, url = "" } = request;
    if (new URL(url, "http://localhost").pathname !== "/metrics")
      response.writeHead(404).end("only /metrics is here\n");
    else if (method !== "GET" && method !== "HEAD") response.writeHead(405, { allow: "GET, HEAD" }).end();
    else void answer(response);
  });
  server.listen(port, host);
  await once(server, "listening").catch((error: Error) => {
    throw new CliError(`${listen} cannot be listened on: ${error.message}`);
  });
  const bound = server.address();
  note(`http://${host.includes(":") ? `[${host}]` : host}:${typeof bound === "object" ? bound?.port : port}/metrics`);
  // Until a signal ends it.
  await once(server, "close");
}

/** Throws CliError for another address than one of this machine's own: whoever reaches it needs no key. */
function loopback(text: string): { host: string; port: number } {
  const [, host = "", port = ""] = /^\[?([^\]]*?)\]?:([0-9]{1,5})$/.exec(text) ?? [];
  const own = new BlockList();
  own.addSubnet("127.0.0.0", 8);
  own.addAddress("::1", "ipv6");
  const family = isIP(host);
  if (family === 0 || Number(port) > 65_535 || !own.check(host, family === 4 ? "ipv4" : "ipv6")) {
    throw new CliError(
      `--listen ${text}: an address of loopback and a port are needed, such as 127.0.0.1:9101. Whoever reaches it needs no key.`,
      exitCode.usage,
    );
  }
  return { host, port: Number(port) };
}
