/** The services of the API, and a client of each by the name that callers have for it. */
import type { DescService } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import {
  CapsuleService,
  IdentityService,
  ImageService,
  InstallService,
  MachineService,
  PoolService,
  UpdateService,
  VolumeService,
  WorkloadService,
} from "./index.ts";

const byName = {
  identity: IdentityService,
  capsule: CapsuleService,
  workloads: WorkloadService,
  volumes: VolumeService,
  machine: MachineService,
  pools: PoolService,
  images: ImageService,
  updates: UpdateService,
  install: InstallService,
} as const;

/** All services of the API. */
export const services: readonly DescService[] = Object.values(byName);

export type Clients = { readonly [Name in keyof typeof byName]: Client<(typeof byName)[Name]> };

/** `client` makes the one of a service. */
export function clientsOf(client: <S extends DescService>(service: S) => Client<S>): Clients {
  const made = Object.entries(byName).map(([name, service]) => [name, client<DescService>(service)]);
  return Object.fromEntries(made) as Clients;
}
