/** Somebody with capsulectl: a home of their own, maybe on a network of their own. */
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { repositoryRoot } from "../../image/paths.ts";
import { Screen } from "./screen.ts";
import type { Result } from "./test-capsule.ts";

export class Operator {
  readonly #env: Readonly<Record<string, string>>;
  readonly #enter: readonly string[];

  /** `enter` is the command that runs another one on their machine. */
  constructor(home: string, enter: readonly string[] = []) {
    mkdirSync(home, { recursive: true });
    this.#env = { PATH: process.env["PATH"] ?? "", HOME: home, XDG_CONFIG_HOME: home };
    this.#enter = enter;
  }

  /** Runs capsulectl in a terminal of 160 columns. */
  onTerminal(args: readonly string[]): Screen {
    const [command = "", ...rest] = [...this.#enter, join(repositoryRoot, "capsulectl"), ...args];
    return new Screen(command, rest, { columns: 160, rows: 40, env: this.#env });
  }

  /** Runs capsulectl without a terminal. `onNote` hears all that it has said on stderr, with each word more. */
  async ctl(args: readonly string[], onNote: (text: string) => void = () => undefined): Promise<Result> {
    const [command = "", ...rest] = [...this.#enter, join(repositoryRoot, "capsulectl"), ...args];
    const child = spawn(command, rest, {
      env: this.#env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const said = { stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => {
      said.stdout += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      said.stderr += chunk.toString();
      onNote(said.stderr);
    });
    const code = await new Promise<number>((resolve) => child.once("close", (exit) => resolve(exit ?? -1)));
    return { code, ...said };
  }
}
