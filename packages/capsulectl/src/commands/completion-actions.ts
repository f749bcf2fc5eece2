import type { Command } from "commander";
import { readConfig } from "../config.ts";
import { CliError, exitCode } from "../errors.ts";
import type { Globals } from "../globals.ts";
import { type Capsule, withCapsule } from "../session.ts";

/** Each shell asks `capsulectl __complete -- WORDS…`, the last being the one that is typed. */
const scripts: Readonly<Record<string, string>> = {
  bash: `_capsulectl() {
  local IFS=$'\\n'
  COMPREPLY=($(capsulectl __complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [ \${#COMPREPLY[@]} -gt 0 ] || compopt -o default
}
complete -F _capsulectl capsulectl
`,
  zsh: `#compdef capsulectl
_capsulectl() {
  local -a found
  found=("\${(@f)$(capsulectl __complete -- "\${words[@]:1:$((CURRENT - 1))}" 2>/dev/null)}")
  if [[ -n "$found" ]]; then compadd -- $found; else _files; fi
}
compdef _capsulectl capsulectl
`,
  fish: `complete -c capsulectl -a '(set -l words (commandline -opc) (commandline -ct); capsulectl __complete -- $words[2..] 2>/dev/null)'
`,
};

export function script(shell: string): void {
  const text = scripts[shell];
  if (text === undefined) throw new CliError(`"${shell}" is none of bash, zsh and fish`, exitCode.usage);
  process.stdout.write(text);
}

/** Prints what the last word may become, a line each. */
export async function complete(globals: Globals, program: Command, words: string[]): Promise<void> {
  const typed = words[0] === "--" ? words.slice(1) : words;
  const last = typed.at(-1) ?? "";
  const found = await candidates(globals, program, typed.slice(0, -1), last);
  const matching = found.filter((word) => word.startsWith(last));
  if (matching.length > 0) process.stdout.write(`${matching.join("\n")}\n`);
}

async function candidates(
  globals: Globals,
  program: Command,
  before: readonly string[],
  last: string,
): Promise<string[]> {
  let command = program;
  let capsule = globals.capsule;
  const rest: string[] = [];
  for (let i = 0; i < before.length; i++) {
    const word = before[i] ?? "";
    if (word === "--capsule") capsule = before[++i] ?? capsule;
    else if (word.startsWith("-")) {
      if (takesValue(program, command, word)) i++;
    } else {
      const sub = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
      if (sub !== undefined && rest.length === 0) command = sub;
      else rest.push(word);
    }
  }
  const previous = before.at(-1);
  if (previous === "-o" || previous === "--output") return ["table", "wide", "json", "yaml"];
  if (previous === "--capsule") return Object.keys((await readConfig()).contexts);
  // A file, a number: nothing that the capsule knows.
  if (previous !== undefined && takesValue(program, command, previous)) return [];
  if (last.startsWith("-")) {
    return [...command.options, ...program.options].flatMap(({ long, short }) =>
      [long, short].filter((one) => one !== undefined),
    );
  }
  const subs = command.commands.filter((one) => !one.name().startsWith("__")).map((one) => one.name());
  if (subs.length > 0) return subs;
  return await names({ ...globals, capsule }, command, rest);
}

/** Whether the word after this option is its value. */
function takesValue(program: Command, command: Command, word: string): boolean {
  const option = [...command.options, ...program.options].find(({ short, long }) => word === short || word === long);
  return option?.required === true;
}

/** Names for the argument at this place; nothing when the capsule does not answer. */
async function names({ capsule: chosen }: Globals, command: Command, given: readonly string[]): Promise<string[]> {
  const position = given.length;
  const argument = command.registeredArguments[position] ?? command.registeredArguments.at(-1);
  const group = command.parent?.name();
  if (argument === undefined) return [];
  if (group === "context") return Object.keys((await readConfig()).contexts);
  if (command.name() === "completion") return Object.keys(scripts);
  try {
    const ask = async ({ workloads, volumes, pools, images, identity }: Capsule): Promise<string[]> => {
      if (command.name() === "cp")
        return (await workloads.listWorkloads({})).workloads.map(({ spec }) => `${spec?.name ?? ""}:/`);
      if (group === "workload")
        return (await workloads.listWorkloads({})).workloads.map(({ spec }) => spec?.name ?? "");
      if (group === "volume" && position > 0 && ["restore", "delete-snapshot"].includes(command.name()))
        return (await volumes.listSnapshots({ volume: given[0] ?? "" })).snapshots.map(({ name }) => name);
      if (group === "volume" && ["create", "import"].includes(command.name())) return [];
      if (group === "volume" && position > 0 && command.name() === "export") return [];
      if (group === "volume") return (await volumes.listVolumes({})).volumes.map(({ spec }) => spec?.name ?? "");
      if (group === "pool") return (await pools.listPools({})).pools.map(({ name }) => name);
      if (group === "image" && command.name() === "remove")
        return (await images.listImages({})).images.flatMap((image) => image.names);
      if (group === "registry") return (await images.listRegistries({})).registries.map(({ host }) => host);
      if (group === "key") return (await identity.listKeys({})).keys.map(({ name }) => name);
      return [];
    };
    // Who presses Tab does not want to wait for a capsule that is not there.
    return await withCapsule(chosen, ask, { follows: false });
  } catch {
    return [];
  }
}
