/** What a document of the machine changes, field by field. Passwords are compared and not shown. Pure. */
import { clone, toJson } from "@bufbuild/protobuf";
import { BondMode, type MachineSpec, MachineSpecSchema } from "@capsule/api";
import { canonicalAddress, parseCidr } from "../network/links/cidr.ts";
import { type Change, diffJson } from "../workload/diff.ts";

/** `passwordOf`: the one that is kept for a registry; empty for none. Empty when they mean the same. */
export function diffMachines(before: MachineSpec, after: MachineSpec, passwordOf: (host: string) => string): Change[] {
  const [left, right] = [before, after].map(canonicalMachine);
  for (const registry of left?.registries ?? []) mark(registry, passwordOf(registry.host), passwordOf(registry.host));
  for (const registry of right?.registries ?? []) {
    const kept = passwordOf(registry.host);
    mark(registry, registry.password ?? kept, kept);
  }
  return diffJson(toJson(MachineSpecSchema, left ?? before), toJson(MachineSpecSchema, right ?? after));
}

/** Whether two documents have different links. */
export function changesLinks(changes: readonly Change[]): boolean {
  return changes.some(({ path }) => path.startsWith("links"));
}

function mark(registry: MachineSpec["registries"][number], password: string, kept: string): void {
  if (password === "") delete registry.password;
  else registry.password = password === kept ? "(set)" : "(another)";
}

/** With one spelling for what means the same. */
export function canonicalMachine(spec: MachineSpec): MachineSpec {
  const copy = clone(MachineSpecSchema, spec);
  for (const link of copy.links) {
    link.addresses = link.addresses.map((text) => parseCidr(text)?.text ?? text);
    link.gateway = canonicalAddress(link.gateway) ?? link.gateway;
    link.gateway6 = canonicalAddress(link.gateway6) ?? link.gateway6;
    if (link.acceptRa === link.dhcp) delete link.acceptRa;
    if (link.match !== undefined) link.match.mac = link.match.mac.toLowerCase();
    if (link.bond !== undefined) link.bond.mode ||= BondMode.ACTIVE_BACKUP;
  }
  if (copy.dns?.servers.length === 0 && copy.dns.search.length === 0) delete copy.dns;
  if (copy.ntp?.servers.length === 0) delete copy.ntp;
  if (copy.console !== undefined) {
    if (copy.console.showLogs === true) delete copy.console.showLogs;
    copy.console.notice = copy.console.notice.trimEnd();
    if (copy.console.notice === "" && copy.console.showLogs === undefined) delete copy.console;
  }
  const { updates } = copy;
  if (updates !== undefined && updates.autoConfirm === undefined && updates.confirmWithin === undefined)
    delete copy.updates;
  return copy;
}
