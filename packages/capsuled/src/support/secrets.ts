/** The secrets that a capsule is told: left out of what is shown of its objects, and looked for in everything else. */
import { clone } from "@bufbuild/protobuf";
import {
  type MachineSpec,
  MachineSpecSchema,
  type Registry,
  RegistrySchema,
  type WorkloadSpec,
  WorkloadSpecSchema,
} from "@capsule/api";
import type { Store } from "../store/store.ts";
import { KnownValues } from "./known-values.ts";
import { argumentsWithoutSecrets, isNameOfSecret, mark, withoutLooksOfSecrets } from "./patterns.ts";

/** Takes secrets out of a text: those that the capsule knows, and what looks like one. */
export type Scrub = (text: string) => string;

export function scrubOf(store: Store): Scrub {
  const known = new KnownValues(secretsOf(store));
  return (text) => withoutLooksOfSecrets(known.scrub(text));
}

/** What an operator wrote that may be a secret. */
export function secretsOf(store: Pick<Store, "workloads" | "registries">): string[] {
  const ofWorkloads = store.workloads.list().flatMap(({ spec }) => {
    const run = spec.kind.value;
    if (run === undefined) return [];
    const headers = run.probes.flatMap(({ check }) => (check.case === "http" ? check.value.headers : []));
    return [
      ...[...run.env, ...headers].flatMap(({ name, value }) =>
        isNameOfSecret(name) || !isPlain(value) ? [value] : [],
      ),
      ...wordsLeftOut(run.command),
      ...wordsLeftOut(run.args),
      ...(spec.kind.case === "microVm" ? wordsLeftOut(spec.kind.value.kernelArgs.split(" ")) : []),
    ];
  });
  const ofRegistries = store.registries
    .list()
    .flatMap(({ username, password }) =>
      password === "" ? [] : [password, Buffer.from(`${username}:${password}`).toString("base64")],
    );
  return [...ofWorkloads, ...ofRegistries];
}

/** Words, numbers and paths are in every log: they are no secret unless their name says so. */
function isPlain(value: string): boolean {
  return /^(?:[a-z]{0,14}|[0-9.:,]*|(?:\/[\w.-]+)*\/?)$/i.test(value);
}

/** A process may show an argument without the option before it that tells what it is. */
function wordsLeftOut(args: readonly string[]): string[] {
  const shown = argumentsWithoutSecrets(args);
  return args.flatMap((arg, i) => {
    if (shown[i] === arg) return [];
    return shown[i] === mark ? [arg] : differenceOf(arg, shown[i] ?? "");
  });
}

/** What stands in `text` where `shown` has marks. */
function differenceOf(text: string, shown: string): string[] {
  const kept = shown.split(mark);
  const found: string[] = [];
  let at = 0;
  for (const [i, part] of kept.entries()) {
    const start = part === "" && i === kept.length - 1 ? text.length : text.indexOf(part, at);
    if (i > 0 && start > at) found.push(text.slice(at, start).replace(/^["']|["']$/g, ""));
    at = start + part.length;
  }
  return found;
}

/** A spec with the names of its environment and without the values. */
export function specWithoutSecrets(spec: WorkloadSpec): WorkloadSpec {
  const shown = clone(WorkloadSpecSchema, spec);
  const run = shown.kind.value;
  if (run === undefined) return shown;
  const headers = run.probes.flatMap(({ check }) => (check.case === "http" ? check.value.headers : []));
  for (const one of [...run.env, ...headers]) if (one.value !== "") one.value = mark;
  run.command = argumentsWithoutSecrets(run.command);
  run.args = argumentsWithoutSecrets(run.args);
  for (const { check } of run.probes)
    if (check.case === "exec") check.value.command = argumentsWithoutSecrets(check.value.command);
  if (shown.kind.case === "microVm") shown.kind.value.kernelArgs = withoutLooksOfSecrets(shown.kind.value.kernelArgs);
  return shown;
}

/** A machine's document without who logs in to its registries. */
export function machineWithoutSecrets(spec: MachineSpec): MachineSpec {
  const shown = clone(MachineSpecSchema, spec);
  for (const registry of shown.registries) {
    if (registry.username !== "") registry.username = mark;
    delete registry.password;
  }
  return shown;
}

/** A registry without who logs in. Passwords are in no message of the API. */
export function registryWithoutSecrets(registry: Registry): Registry {
  const shown = clone(RegistrySchema, registry);
  if (shown.username !== "") shown.username = mark;
  return shown;
}
