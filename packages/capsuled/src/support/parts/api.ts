/** What the API tells of the capsule's objects, as capsulectl shows it with `-o json`, without what is secret in it. */
import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import {
  GetInfoResponseSchema,
  GetMachineResponseSchema,
  GetUpdateStatusResponseSchema,
  ListAuditResponseSchema,
  ListImagesResponseSchema,
  ListKeysResponseSchema,
  ListPoolsResponseSchema,
  ListRegistriesResponseSchema,
  ListSnapshotsResponseSchema,
  ListVolumesResponseSchema,
  ListWorkloadsResponseSchema,
} from "@capsule/api";
import type { Clients } from "@capsule/api/clients.ts";
import type { Part, PartList } from "../part.ts";
import { machineWithoutSecrets, registryWithoutSecrets, specWithoutSecrets } from "../secrets.ts";

const auditEntries = 1_000;
/** What is asked of containerd and LVM takes long on a busy machine. */
const timeoutMs = 30_000;
const largeBytes = 8 * 1024 ** 2;

/** `api`: the capsule's own, asked from within. `hasSlots`: there are updates to tell of. */
export function apiParts(api: Clients, hasSlots: boolean): (Part | PartList)[] {
  return [
    messagePart("capsule.json", GetInfoResponseSchema, () => api.capsule.getInfo({})),
    messagePart("workloads.json", ListWorkloadsResponseSchema, async () => {
      const answer = await api.workloads.listWorkloads({});
      for (const workload of answer.workloads)
        if (workload.spec !== undefined) workload.spec = specWithoutSecrets(workload.spec);
      return answer;
    }),
    messagePart("pools.json", ListPoolsResponseSchema, () => api.pools.listPools({})),
    messagePart("volumes.json", ListVolumesResponseSchema, () => api.volumes.listVolumes({})),
    {
      name: "snapshots",
      list: async () =>
        (await api.volumes.listVolumes({})).volumes.map(({ spec }) =>
          messagePart(`snapshots/${spec?.name}.json`, ListSnapshotsResponseSchema, () =>
            api.volumes.listSnapshots({ volume: spec?.name ?? "" }),
          ),
        ),
    },
    messagePart("images.json", ListImagesResponseSchema, () => api.images.listImages({})),
    messagePart("registries.json", ListRegistriesResponseSchema, async () => {
      const answer = await api.images.listRegistries({});
      answer.registries = answer.registries.map(registryWithoutSecrets);
      return answer;
    }),
    messagePart("machine.json", GetMachineResponseSchema, async () => {
      const answer = await api.machine.getMachine({});
      if (answer.spec !== undefined) answer.spec = machineWithoutSecrets(answer.spec);
      return answer;
    }),
    messagePart("keys.json", ListKeysResponseSchema, () => api.identity.listKeys({})),
    messagePart("audit.json", ListAuditResponseSchema, () => api.identity.listAudit({ limit: auditEntries })),
    ...(hasSlots
      ? [messagePart("update.json", GetUpdateStatusResponseSchema, () => api.updates.getUpdateStatus({}))]
      : []),
    { name: "metrics.txt", limitBytes: largeBytes, collect: async () => (await api.capsule.getMetrics({})).text },
  ];
}

function messagePart<D extends DescMessage>(name: string, schema: D, ask: () => Promise<MessageShape<D>>): Part {
  return {
    name,
    limitBytes: largeBytes,
    timeoutMs,
    collect: async () => `${JSON.stringify(toJson(schema, await ask(), { alwaysEmitImplicit: true }), undefined, 2)}\n`,
  };
}
