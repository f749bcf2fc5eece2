import { create } from "@bufbuild/protobuf";
import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Phase, type WorkloadStats, WorkloadStatsSchema } from "@capsule/api";
import type { RuntimeDriver } from "../runtime/driver.ts";
import type { Store } from "../store/store.ts";

/** Samples the resource use of workloads; knows the sample before, for rates. One for each reader. */
export class StatsSampler {
  readonly #store: Store;
  readonly #driver: RuntimeDriver;
  readonly #before = new Map<string, { readonly cpuNanos: bigint; readonly at: number }>();

  constructor(store: Store, driver: RuntimeDriver) {
    this.#store = store;
    this.#driver = driver;
  }

  /** Of the named workloads, or all; only those that run. */
  async sample(names: readonly string[]): Promise<WorkloadStats[]> {
    const wanted = new Set(names);
    const running = this.#store.workloads
      .list()
      .filter(({ name, status }) => status.phase === Phase.RUNNING && (wanted.size === 0 || wanted.has(name)));
    const samples = await Promise.all(running.map(({ name, uid }) => this.#sampleOne(name, uid)));
    return samples.filter((one) => one !== undefined);
  }

  async #sampleOne(name: string, uid: string): Promise<WorkloadStats | undefined> {
    const stats = await this.#driver.stats(uid);
    if (stats === undefined) return undefined;
    const at = performance.now();
    const before = this.#before.get(uid);
    this.#before.set(uid, { cpuNanos: stats.cpuNanos, at });
    // Nanoseconds per millisecond are thousandths of a processor times 1,000. A restart begins again at zero.
    const used = before === undefined ? 0 : Number(stats.cpuNanos - before.cpuNanos);
    const cpuMillis = before === undefined || used < 0 ? 0 : Math.round(used / 1_000 / (at - before.at));
    return create(WorkloadStatsSchema, { ...stats, name, time: timestampFromDate(new Date()), cpuMillis });
  }
}
