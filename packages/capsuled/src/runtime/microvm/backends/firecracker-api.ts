/** Firecracker's API: HTTP with JSON over a Unix socket (src/firecracker/swagger/firecracker.yaml in its sources). */
import { type IncomingMessage, request } from "node:http";

/** More than it has to say; what comes from a monitor is not trusted. In bytes. */
const maxAnswer = 64 * 1024;

/** One request, on a connection of its own; returns what it answered. Throws with Firecracker's own words. */
export async function firecracker(
  socketPath: string,
  method: "GET" | "PUT" | "PATCH",
  path: string,
  body?: Readonly<Record<string, unknown>>,
): Promise<unknown> {
  const text = body === undefined ? "" : JSON.stringify(body);
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const sent = request({
      socketPath,
      method,
      path,
      agent: false,
      headers: {
        accept: "application/json",
        ...(body === undefined
          ? {}
          : { "content-type": "application/json", "content-length": Buffer.byteLength(text) }),
      },
    });
    sent.once("response", resolve);
    sent.once("error", reject);
    sent.end(text);
  });
  const answer = await textOf(response);
  const status = response.statusCode ?? 0;
  if (status < 200 || status > 299) throw new Error(`Firecracker, ${method} ${path}: ${faultOf(answer, status)}`);
  return answer === "" ? undefined : JSON.parse(answer);
}

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxAnswer) throw new Error(`Firecracker answers with more than ${maxAnswer} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function faultOf(answer: string, status: number): string {
  try {
    const { fault_message } = JSON.parse(answer) as { fault_message?: unknown };
    if (typeof fault_message === "string") return fault_message;
  } catch {
    // What is no JSON is told as it is.
  }
  return answer === "" ? `status ${status}` : answer.slice(0, 500);
}
