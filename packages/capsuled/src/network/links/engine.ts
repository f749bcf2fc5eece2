/**
 * Makes the links of the capsule those of a document, and keeps them so: run again at any time, in any state, it does what is
 * missing. One run at a time is the caller's to see to.
 */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { MachineLink } from "@capsule/api";
import type { Logger } from "pino";
import { CapsuleError, type FieldViolation } from "../../errors.ts";
import { runTool, ToolError } from "../../tool.ts";
import { familyOf } from "./cidr.ts";
import type { DhcpClients } from "./dhcp.ts";
import { observeLinks } from "./observe.ts";
import { emptyBaseline, nothingOwned, type Owned, planLinks, presentBaseline, type Step } from "./plan.ts";
import { wantedLinks } from "./wanted.ts";

export interface LinkEngineOptions {
  /** Links there have their makers' addresses, which they get back; on a machine the default is DHCP. */
  readonly isNamespace: boolean;
  readonly dhcp: DhcpClients;
  readonly log: Logger;
  /** Default /run/capsule/machine. */
  readonly dir?: string;
}

export class LinkEngine {
  readonly #isNamespace: boolean;
  readonly #dhcp: DhcpClients;
  readonly #log: Logger;
  readonly #dir: string;

  constructor({ isNamespace, dhcp, log, dir = "/run/capsule/machine" }: LinkEngineOptions) {
    this.#isNamespace = isNamespace;
    this.#dhcp = dhcp;
    this.#log = log;
    this.#dir = dir;
  }

  /**
   * Makes it so; without links, the default. Answers with what is missing for it, such as a link that is not there. Throws
   * CapsuleError when the kernel refuses a step: those before it are done.
   */
  async converge(links: readonly MachineLink[]): Promise<readonly string[]> {
    const owned = await this.#owned(links.length > 0);
    if (links.length === 0 && isNothing(owned)) {
      await this.#dhcp.useDefault();
      return [];
    }
    const { links: wanted, faults } = wantedLinks(links, await observeLinks());
    const leased = wanted.filter(({ dhcp }) => dhcp).map(({ name }) => name);
    // A client puts back what is taken from its link; it goes first.
    await this.#dhcp.stopAllBut(leased, links.length > 0);
    const observed = await observeLinks();
    const baselineOf = this.#isNamespace ? presentBaseline : emptyBaseline;
    const { steps, during, after } = planLinks(wanted, owned, observed, baselineOf);
    if (steps.length > 0 || JSON.stringify(after) !== JSON.stringify(owned)) {
      await this.#keep(during);
      for (const group of groupsOf(steps)) await this.#carryOut(group);
      await this.#keep(after);
      this.#log.info({ steps: steps.map(describe) }, "the links were changed");
    }
    if (links.length > 0) await this.#dhcp.forgetDefaultLink();
    if (links.length === 0) await this.#dhcp.useDefault();
    else await this.#dhcp.start(leased);
    return faults;
  }

  /** What a document is refused for that only this capsule can tell; paths are below the links. Throws ToolError. */
  async refusals(links: readonly MachineLink[]): Promise<FieldViolation[]> {
    const observed = await observeLinks();
    const { links: wanted } = wantedLinks(links, observed);
    const named = new Set(wanted.map(({ name }) => name));
    const violations: FieldViolation[] = [];
    // On a machine the default's link is let go of.
    const others = this.#isNamespace ? observed.filter(({ name }) => !named.has(name)) : [];
    for (const [i, { gateway, gateway6 }] of links.entries()) {
      for (const [field, address] of Object.entries({ gateway, gateway6 })) {
        const other = others.find(({ defaults }) =>
          defaults.some(({ family }) => address !== "" && family === familyOf(address)),
        );
        if (other === undefined) continue;
        const description = `link "${other.name}", which is not in the document, is the way out: name it there too, without its gateway`;
        violations.push({ path: `[${i}].${field}`, description });
      }
    }
    for (const kind of ["vlan", "bond"] as const) {
      const i = links.findIndex((link) => link[kind] !== undefined);
      if (i >= 0 && !(await canMake(kind)))
        violations.push({
          path: `[${i}].${kind}`,
          description: `the kernel of this capsule can make no ${names[kind]}`,
        });
    }
    return violations;
  }

  /** Leaves everything as it is; whether the next boot has links of its own. */
  async remember(hasLinks: boolean): Promise<void> {
    await this.#dhcp.remember(hasLinks);
  }

  /** `takesOver`: the link of the default's lease is ours with the first document. */
  async #owned(takesOver: boolean): Promise<Owned> {
    const text = await readFile(join(this.#dir, "links.json"), "utf8").catch(() => undefined);
    const owned = text === undefined ? nothingOwned : (JSON.parse(text) as Owned);
    const uplink = takesOver ? await this.#dhcp.defaultLink() : undefined;
    if (uplink === undefined || owned.taken[uplink] !== undefined) return owned;
    const link = (await observeLinks()).find(({ name }) => name === uplink);
    return link === undefined ? owned : { ...owned, taken: { ...owned.taken, [uplink]: emptyBaseline(link) } };
  }

  async #keep(owned: Owned): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o755 });
    const path = join(this.#dir, "links.json");
    await writeFile(`${path}.new`, JSON.stringify(owned));
    await rename(`${path}.new`, path);
  }

  async #carryOut(steps: readonly Step[]): Promise<void> {
    const [first] = steps;
    if (first?.kind === "setting") {
      // A kernel without IPv6 has none of these.
      await writeFile(first.path, first.value).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== "ENOENT") throw error;
      });
      return;
    }
    const lines = steps.flatMap((step) => (step.kind === "ip" ? [step.line] : []));
    try {
      await runTool(["ip", "-batch", "-"], `${lines.join("\n")}\n`);
    } catch (error) {
      if (!(error instanceof ToolError)) throw error;
      this.#log.error({ stderr: error.stderr.slice(0, 4_000), lines }, error.message);
      throw refusal(error, lines);
    }
  }
}

const names = { vlan: "VLAN", bond: "bond" };

/** Tried in a network namespace that goes with the trial: the kernel loads its module, if it has one. */
async function canMake(kind: "vlan" | "bond"): Promise<boolean> {
  const trial = {
    vlan: "ip link add name below type veth peer name other && ip link add link below name trial type vlan id 1",
    bond: "ip link add name trial type bond",
  };
  try {
    await runTool(["unshare", "--net", "--", "sh", "-c", trial[kind]]);
    return true;
  } catch (error) {
    // ip/iplink.c
    if (error instanceof ToolError && error.stderr.includes("Unknown device type")) return false;
    throw error;
  }
}

/** iproute2 says "Command failed -:LINE" (ip/ip.c, batch mode), and before it the kernel's or its own reason. */
export function refusal(error: ToolError, lines: readonly string[]): CapsuleError {
  const line = lines[Number(/Command failed -:([0-9]+)/.exec(error.stderr)?.[1] ?? 0) - 1];
  const reason = /^(?:RTNETLINK answers|Error): (.*?)\.?$/m.exec(error.stderr)?.[1];
  const what = line === undefined ? "a step" : `\`ip ${line}\``;
  return new CapsuleError(
    "precondition",
    `The kernel refused ${what}${reason === undefined ? "" : `: ${reason}`}. The log of capsuled has more.`,
    { cause: error, reason: "LINK_REFUSED" },
  );
}

function isNothing({ taken, made }: Owned): boolean {
  return Object.keys(taken).length === 0 && made.length === 0;
}

/** Lines that follow one another go to ip together; a setting is alone. */
function groupsOf(steps: readonly Step[]): Step[][] {
  const groups: Step[][] = [];
  for (const step of steps) {
    const last = groups.at(-1);
    if (step.kind === "ip" && last?.[0]?.kind === "ip") last.push(step);
    else groups.push([step]);
  }
  return groups;
}

function describe(step: Step): string {
  return step.kind === "ip" ? `ip ${step.line}` : `${step.path} = ${step.value}`;
}
