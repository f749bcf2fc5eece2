/** The machine's document with the parts of this machine that follow it. */
import { readdirSync } from "node:fs";
import type { Logger } from "pino";
import { DhcpClients } from "../network/links/dhcp.ts";
import { LinkEngine } from "../network/links/engine.ts";
import { isWorkloadLink } from "../network/names.ts";
import type { Store } from "../store/store.ts";
import { addressesNow } from "../system/discovery/change.ts";
import { initStatus, requestService } from "../system/init.ts";
import { applyHostname } from "../system/machine.ts";
import { applyClock } from "./clock.ts";
import { MachineDocument, type MachineDocumentOptions } from "./document.ts";
import { applyResolver } from "./resolver.ts";

export interface OpenMachineDocumentOptions extends Pick<MachineDocumentOptions, "changed" | "reverted"> {
  readonly store: Store;
  readonly isNamespace: boolean;
  readonly workloadSubnets: () => readonly string[];
  readonly log: Logger;
}

export function openMachineDocument(options: OpenMachineDocumentOptions): MachineDocument {
  const { store, isNamespace, workloadSubnets, changed, reverted, log } = options;
  const dhcp = new DhcpClients({
    stateOf: async (name) => (await initStatus()).services.find((service) => service.name === name)?.state,
    request: requestService,
  });
  return new MachineDocument({
    store,
    facts: () => ({ isNamespace, workloadSubnets: workloadSubnets() }),
    links: new LinkEngine({ isNamespace, dhcp, log }),
    sections: [
      { name: "hostname", apply: async ({ hostname }) => await applyHostname(hostname) },
      { name: "dns", apply: async ({ dns }) => await applyResolver(dns) },
      {
        name: "ntp",
        apply: async ({ ntp }) => {
          if (!isNamespace) await applyClock(ntp, async () => await requestService("restart", "time"));
        },
      },
    ],
    glance: () => [linkNames().join(), addressesNow(isWorkloadLink)].join(),
    changed,
    reverted,
    log,
  });
}

/** Without those of workloads, which come and go. */
function linkNames(): string[] {
  return readdirSync("/sys/class/net").filter((name) => !isWorkloadLink(name));
}
