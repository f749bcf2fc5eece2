/** Support bundles of this capsule. */
import type { Clients } from "@capsule/api/clients.ts";
import { CapsuleError } from "../errors.ts";
import type { Store } from "../store/store.ts";
import type { InitStatus } from "../system/init.ts";
import { apiParts } from "./parts/api.ts";
import { logParts } from "./parts/logs.ts";
import { machineParts } from "./parts/machine.ts";
import { networkParts } from "./parts/network.ts";
import { storageParts } from "./parts/storage.ts";
import { storeParts } from "./parts/store.ts";
import { workloadParts } from "./parts/workloads.ts";
import { scrubOf } from "./secrets.ts";
import { type BundleOutput, supportBundle } from "./support-bundle.ts";

export interface SupportOptions {
  readonly store: Store;
  readonly databasePath: string;
  readonly workloadsDir: string;
  /** Its own, asked from within. */
  readonly api: Clients;
  /** It runs in namespaces of a host: it has neither slots nor disks of its own. */
  readonly isNamespace: boolean;
  initStatus(): Promise<InitStatus>;
}

const limitBytes = 96 * 1024 ** 2;
const timeoutMs = 180_000;

export class Support {
  readonly #options: SupportOptions;
  #isUnderWay = false;

  constructor(options: SupportOptions) {
    this.#options = options;
  }

  /** Throws `exhausted` while another one is made: they would only slow each other, and the capsule. */
  async *bundle(withWorkloadLogs: boolean, signal: AbortSignal): AsyncGenerator<BundleOutput> {
    if (this.#isUnderWay) {
      throw new CapsuleError("exhausted", "Another support bundle is being made. Try again when it is done.", {
        reason: "BUNDLE_UNDER_WAY",
      });
    }
    this.#isUnderWay = true;
    const { store, databasePath, workloadsDir, api, isNamespace, initStatus } = this.#options;
    try {
      const parts = [
        ...apiParts(api, !isNamespace),
        ...storeParts(store, databasePath),
        ...machineParts({ isMachine: !isNamespace, initStatus }),
        ...logParts(),
        ...storageParts(!isNamespace),
        ...networkParts(),
        ...workloadParts({ store, workloadsDir, withLogs: withWorkloadLogs }),
      ];
      yield* supportBundle({ parts, scrub: scrubOf(store), limitBytes, timeoutMs }, signal);
    } finally {
      this.#isUnderWay = false;
    }
  }
}
