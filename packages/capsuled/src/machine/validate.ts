/**
 * Whether a machine can be set up as its document says. Pure; finds every fault at once, each with its path in the manifest.
 * What this capsule cannot do truly is refused, and why: a setting that is silently ignored would be worse.
 */
import { isIP } from "node:net";
import { type Duration, durationMs } from "@bufbuild/protobuf/wkt";
import type { MachineConsole, MachineSpec } from "@capsule/api";
import type { FieldViolation } from "../errors.ts";
import { hostnameFault } from "../system/machine.ts";
import { limitFaults } from "../update/limits.ts";
import { clip, Faults } from "../workload/faults.ts";
import { registryFaults } from "./registry-faults.ts";
import { type LinkFacts, validateLinks } from "./validate-links.ts";

/** A name of DNS, also with underscores, or a single label. */
const DOMAIN =
  /^(?=.{1,253}$)[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*$/;
/** As many as the C library's resolver takes (resolv.conf(5)). */
const maxServers = 3;
const maxDomains = 6;
const maxTimeServers = 8;
const maxRegistries = 64;
const maxCertificate = 64 * 1024;
const maxNoticeLines = 5;
/** What the banner has of a terminal's 80. */
const maxNoticeColumns = 78;

export interface MachineFacts extends LinkFacts {
  /** Its clock and its console are its host's. */
  readonly isNamespace: boolean;
}

/** Every fault of a document; empty when there is none. Paths begin with `machine.`. */
export function validateMachine(spec: MachineSpec, facts: MachineFacts): FieldViolation[] {
  const faults = new Faults("machine");
  const { hostname, links, dns, ntp, registries, console, updates } = spec;
  const wrongName = hostname === "" ? undefined : hostnameFault(hostname);
  if (wrongName !== undefined) faults.add(faults.at("hostname"), wrongName);
  validateLinks(links, facts, faults);
  if (dns !== undefined) {
    list(dns.servers, maxServers, "dns.servers", faults, (text) =>
      isIP(text) === 0 || text.includes("%") ? `"${clip(text)}" is no address` : undefined,
    );
    list(dns.search, maxDomains, "dns.search", faults, domainFault);
  }
  if (ntp !== undefined && facts.isNamespace && ntp.servers.length > 0)
    faults.add(faults.at("ntp"), "the clock of a capsule in a namespace is its host's: set it there");
  if (ntp !== undefined)
    list(ntp.servers, maxTimeServers, "ntp.servers", faults, (text) =>
      isIP(text) !== 0 && !text.includes("%") ? undefined : domainFault(text),
    );
  if (registries.length > maxRegistries)
    faults.add(faults.at("registries"), `${registries.length} registries; at most ${maxRegistries} are taken`);
  for (const [i, registry] of registries.slice(0, maxRegistries).entries()) {
    const at = faults.at(`registries[${i}]`);
    for (const { path, description } of registryFaults(registry, at)) faults.add(path, description);
    if (registry.caCertificate.length > maxCertificate) faults.add(`${at}.caCertificate`, "at most 64 KiB are taken");
    const first = registries.findIndex(({ host }) => host === registry.host);
    if (first !== i)
      faults.add(`${at}.host`, `registry "${clip(registry.host)}" is there already, as registries[${first}]`);
  }
  if (console !== undefined) validateConsole(console, facts, faults);
  if (updates !== undefined) {
    for (const { path, description } of limitFaults(msOf(updates.autoConfirm), msOf(updates.confirmWithin)))
      faults.add(faults.at(`updates.${path}`), description);
  }
  return faults.found;
}

function validateConsole({ notice, showLogs }: MachineConsole, { isNamespace }: MachineFacts, faults: Faults): void {
  if (isNamespace && (notice !== "" || showLogs !== undefined))
    faults.add(faults.at("console"), "a capsule in a namespace has no console");
  const lines = notice.trimEnd().split("\n");
  if (lines.length > maxNoticeLines || lines.some((line) => line.length > maxNoticeColumns))
    faults.add(
      faults.at("console.notice"),
      `at most ${maxNoticeLines} lines of ${maxNoticeColumns} characters are taken`,
    );
  if (/[^\P{C}\n]/u.test(notice)) faults.add(faults.at("console.notice"), "a character of it cannot be shown");
}

function list(
  texts: readonly string[],
  most: number,
  path: string,
  faults: Faults,
  faultOf: (text: string) => string | undefined,
): void {
  if (texts.length > most) faults.add(faults.at(path), `${texts.length} are given; at most ${most} are taken`);
  for (const [i, text] of texts.slice(0, most).entries()) {
    const fault = faultOf(text);
    if (fault !== undefined) faults.add(faults.at(`${path}[${i}]`), fault);
  }
}

function domainFault(text: string): string | undefined {
  return DOMAIN.test(text) ? undefined : `"${clip(text)}" is no name such as lan.example`;
}

function msOf(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : durationMs(duration);
}
