import { ListPoolsResponseSchema, type Pool } from "@capsule/api";
import type { Globals } from "../globals.ts";
import { bytes, type Column, print, printDone } from "../output.ts";
import { withCapsule } from "../session.ts";
import { numberOption } from "../size.ts";

const columns: Column<Pool>[] = [
  { title: "NAME", value: ({ name }) => name },
  { title: "BACKEND", value: ({ backend }) => backend },
  { title: "SIZE", value: ({ sizeBytes }) => bytes(sizeBytes), right: true },
  { title: "USED", value: ({ usedBytes }) => bytes(usedBytes), right: true },
  { title: "PROMISED", value: ({ promisedBytes }) => bytes(promisedBytes), right: true },
  { title: "OVERCOMMIT", value: ({ overcommitPercent }) => `${overcommitPercent}%`, right: true },
  {
    title: "METADATA",
    value: ({ metadataPermille }) => `${(metadataPermille / 10).toFixed(1)}%`,
    wide: true,
    right: true,
  },
  { title: "MESSAGE", value: ({ message }) => message },
];

export async function list({ capsule: chosen, format }: Globals): Promise<void> {
  await withCapsule(chosen, async ({ pools }) => {
    const response = await pools.listPools({});
    await print(format, ListPoolsResponseSchema, response, response.pools, columns);
  });
}

export async function set(
  { capsule: chosen, format }: Globals,
  name: string,
  { overcommit }: { overcommit: string },
): Promise<void> {
  const overcommitPercent = numberOption("--overcommit", overcommit.replace(/%$/, ""));
  await withCapsule(chosen, async ({ pools }) => {
    await pools.setPool({ name, overcommitPercent });
    await printDone(format, [{ kind: "pool", name, action: "set" }]);
  });
}
