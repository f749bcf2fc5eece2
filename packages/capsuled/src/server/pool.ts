/** PoolService: where volumes lie. */
import { create } from "@bufbuild/protobuf";
import { type Pool, PoolSchema, type PoolService } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import type { PoolFacts, PoolWatch } from "../storage/pool/watch.ts";

export function poolService(watch: PoolWatch): ServiceImpl<typeof PoolService> {
  return {
    async listPools() {
      return { pools: (await watch.read()).map(messageOfPool) };
    },
    async setPool({ name, overcommitPercent }) {
      watch.setOvercommit(name, overcommitPercent);
      const changed = (await watch.read()).find((pool) => pool.name === name);
      return changed === undefined ? {} : { pool: messageOfPool(changed) };
    },
  };
}

export function messageOfPool({ name, backend, usage, promisedBytes, overcommitPercent, message }: PoolFacts): Pool {
  return create(PoolSchema, {
    name,
    backend,
    sizeBytes: BigInt(usage?.sizeBytes ?? 0),
    usedBytes: BigInt(usage?.usedBytes ?? 0),
    metadataPermille: Math.round((usage?.metadataRatio ?? 0) * 1000),
    promisedBytes: BigInt(promisedBytes),
    overcommitPercent,
    message,
  });
}
