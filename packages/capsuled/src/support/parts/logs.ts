/** Logs of the system's own services and of the kernel. */
import { loggedServices, systemLogDir } from "../../system/logs.ts";
import { printed } from "../command.ts";
import { newestLines } from "../lines.ts";
import type { Part, PartList } from "../part.ts";

const logBytes = 2 * 1024 ** 2;

export function logParts(): (Part | PartList)[] {
  return [
    {
      name: "logs",
      list: async () =>
        (await loggedServices()).map((service) => ({
          name: `logs/${service}.log`,
          limitBytes: logBytes,
          collect: async ({ limitBytes }) =>
            await newestLines({ dir: systemLogDir, name: `${service}.log` }, limitBytes),
        })),
    },
    // Smaller than the kernel's ring buffer is made: none of it is cut.
    { name: "logs/kernel.log", limitBytes: 4 * 1024 ** 2, collect: async (bounds) => await printed(["dmesg"], bounds) },
  ];
}
