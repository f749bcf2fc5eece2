/** What a program prints, in bounds: it only looks, and its failure is a fact as well. */
import { spawn } from "node:child_process";
import { type Bounds, type Collected, type Part, reasonsOf } from "./part.ts";

/** Of one command, in milliseconds. One that is stuck leaves the time of the others alone. */
const commandMs = 10_000;

/** A part that is what commands print, each under a line with itself. */
export function commandPart(name: string, ...commands: readonly (readonly string[])[]): Part {
  return {
    name,
    timeoutMs: (commands.length + 1) * commandMs,
    collect: async ({ limitBytes, signal }) => {
      const texts: string[] = [];
      const faults: string[] = [];
      for (const command of commands) {
        const timeout = AbortSignal.timeout(commandMs);
        texts.push(`$ ${command.join(" ")}\n`);
        try {
          const found = await printed(command, { limitBytes, signal: AbortSignal.any([signal, timeout]) });
          texts.push(`${found.text}\n`);
          faults.push(...found.faults);
        } catch (error) {
          if (signal.aborted) throw error;
          const why = timeout.aborted ? `given up after ${commandMs} ms` : reasonsOf(error);
          faults.push(`${command.join(" ")}: ${why}`);
        }
      }
      return { text: texts.join(""), faults };
    },
  };
}

/** Standard output and errors of a command. It is ended when it has printed more than the limit, or the signal comes. */
export async function printed(
  command: readonly string[],
  { limitBytes, signal }: Bounds,
): Promise<Exclude<Collected, string>> {
  const [program = "", ...args] = command;
  const child = spawn(program, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C" },
    signal,
    killSignal: "SIGKILL",
  });
  const chunks: Buffer[] = [];
  let size = 0;
  const take = (chunk: Buffer): void => {
    // One chunk over the limit, so that whoever cuts the text sees that there is more.
    if (size > limitBytes) return;
    chunks.push(chunk);
    size += chunk.length;
    if (size > limitBytes) child.kill("SIGKILL");
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  const end = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, by) => resolve(code === 0 || size > limitBytes ? "" : `ended with ${by ?? code}`));
  });
  return { text: Buffer.concat(chunks).toString("utf8"), faults: end === "" ? [] : [`${command.join(" ")} ${end}`] };
}
