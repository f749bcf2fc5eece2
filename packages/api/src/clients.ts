/** A client of each service, by the name that callers have for it. */
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

export type Clients = Readonly<ReturnType<typeof clientsOf>>;

/** `client` makes the one of a service. */
export function clientsOf(client: <S extends DescService>(service: S) => Client<S>) {
  return {
    identity: client(IdentityService),
    capsule: client(CapsuleService),
    workloads: client(WorkloadService),
    volumes: client(VolumeService),
    machine: client(MachineService),
    pools: client(PoolService),
    images: client(ImageService),
    updates: client(UpdateService),
    install: client(InstallService),
  };
}
