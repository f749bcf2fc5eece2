import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { mayCrash } from "./crash-point.ts";
import { CapsuleError } from "./errors.ts";

/** How long a tool may take unless told, in milliseconds: rules of 4,000 workloads load in well under this. */
const TIMEOUT_MS = 30_000;

/** A tool that ended with an error. `stderr` is for the log and for the wrapper that knows the tool's words. */
export class ToolError extends CapsuleError {
  readonly stderr: string;
  readonly stdout: string;
  /** Its exit code; undefined when it was killed or could not be started. */
  readonly code: number | undefined;

  constructor(
    tool: string,
    result: string,
    output: Partial<Pick<ToolError, "stderr" | "stdout" | "code">>,
    cause?: unknown,
  ) {
    super("internal", `${tool} ${result}; the log of capsuled has its output`, { cause, reason: "TOOL_FAILED" });
    this.stderr = output.stderr ?? "";
    this.stdout = output.stdout ?? "";
    this.code = output.code;
  }
}

/** Runs a command with `input` as its standard input and returns its standard output. Throws ToolError. */
export async function runTool(command: readonly string[], input = "", timeoutMs = TIMEOUT_MS): Promise<string> {
  const [tool = "", ...args] = command;
  const child = spawn(tool, args, { timeout: timeoutMs, killSignal: "SIGKILL", env: { ...process.env, LC_ALL: "C" } });
  const exit = new Promise<{ code: number | undefined; signal: string | null }>((resolve, reject) => {
    child.once("error", (error) => reject(new ToolError(tool, "could not be started", {}, error)));
    child.once("close", (code, signal) => resolve({ code: code ?? undefined, signal }));
  });
  // It may end without having read all: its exit code tells more than EPIPE.
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const [{ code, signal }, stdout, stderr] = await Promise.all([exit, text(child.stdout), text(child.stderr)]);
  mayCrash();
  if (code === 0) return stdout;
  throw new ToolError(command.join(" "), `ended with ${signal ?? `code ${code}`}`, { stderr, stdout, code });
}
